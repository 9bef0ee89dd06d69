"""Incidents on a real disk: whole or not at all, within limits, and safe from what lies about."""

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from probe.evidence.store import FILE_LIMIT, FolderStore, Incident, MemoryStore, write

FIRST = "20261122T084958Z-8080-accept_queue_stalled"
SECOND = "20261122T085958Z-8080-round_trip_failed"
THIRD = "20261122T090958Z-9090-not_listening"
REPORT = {"report.json": b"{}", "report.txt": b"finding\n"}
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp
YEAR = 365 * 86400


def store_with(directory: Path, identity: str) -> FolderStore:
    """One incident, in a store of noon that day."""
    store = FolderStore(str(directory), wall=NOON)
    store.begin(identity)
    store.save(identity, REPORT)
    return store


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=512k", "none", str(disk))
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("no right to mount: run as root or through unshare -Urnm")
    try:
        yield disk
    finally:
        subprocess.run(("umount", str(disk)), check=True)


def raw_dump(folder: str, content: bytes) -> None:
    """What the capture's child does."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        write(descriptor, "jvm-7.txt", content)
    finally:
        os.close(descriptor)


def test_an_incident_is_kept_whole(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path))
    folder = Path(store.begin(FIRST))
    assert folder.parent == tmp_path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert store.list(9).incidents == ()  # not before it is whole

    raw_dump(str(folder), b"threads")
    incident = store.save(FIRST, REPORT)
    assert incident == Incident(FIRST, (("jvm-7.txt", 7), ("report.json", 2), ("report.txt", 8)))
    assert [path.name for path in tmp_path.iterdir()] == [FIRST]
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / FIRST).iterdir()} == {0o600}
    assert store.list(9) == ((incident,), 0)
    assert store.read(FIRST, "report.txt") == b"finding\n"
    assert store.read(FIRST, "jvm-7.txt") == b"threads"


def test_a_file_is_added_afterwards(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path))
    store.begin(FIRST)
    store.save(FIRST, REPORT)
    store.append(FIRST, "on-incident.txt", b"done")
    assert store.read(FIRST, "on-incident.txt") == b"done"


def test_the_newest_are_kept_within_the_count(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path), count=2)
    for identity in (SECOND, FIRST, THIRD):
        store.begin(identity)
        store.save(identity, REPORT)
    assert [incident.id for incident in store.list(9).incidents] == [THIRD, SECOND]


def test_the_newest_are_kept_within_the_size(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path), size=1000)
    for identity in (FIRST, SECOND):
        store.begin(identity)
        store.save(identity, {"report.txt": bytes(400)})
    store.begin(THIRD)
    store.save(THIRD, {"report.txt": bytes(5000)})
    assert [incident.id for incident in store.list(9).incidents] == [
        THIRD
    ]  # larger than the limit, and kept


def test_what_a_crash_left_is_removed(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path))
    raw_dump(store.begin(FIRST), b"half")
    store.begin(SECOND)
    store.save(SECOND, REPORT)
    (tmp_path / "accepted.json").write_text("not ours to touch")
    assert FolderStore(str(tmp_path)).clean() == ()
    assert {path.name for path in tmp_path.iterdir()} == {SECOND, "accepted.json"}


def test_an_abandoned_incident_leaves_nothing(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path))
    raw_dump(store.begin(FIRST), b"half")
    store.abandon(FIRST)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("identity", "name"),
    [
        ("..", "report.txt"),
        ("../" + FIRST, "report.txt"),
        (FIRST, "../../secret.txt"),
        (FIRST, "report.txt\n"),
        (FIRST + "\n", "report.txt"),
        (FIRST, ".hidden.txt"),
        (FIRST, "report.exe"),
        (FIRST, "nothing.txt"),
        (SECOND, "report.txt"),
        ("", ""),
    ],
)
def test_names_lead_nowhere_else(tmp_path: Path, identity: str, name: str) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    evidence = tmp_path / "evidence"
    evidence.mkdir()
    store = FolderStore(str(evidence))
    store.begin(FIRST)
    store.save(FIRST, REPORT)
    with pytest.raises(KeyError):
        store.read(identity, name)


# --- what others planted


def test_planted_links_are_not_followed(tmp_path: Path) -> None:
    treasure = tmp_path / "treasure"
    treasure.mkdir()
    (treasure / "report.txt").write_text("keep me")
    evidence = tmp_path / "evidence"
    evidence.mkdir()
    (evidence / FIRST).symlink_to(treasure)
    (evidence / f".{SECOND}").symlink_to(treasure)
    store = FolderStore(str(evidence), count=1)
    told = store.clean()
    assert sorted(told) == [
        f".{SECOND} is not a folder of ours: left alone",
        f"{FIRST} is not a folder of ours: left alone",
    ]
    assert store.list(9).incidents == ()
    with pytest.raises(KeyError):
        store.read(FIRST, "report.txt")
    with pytest.raises(FileExistsError):
        store.begin(SECOND)
    with pytest.raises(OSError, match="Not a directory"):
        store.save(SECOND, REPORT)
    store.begin(THIRD)
    store.save(THIRD, REPORT)
    assert (treasure / "report.txt").read_text() == "keep me"


def test_planted_files_in_an_incident(tmp_path: Path) -> None:
    """The application shares the directory, and our user."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    store = FolderStore(str(tmp_path / "evidence"))
    Path(store.where).mkdir()
    folder = Path(store.begin(FIRST))
    (folder / "report.txt").symlink_to(secret)
    os.mkfifo(folder / "fifo.txt")
    (folder / "link.txt").symlink_to(secret)
    incident = store.save(FIRST, REPORT)
    assert [name for name, _ in incident.files] == ["report.json", "report.txt"]
    assert secret.read_text() == "secret"
    assert store.read(FIRST, "report.txt") == b"finding\n"
    for trap in ("fifo.txt", "link.txt"):
        with pytest.raises(KeyError):
            store.read(FIRST, trap)


