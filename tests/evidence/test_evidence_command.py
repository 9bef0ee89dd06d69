"""`probe evidence list` and `show` as a user runs them, over a directory and over a sidecar."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from probe.evidence.store import FolderStore
from probe.kernel import KernelView
from tests.evidence.identities import become, needs_other_users
from tests.evidence.programs import queued
from tests.faults.harness import application, sidecar

OLDER = "20261122T084958Z-8080-accept_queue_stalled"
NEWER = "20261122T090958Z-9090-round_trip_failed"
REPORT = (
    "Port 8080: the thread that accepted connections has exited\n"
    "==========================================================\n"
    "\n"
    "What is seen\n"
)


FINDING = {"code": "acceptor_gone", "headline": "the thread that accepted connections has exited"}
RECORD = json.dumps({"finding": FINDING, "port": 8080}).encode()


def evidence(
    *words: str, prepare: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "probe", "evidence", *words],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        preexec_fn=prepare,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two incidents, of which the older one has a thread dump."""
    store = FolderStore(str(tmp_path))
    begun = Path(store.begin(OLDER))
    (begun / "jvm-7.txt").write_bytes(b"x" * 123_456)
    store.save(OLDER, {"report.json": RECORD, "report.txt": REPORT.encode()})
    store.begin(NEWER)
    store.save(NEWER, {"report.json": b"{", "report.txt": b"Port 9090: odd\n===\n"})
    return tmp_path


def test_list(folder: Path) -> None:
    listed = evidence("list", "--evidence-dir", str(folder))
    assert (listed.returncode, listed.stderr) == (0, "")
    heading, *lines = listed.stdout.splitlines()
    assert heading.split() == ["ID", "AGE", "SIZE", "FILES"]
    assert [line.split()[0] for line in lines[::2]] == [NEWER, OLDER]
    assert [line.strip() for line in lines[1::2]] == [
        "its finding cannot be read",
        "the thread that accepted connections has exited",
    ]
    assert lines[2].split()[-3:] == ["124", "kB", "3"]
    assert max(map(len, listed.stdout.splitlines())) <= 80


def test_list_for_programs(folder: Path) -> None:
    listed = evidence("list", "--evidence-dir", str(folder), "--json")
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [row["id"] for row in rows] == [NEWER, OLDER]
    assert rows[1]["finding"] == "the thread that accepted connections has exited"
    assert (rows[1]["code"], rows[1]["why"]) == ("acceptor_gone", "accept_queue_stalled")
    assert (rows[0]["code"], rows[0]["finding"]) == ("", "")
    assert rows[1]["files"][0] == {"name": "jvm-7.txt", "size": 123_456}


def test_show_says_what_else_there_is(folder: Path) -> None:
    shown = evidence("show", "--evidence-dir", str(folder), OLDER)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == f"{REPORT}\nKept beside it\n  {folder}/{OLDER}/jvm-7.txt (123 kB)\n"


def test_show_for_programs(folder: Path) -> None:
    shown = evidence("show", "--evidence-dir", str(folder), OLDER, "--json")
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, f"{RECORD.decode()}\n", "")


def test_nothing_was_kept(tmp_path: Path) -> None:
    listed = evidence("list", "--evidence-dir", str(tmp_path))
    assert (listed.returncode, listed.stdout) == (0, "no incident was kept\n")
    listed = evidence("list", "--evidence-dir", str(tmp_path), "--json")
    assert (listed.returncode, listed.stdout) == (0, "")


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (("list", "--evidence-dir", "{0}/none"), 2, "--evidence-dir {0}/none: no such directory"),
        (
            ("list", "--evidence-dir", "{0}/secret"),
            2,
            "--evidence-dir {0}/secret: no such directory",
        ),
        (
            ("show", "--evidence-dir", "{0}/none", OLDER),
            2,
            "--evidence-dir {0}/none: no such directory",
        ),
        (
            ("show", "--evidence-dir", "{0}", "20261122T084958Z-8080-suspect"),
            2,
            "20261122T084958Z-8080-suspect: no such incident in {0}; see probe evidence list",
        ),
        (("show", "--evidence-dir", "{0}", "secret"), 2, "secret: not the id of an incident"),
        (
            ("show", "--evidence-dir", "{0}", "../secret"),
            2,
            "../secret: not the id of an incident",
        ),
        (("show", "--evidence-dir", "{0}", "a\x1bb"), 2, "a\\x1bb: not the id of an incident"),
        (
            ("show", "--evidence-dir", "{0}", NEWER, "--json"),
            1,
            f"{{0}}/{NEWER}/report.json: not JSON",
        ),
        (("list",), 1, "no sidecar answers at 127.0.0.1:9809, and no --evidence-dir was given"),
        (
            ("show", "--listen", ":9", OLDER),
            1,
            "no sidecar answers at 127.0.0.1:9, and no --evidence-dir was given",
        ),
    ],
)
def test_what_can_not_be_shown(
    folder: Path, words: tuple[str, ...], status: int, line: str
) -> None:
    (folder / "secret").write_text("secret")
    told = evidence(*(word.format(folder) for word in words))
    assert (told.returncode, told.stdout) == (status, "")
    assert told.stderr == f"probe: {line.format(folder)}\n"


