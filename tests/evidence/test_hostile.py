"""Whatever lies in an evidence directory: in bounded time and size, and printable, or an error in
one line.
"""

import io
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.commands import evidence as command
from probe.config import Config, ListenAddress
from probe.evidence.capture.parent import Progress
from probe.evidence.listing import as_json, as_table, listed
from probe.evidence.proc.files import parse_json
from probe.evidence.store import FILE_LIMIT, FolderStore, Incident, parse_id
from probe.model import EvidenceOptions
from tests.api.service import get, serving

TRUE = "20261122T084958Z-8080-accept_queue_stalled"
SECONDS = 5.0
"""For one call, on a busy machine; most take a millisecond."""

digits = st.text("0123456789２", min_size=8, max_size=8)
names = st.one_of(
    st.text(max_size=60),
    st.builds("{}T{:.6}Z-{}-{}".format, digits, digits, st.integers(-1, 10**6), st.text("a_-Z\n")),
    st.from_regex(r"[.]?20[0-9]{6}T[0-2][0-9]{5}Z-[0-9]{1,5}-[a-z_]{1,40}", fullmatch=True),
).filter(lambda name: 0 < len(name.encode("utf-8", "replace")) < 250)
texts = st.binary(max_size=300) | st.sampled_from(
    [
        b"Port 1: \x1b[2J\x07\r\n=====",
        b"\xff\xfe" * 99,
        b"[" * 9999,
        b"NaN",
        b"1" * 9999,
        b'"\\ud800"',
    ]
)
Entry = tuple[str, str, bytes]
entries = st.lists(
    st.tuples(
        names,
        st.sampled_from(["folder", "deep", "file", "fifo", "link", "loop", "sparse"]),
        texts,
    ),
    max_size=6,
)


def plant(root: Path, name: str, kind: str, content: bytes) -> None:
    """One thing in the directory, as far as the file system lets it have that name."""
    try:
        place = root / name
        match kind:
            case "file":
                with place.open("xb") as file:  # a FIFO of that name would be waited for
                    file.write(content)
            case "fifo":
                os.mkfifo(place)
            case "link":
                place.symlink_to("/dev/zero")
            case "loop":
                place.symlink_to(name)
            case _:
                place.mkdir()
                for part in ("report.txt", "report.json", "on-incident.txt"):
                    (place / part).write_bytes(content)
                if kind == "deep":
                    (place / "a" / "b" / "c").mkdir(parents=True)
                if kind == "sparse":
                    os.truncate(place / "report.txt", 1 << 40)
                    os.truncate(place / "report.json", 1 << 40)
    except (OSError, ValueError):
        pass  # no name for a file


def directory(planted: list[Entry]) -> "TemporaryDirectory[str]":
    """A directory with one true incident, and what was planted beside it."""
    made = TemporaryDirectory()
    store = FolderStore(made.name)
    store.begin(TRUE)
    store.save(TRUE, {"report.txt": b"Port 8080: true\n====\n", "report.json": b"{}"})
    for entry in planted:
        plant(Path(made.name), *entry)
    return made


@contextmanager
def timely() -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < SECONDS


def run(folder: str, *, name: str, incident: str = "", as_json: bool = False) -> int:
    """The command; what it prints is held to be printable, line by line."""
    config = Config(
        command=name,
        incident=incident,
        json=as_json,
        listen=ListenAddress("127.0.0.1", 9),
        evidence=EvidenceOptions(dir=folder),
    )
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = command.run(config)
    for line in (out.getvalue() + err.getvalue()).split("\n"):
        assert line.isprintable()
    assert len(out.getvalue()) < 20 << 20
    return status


@given(entries)
@settings(max_examples=60, deadline=None)
def test_a_store_of_anything(planted: list[Entry]) -> None:
    with directory(planted) as folder:
        store = FolderStore(folder, count=2)
        with timely():
            assert all(told.isprintable() for told in store.clean())
            kept, _ = store.list(100)
            assert TRUE in [incident.id for incident in kept]
            for incident in kept:
                assert parse_id(incident.id)
                for name, _ in incident.files:
                    assert len(store.read(incident.id, name, 1000)) <= 1000
            store.begin("20261122T085958Z-8080-x")
            saved = store.save("20261122T085958Z-8080-x", {"report.txt": b"new"})
            assert saved in store.list(100).incidents


@given(entries)
@settings(max_examples=30, deadline=None)
def test_the_command_on_anything(planted: list[Entry]) -> None:
    with directory(planted) as folder:
        for as_json in (False, True):
            with timely():
                run(folder, name="evidence list", as_json=as_json)
            for shown in (TRUE, *(name for name, _, _ in planted)):
                with timely():
                    run(folder, name="evidence show", incident=shown, as_json=as_json)
        assert run(folder, name="evidence show", incident=TRUE) == 0


@given(names, texts)
def test_the_list_of_anything(name: str, report: bytes) -> None:
    incident = Incident(name, (("report.txt", 1 << 50),))
    if parse_id(name) is None:
        with pytest.raises(ValueError, match="no incident's id"):
            listed(incident, report)
        return
    row = listed(incident, report)
    assert len(row.finding) <= 300
    assert all(line.isprintable() for line in as_table([row], 3, row.at))
    assert json.loads(json.dumps(as_json([row])))[0]["id"] == name


async def test_the_pages_of_anything() -> None:
    """The same lies there for all; what is asked for differs."""
    from probe.api.evidence import routes
    from tests.evidence.test_pages import keeper_of

    planted = [
        (f"20991231T23595{number}Z-8080-x", kind, b"Port 1: \x1b[2J\x07\r\n=====")
        for number, kind in enumerate(["folder", "deep", "file", "fifo", "link", "loop", "sparse"])
    ]
    with directory(planted) as folder:
        async with serving(routes=routes(keeper_of(Path(folder)))) as service:
            began = time.process_time()
            listing = await get(service.port, "/evidence")
            assert TRUE in listing.text
            assert all(line.isprintable() for line in listing.text.split("\n"))
            for name in (TRUE, *(name for name, _, _ in planted)):
                for rest in ("", "/report.txt", "/report.json", "/a", "/on-incident.txt"):
                    reply = await get(service.port, f"/evidence/{name}{rest}", method="HEAD")
                    assert reply.status in (200, 404)
                    assert int(reply.headers["content-length"]) <= FILE_LIMIT
            assert time.process_time() - began < SECONDS


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
messages = values | st.fixed_dictionaries(
    {"end": values, "seconds": values, "sections": values, "missing": values, "carried": values}
)


@given(
    st.lists(
        messages.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=50), max_size=3
    )
)
@settings(max_examples=50, deadline=None)
def test_a_child_that_says_anything(lines: list[bytes]) -> None:
    """A capture's child may be in the hands of whoever runs as our user."""
    progress = Progress({"one": 1.0})
    with suppress(ValueError, KeyError, TypeError, OverflowError):  # what the parent expects
        progress.feed(b"".join(line + b"\n" for line in lines))
    assert all(isinstance(step.seconds, float) for step in progress.done)


@pytest.mark.parametrize("text", [b"[" * 10**6, b'{"a":' * 10**6, b"1" * 10**5, b"\xff", b""])
def test_json_of_others_is_a_value_error_at_worst(text: bytes) -> None:
    with timely(), pytest.raises(ValueError, match=r"."):
        parse_json(text)