def test_a_finished_incident_is_never_written_over(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path))
    store.begin(FIRST)
    store.save(FIRST, REPORT)
    store.begin(FIRST)
    with pytest.raises(OSError, match="not empty"):
        store.save(FIRST, {"report.txt": b"forged"})
    assert store.read(FIRST, "report.txt") == b"finding\n"


@pytest.mark.parametrize(
    "name",
    [
        "99999999T999999Z-8080-x",
        "20260230T000000Z-8080-x",
        "00000101T000000Z-8080-x",
        "20261122T246060Z-8080-x",
        "２０２６1122T084958Z-8080-x",
        "20261122T084958Z-8080-x\n",
        "20261122T084958Z-8080-\x1b[2J",
    ],
)
def test_a_name_that_is_no_moment_is_no_incident(tmp_path: Path, name: str) -> None:
    store = store_with(tmp_path, FIRST)
    for planted in (name, f".{name}"):
        (tmp_path / planted).mkdir()
        (tmp_path / planted / "report.txt").write_text("forged")
    assert store.clean() == ()
    assert [incident.id for incident in store.list(9).incidents] == [FIRST]
    with pytest.raises(KeyError):
        store.read(name, "report.txt")


def test_times_to_come_push_nothing_out(tmp_path: Path) -> None:
    """Neither those that were planted nor, after a clock went back, those of our own."""
    for second in range(5):
        planted = tmp_path / f"20991231T23595{second}Z-8080-x"
        planted.mkdir()
        (planted / "report.txt").write_text("forged")
    store = FolderStore(str(tmp_path), count=3, wall=NOON)
    for identity in (FIRST, SECOND, THIRD):
        store.begin(identity)
        store.save(identity, REPORT)
        assert store.list(1).incidents[0].id == identity
    assert [incident.id for incident in store.list(9).incidents] == [THIRD, SECOND, FIRST]

    back = FolderStore(str(tmp_path), count=3, wall=lambda: NOON() - 10 * YEAR)
    earlier = "20161122T120000Z-8080-not_listening"
    back.begin(earlier)
    back.save(earlier, REPORT)
    assert [incident.id for incident in back.list(9).incidents] == [earlier, THIRD, SECOND]