@needs_other_users
def test_what_is_another_users(folder: Path) -> None:
    """That it may not be read, or is not trusted, is never told as: there is nothing."""
    folder.chmod(0o700)
    listed = evidence("list", "--evidence-dir", str(folder), prepare=partial(become, 0, 0))
    assert listed.returncode == 0  # the same user, without capabilities
    for path in (folder / OLDER, folder / NEWER):
        chown(path, 1000)
    listed = evidence("list", "--evidence-dir", str(folder))
    assert listed.returncode == 1
    assert listed.stderr == (
        f"probe: {folder}: its incidents are those of uid 1000: run it as that user\n"
    )
    chown(folder, 1000)
    listed = evidence("list", "--evidence-dir", str(folder), prepare=partial(become, 0, 0))
    assert listed.returncode == 1
    assert listed.stderr == f"probe: --evidence-dir {folder}: Permission denied\n"


def chown(path: Path, uid: int) -> None:
    subprocess.run(("chown", "-R", str(uid), str(path)), check=True)


@needs_other_users
def test_a_report_that_may_not_be_read(folder: Path) -> None:
    chown(folder / OLDER / "report.txt", 1000)
    shown = evidence("show", "--evidence-dir", str(folder), OLDER, prepare=partial(become, 0, 0))
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr == f"probe: {folder}/{OLDER}/report.txt: it cannot be read\n"


def test_what_lies_there_does_not_reach_the_terminal_as_it_is(folder: Path) -> None:
    """The application may run as the same user, and write there what it likes."""
    (folder / OLDER / "report.txt").write_text("Port 8080: \x1b[2J\x07 gone\n===\n\u202eolleh\r\n")
    hostile = json.dumps({"finding": {"code": "gone", "headline": "\x1b[2J\x07 gone"}})
    (folder / OLDER / "report.json").write_text(hostile)
    for words in (("list",), ("show", OLDER)):
        told = evidence(words[0], "--evidence-dir", str(folder), *words[1:])
        assert told.returncode == 0
        assert not {"\x1b", "\x07", "\u202e", "\r"} & set(told.stdout)
        assert "\\x1b[2J\\x07 gone" in told.stdout


@pytest.mark.parametrize("kept", ["memory", "directory"])
def test_over_a_sidecar(view: KernelView, tmp_path: Path, kept: str) -> None:
    """Without a directory, whether the sidecar itself has one or not."""
    options = ("--evidence-dir", str(tmp_path)) if kept == "directory" else ()
    with (
        application("--port", "8080") as app,
        sidecar("--port", "8080", "--listen", "127.0.0.1:9809", *options) as beside,
    ):
        beside.until(20, condition="healthy", ready=True)
        assert evidence("list").stdout == "no incident was kept\n"
        app.tell("accept off")
        with queued(view, 8080, 3):
            identity = str(beside.until(20, event="evidence")["id"])
            listed = evidence("list")
            rows = evidence("list", "--json")
            shown = evidence("show", identity)
            record = evidence("show", identity, "--json")
            absent = evidence("show", "20261122T084958Z-8080-suspect")
    assert identity in listed.stdout
    assert json.loads(rows.stdout)["id"] == identity
    assert shown.stdout.startswith("Port 8080: ")
    assert json.loads(record.stdout)["id"] == identity
    assert {one.returncode for one in (listed, rows, shown, record)} == {0}
    assert (absent.returncode, absent.stdout) == (2, "")
    assert absent.stderr == (
        "probe: the sidecar at 127.0.0.1:9809 says 404: no such evidence; GET /evidence lists what"
        " is kept\n"
    )