def test_a_deep_folder_stays_where_it_is(tmp_path: Path) -> None:
    """Deeper than Python's stack, and than a path may be long."""
    deep = os.open(tmp_path, os.O_RDONLY)
    for name in (f".{SECOND}", *["d"] * 2000):
        os.mkdir(name, dir_fd=deep)
        below = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)
    store = store_with(tmp_path, FIRST)
    told = f".{SECOND} is more than a folder of our files: left alone"
    assert store.clean() == (told,)
    with pytest.raises(FileExistsError):
        store.begin(SECOND)
    assert [incident.id for incident in store.list(9).incidents] == [FIRST]
    # pytest's own removal recurses, and fails at it.
    subprocess.run(["rm", "-r", tmp_path / f".{SECOND}"], check=True)


def test_many_folders_cost_little_and_hide_nothing(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"20260101T{number // 60:04}{number % 60:02}Z-8080-x").mkdir()
        (tmp_path / f".20260101T{number // 60:04}{number % 60:02}Z-8080-x").symlink_to("/")
    store = FolderStore(str(tmp_path), count=2)
    *named, more = store.clean()
    assert (len(named), more) == (5, "2995 more are not ours: left alone")
    for identity, left in ((FIRST, 3000 + 1 - 100), (SECOND, 3000 + 2 - 200)):
        store.begin(identity)
        store.save(identity, REPORT)
        kept, older = store.list(2)
        assert kept[0].id == identity
        assert older + len(kept) == left  # so many are removed at once, and no more


def test_many_files_beside_a_report(tmp_path: Path) -> None:
    store = store_with(tmp_path, FIRST)
    for number in range(2000):
        (tmp_path / FIRST / f"a{number}.txt").touch()
    (incident,) = store.list(9).incidents
    assert len(incident.files) <= 66
    assert {"report.txt", "report.json"} <= {name for name, _ in incident.files}
    store.count = 1
    store.begin(SECOND)
    store.save(SECOND, REPORT)
    assert [incident.id for incident in store.list(9).incidents] == [SECOND, FIRST]
    assert len(list((tmp_path / FIRST).iterdir())) == 1002


def test_a_planted_size_costs_itself_alone(tmp_path: Path) -> None:
    store = store_with(tmp_path, FIRST)
    store.begin(SECOND)
    store.save(SECOND, REPORT)
    os.truncate(tmp_path / SECOND / "report.txt", 1 << 40)
    assert len(store.read(SECOND, "report.txt")) == FILE_LIMIT
    assert store.read(SECOND, "report.txt", 7) == b"finding"
    store.begin(THIRD)
    store.save(THIRD, REPORT)
    assert [incident.id for incident in store.list(9).incidents] == [THIRD, FIRST]


def test_what_stands_where_a_file_should(tmp_path: Path) -> None:
    """A folder, a device, a FIFO, a socket, and a file with another name to it."""
    store = store_with(tmp_path, FIRST)
    (tmp_path / FIRST / "folder.txt").mkdir()
    os.mkfifo(tmp_path / FIRST / "fifo.txt")
    (tmp_path / FIRST / "zero.txt").symlink_to("/dev/zero")
    with suppress(PermissionError):
        os.mknod(tmp_path / FIRST / "device.txt", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / FIRST / "on-incident.txt").hardlink_to(precious)
    (incident,) = store.list(9).incidents
    names = [name for name, _ in incident.files]
    assert names == ["on-incident.txt", "report.json", "report.txt"]
    for name in ("folder.txt", "fifo.txt", "zero.txt", "device.txt"):
        with pytest.raises(KeyError):
            store.read(FIRST, name)
    store.append(FIRST, "on-incident.txt", b"done")
    assert precious.read_text() == "precious"
    with pytest.raises(IsADirectoryError):
        store.append(FIRST, "folder.txt", b"done")


def test_a_directory_that_is_exchanged_meanwhile(tmp_path: Path) -> None:
    """The raw dumps are gone; what is saved is an error and never lands elsewhere."""
    evidence, other = tmp_path / "evidence", tmp_path / "other"
    evidence.mkdir()
    other.mkdir()
    store = FolderStore(str(evidence))
    store.begin(FIRST)
    evidence.rename(tmp_path / "moved")
    evidence.symlink_to(other)
    with pytest.raises(FileNotFoundError):
        store.save(FIRST, REPORT)
    store.abandon(FIRST)
    assert list(other.iterdir()) == []


# --- disks


def test_a_full_disk_costs_the_raw_dump_first(small_disk: Path) -> None:
    store = FolderStore(str(small_disk))
    with pytest.raises(OSError, match="No space left"):
        raw_dump(store.begin(FIRST), bytes(1 << 20))
    incident = store.save(FIRST, REPORT)
    assert [name for name, _ in incident.files] == ["report.json", "report.txt"]


def test_a_full_disk_costs_the_oldest_incident_next(small_disk: Path) -> None:
    store = FolderStore(str(small_disk))
    store.begin(FIRST)
    store.save(FIRST, {"report.txt": bytes(400 << 10)})
    store.begin(SECOND)
    store.save(SECOND, {"report.txt": bytes(200 << 10)})
    assert [incident.id for incident in store.list(9).incidents] == [SECOND]


def test_a_disk_full_of_other_things(small_disk: Path) -> None:
    store = FolderStore(str(small_disk))
    store.begin(FIRST)
    store.save(FIRST, REPORT)
    store.begin(SECOND)
    with (small_disk / "other").open("wb") as other, pytest.raises(OSError, match="No space"):
        other.write(bytes(1 << 20))
    with pytest.raises(OSError, match="No space left"):
        store.save(SECOND, {"report.txt": bytes(100 << 10)})
    store.abandon(SECOND)
    assert {path.name for path in small_disk.iterdir()} == {"other", FIRST}
    assert store.read(FIRST, "report.txt") == b"finding\n"


def test_a_read_only_disk(small_disk: Path) -> None:
    store = FolderStore(str(small_disk))
    store.begin(FIRST)
    store.save(FIRST, REPORT)
    subprocess.run(("mount", "-o", "remount,ro", str(small_disk)), check=True)
    assert store.clean() == ()
    with pytest.raises(OSError, match="Read-only"):
        store.begin(SECOND)
    assert [incident.id for incident in store.list(9).incidents] == [FIRST]


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError):
        store.begin(FIRST)


# --- without a directory


def test_memory_keeps_the_newest_within_its_limits() -> None:
    store = MemoryStore(count=2, size=100_000)
    assert store.begin(FIRST) == ""
    for identity in (FIRST, SECOND, THIRD):
        store.save(identity, REPORT)
    assert [incident.id for incident in store.list(9).incidents] == [THIRD, SECOND]
    assert store.read(SECOND, "report.txt") == b"finding\n"
    with pytest.raises(KeyError):
        store.read(FIRST, "report.txt")
    store.save(FIRST, {"report.json": os.urandom(200_000)})
    assert [incident.id for incident in store.list(9).incidents] == [FIRST]


def test_memory_is_compressed() -> None:
    store = MemoryStore()
    incident = store.save(FIRST, {"report.txt": b'"worker-7" waiting\n' * 10_000})
    store.append(FIRST, "on-incident.txt", b"done")
    assert incident.size == 190_000
    assert len(store.read(FIRST, "report.txt")) == 190_000
    assert store.bytes < 5_000
