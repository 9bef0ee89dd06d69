"""The evidence over HTTP: what is listed, what is given, to whom, and how much at once."""

import asyncio
import io
import json
import os
import re
import tarfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from probe.api import evidence as evidence_pages
from probe.evidence.keeper import EvidenceKeeper
from probe.evidence.records.audit import Baseline, BaselineEntry
from probe.evidence.records.report import Recollection, typed
from probe.evidence.store import FILE_LIMIT, FolderStore
from probe.model import (
    EvidenceOptions,
    Listener,
    Observation,
    Outcome,
    RoundTrip,
    Sample,
    Stage,
    Target,
)
from tests.api.service import Service, get, request, serving

OLDER = "20261122T084958Z-8080-accept_queue_stalled"
NEWER = "20261122T090958Z-9090-round_trip_failed"
TEXT = (
    "Port 8080: the thread that accepted connections has exited\n"
    "==========================================================\n"
    "Taken 2026-11-22 08:49:58 UTC.\n"
)
LONG = "a headline that is so very long that it takes more than one line of a terminal to say"


def record(headline: str) -> bytes:
    finding = {"code": "acceptor_gone", "headline": headline}
    return json.dumps({"finding": finding, "port": 8080}).encode()


RECORD = record("the thread that accepted connections has exited")
PIDS = str(Path("/proc/self/ns/pid").readlink())
LISTENER = Listener(2, "127.0.0.1", 8080, 1, 3, 5, 0, 1, 0)
BASELINE = Baseline(
    8080, 1, "127.0.0.1", 1.0, (BaselineEntry(7, 70, "java", 8, 80, "app-acceptor", "accept"),)
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two incidents on a disk, of which the older one has a thread dump."""
    store = FolderStore(str(tmp_path))
    begun = Path(store.begin(OLDER))
    (begun / "jvm-7.txt").write_bytes(b"x" * 3_000_000)
    store.save(OLDER, {"report.json": RECORD, "report.txt": TEXT.encode()})
    store.begin(NEWER)
    store.save(NEWER, {"report.json": record(LONG), "report.txt": b"Port 9090: odd\n===\n"})
    return tmp_path


def keeper_of(
    folder: Path, *, history: Sequence[Observation] = (), redact: bool = False
) -> EvidenceKeeper:
    settings = EvidenceOptions(dir=str(folder), redact=redact)
    return EvidenceKeeper([Target(8080)], settings, history=lambda target: history)


class Asked:
    """A keeper, and how many bytes of files it was asked for."""

    def __init__(self, keeper: EvidenceKeeper) -> None:
        self.incidents = keeper.incidents
        self.recollections = keeper.recollections
        self._read = keeper.read
        self.limits: list[int] = []

    async def read(self, identity: str, name: str, limit: int = FILE_LIMIT) -> bytes:
        self.limits.append(limit)
        return await self._read(identity, name, limit)


@asynccontextmanager
async def pages(keeper: EvidenceKeeper) -> AsyncIterator[Service]:
    async with serving(routes=evidence_pages.routes(keeper)) as service:
        yield service


async def test_the_list_for_people(folder: Path) -> None:
    async with pages(keeper_of(folder)) as service:
        reply = await get(service.port, "/evidence")
    assert reply.status == 200
    heading, *lines = reply.text.splitlines()
    assert heading.split() == ["ID", "AGE", "SIZE", "FILES"]
    assert [line.split()[0] for line in lines[::2]] == [NEWER, OLDER]
    assert lines[2].split()[-3:] == ["3.0", "MB", "3"]
    assert lines[3] == "    the thread that accepted connections has exited"
    assert lines[1] == f"    {LONG}"
    assert max(map(len, (heading, lines[0], lines[2], lines[3]))) <= 80


async def test_the_list_for_programs(folder: Path) -> None:
    async with pages(keeper_of(folder)) as service:
        reply = await get(service.port, "/evidence", "Accept: application/json")
    told = json.loads(reply.body)
    assert told["older"] == 0
    assert [one["id"] for one in told["incidents"]] == [NEWER, OLDER]
    assert told["incidents"][1] == {
        "id": OLDER,
        "at": "2026-11-22T08:49:58Z",
        "port": 8080,
        "place": "8080",
        "why": "accept_queue_stalled",
        "code": "acceptor_gone",
        "finding": "the thread that accepted connections has exited",
        "size": 3_000_000 + len(RECORD) + len(TEXT),
        "files": [
            {"name": "jvm-7.txt", "size": 3_000_000},
            {"name": "report.json", "size": len(RECORD)},
            {"name": "report.txt", "size": len(TEXT)},
        ],
    }


async def test_a_long_list_is_cut(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path), count=1000)
    for number in range(103):
        identity = f"20261122T08{number // 60:02}{number % 60:02}Z-8080-not_listening"
        store.begin(identity)
        store.save(identity, {"report.txt": TEXT.encode()})
    async with pages(keeper_of(tmp_path)) as service:
        lines = (await get(service.port, "/evidence")).text.splitlines()
    assert len(lines) == 1 + 2 * 100 + 1
    assert lines[-1] == "and 3 older"


async def test_what_others_planted_costs_a_piece_of_each(folder: Path) -> None:
    """Reports of any length, names that are no time, times to come, more files than are ours."""
    os.truncate(folder / NEWER / "report.txt", 1 << 40)
    for name in ("99999999T999999Z-8080-x", "20991231T235959Z-8080-x"):
        (folder / name).mkdir()
    for number in range(500):
        (folder / "20991231T235959Z-8080-x" / f"a{number}.txt").touch()
    asked = Asked(keeper_of(folder))
    async with serving(routes=evidence_pages.routes(asked)) as service:
        lines = (await get(service.port, "/evidence")).text.splitlines()[1:]
        told = await get(service.port, "/evidence", "Accept: application/json")
        head = await get(service.port, f"/evidence/{NEWER}", method="HEAD")
    assert [line.split()[0] for line in lines[::2]] == [NEWER, OLDER, "20991231T235959Z-8080-x"]
    assert lines[1].startswith("    a headline that is so very long")
    assert "to come" in lines[4]
    assert len(told.body) < 10_000
    assert head.headers["content-length"] == str(FILE_LIMIT)
    assert asked.limits == [*[4096] * 6, FILE_LIMIT]


async def test_nothing_was_kept(tmp_path: Path) -> None:
    """Also where the directory is not there: the sidecar's log told of that."""
    for folder in (tmp_path, tmp_path / "absent"):
        async with pages(keeper_of(folder)) as service:
            reply = await get(service.port, "/evidence")
            assert (reply.status, reply.text) == (200, "no incident was kept\n")


async def test_a_report_in_both_forms(folder: Path) -> None:
    async with pages(keeper_of(folder)) as service:
        for path, form, kind, content in (
            ("", "", "text/plain; charset=utf-8", TEXT),
            ("", "Accept: application/json", "application/json", RECORD.decode()),
            ("/report.txt", "", "text/plain; charset=utf-8", TEXT),
            ("/report.json", "", "application/json", RECORD.decode()),
        ):
            headers = (form,) if form else ()
            reply = await get(service.port, f"/evidence/{OLDER}{path}", *headers)
            assert (reply.status, reply.headers["content-type"], reply.text) == (200, kind, content)
            assert reply.headers["cache-control"] == "no-store"
            assert reply.headers["x-content-type-options"] == "nosniff"


async def test_a_raw_dump_comes_whole_and_its_size_by_head(folder: Path) -> None:
    async with pages(keeper_of(folder)) as service:
        path = f"/evidence/{OLDER}/jvm-7.txt"
        assert (await get(service.port, path)).body == b"x" * 3_000_000
        head = await get(service.port, path, method="HEAD")
        assert (head.status, head.headers["content-length"]) == (200, "3000000")


@pytest.mark.parametrize(
    "path",
    [
        "/evidence/20261122T084958Z-8080-suspect",
        f"/evidence/{OLDER}/jvm-8.txt",
        f"/evidence/{OLDER}/secret",
        f"/evidence/{OLDER}/link.txt",
        f"/evidence/{OLDER}/..%2f..%2fsecret.txt",
        f"/evidence/{OLDER}/%2e%2e",
        "/evidence/..",
        "/evidence/..%2f..%2fetc%2fpasswd",
        "/evidence/%00",
        f"/evidence/.{OLDER}/report.txt",
    ],
)
async def test_nothing_else_is_given(folder: Path, path: str) -> None:
    (folder / "secret.txt").write_text("secret")
    (folder / OLDER / "secret").write_text("secret")
    (folder / OLDER / "link.txt").symlink_to(folder / "secret.txt")
    async with pages(keeper_of(folder)) as service:
        reply = await get(service.port, path)
    assert reply.status == 404
    assert "secret" not in reply.text.replace(path, "")


async def test_only_for_who_is_in_the_pod(folder: Path) -> None:
    paths = [
        "/evidence",
        "/evidence/baseline",
        f"/evidence/{OLDER}",
        f"/evidence/{OLDER}/jvm-7.txt",
    ]
    async with pages(keeper_of(folder)) as service:
        for path in paths:
            reply = await get(service.port, path, source="127.0.0.6")
            assert reply.status == 403
            assert "kubectl port-forward" in reply.text


async def test_what_is_remembered_of_healthy_time() -> None:
    now = time.monotonic()
    history = [
        Observation(now - 2, Sample((LISTENER._replace(length=0),), accepts=7)),
        Observation(
            now - 1,
            Sample((LISTENER,), accepts=7),
            RoundTrip(now - 1, Outcome.FAILED, Stage.QUEUED),
        ),
    ]
    for redact, name in ((False, "app-acceptor"), (True, "")):
        keeper = keeper_of(Path("/absent"), history=history, redact=redact)
        keeper._acceptors["8080"].learnt((BASELINE,), (("PassiveOpens", 5),))
        async with pages(keeper) as service:
            reply = await get(service.port, "/evidence/baseline")
        (told,) = typed(tuple[Recollection, ...], json.loads(reply.body)["targets"])
        assert (told.port, told.redacted) == (8080, redact)
        assert told.pid_namespace == PIDS
        assert told.baselines[0].entries[0] == BASELINE.entries[0]._replace(name=name)
        assert told.counters == (("PassiveOpens", 5),)
        assert [(one.length, one.round_trip) for one in told.history] == [(0, ""), (3, "queued")]


async def test_who_takes_no_answer_is_cut_off_and_others_get_theirs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence_pages, "PATIENCE", 0.3)
    path = f"/evidence/{OLDER}/jvm-7.txt"
    (folder / OLDER / "jvm-7.txt").write_bytes(b"x" * 15_000_000)
    async with pages(keeper_of(folder)) as service:
        idle, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=1)
        try:
            writer.write(request(path))
            await asyncio.sleep(0)
            reply = await asyncio.wait_for(get(service.port, f"/evidence/{NEWER}"), 20)
            assert reply.status == 200
            assert 0 < await asyncio.wait_for(size(idle), 20) < 15_000_000
        finally:
            writer.transport.abort()


async def size(reader: asyncio.StreamReader) -> int:
    """How many bytes come until the other side closes or resets."""
    total = 0
    with suppress(ConnectionError):
        while piece := await reader.read(1 << 20):
            total += len(piece)
    return total


BROWSER = "Accept: text/html,application/xhtml+xml,*/*;q=0.8"

HOSTILE = (
    "Port 8080: <script>alert(1)</script>\n"
    "====\n"
    "Taken by </main>.\n"
    "\n"
    "What <b>is</b> seen\n"
    "  - one point that goes on\n"
    "    in a second line, of `<img src=x onerror=alert(1)>`\n"
    "  - another\n"
    "\n"
    "Figures\n"
    "  a   1\n"
    "  b  <2\n"
)


async def test_a_browser_is_given_a_page_in_which_everything_is_text(folder: Path) -> None:
    (folder / OLDER / "report.txt").write_text(HOSTILE)
    (folder / NEWER / "report.json").write_bytes(record("<u>odd</u>"))
    async with pages(keeper_of(folder)) as service:
        report = await get(service.port, f"/evidence/{OLDER}", BROWSER)
        listing = await get(service.port, "/evidence", BROWSER)
    for page in (report, listing):
        assert page.status == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "script-src 'none'" in page.headers["content-security-policy"]
        assert not re.search("<(script|b|u|img)[ >]", page.text)
    assert "<h1>Port 8080: &lt;script&gt;alert(1)&lt;/script&gt;</h1>" in report.text
    assert "Taken by &lt;/main&gt;." in report.text
    assert (
        "<h2>What &lt;b&gt;is&lt;/b&gt; seen</h2><ul><li>one point that goes on in" in report.text
    )
    assert "<li>another</li></ul>" in report.text
    assert "a   1\nb  &lt;2</pre>" in report.text
    assert f'href="/evidence/{OLDER}/jvm-7.txt"' in report.text
    assert f'href="/evidence/{OLDER}.tar.gz" download' in report.text
    assert f'aria-label="download {NEWER}"' in listing.text
    assert f'<a href="/evidence/{NEWER}">&lt;u&gt;odd&lt;/u&gt;</a>' in listing.text


@pytest.mark.parametrize(
    "text", ["", "\n\n", "====\n", "Title alone", "A\n===\nB\n\nC\n\n\nD\n  - "]
)
async def test_a_report_of_any_form_is_a_page(folder: Path, text: str) -> None:
    (folder / OLDER / "report.txt").write_text(text)
    async with pages(keeper_of(folder)) as service:
        assert (await get(service.port, f"/evidence/{OLDER}", BROWSER)).status == 200


async def test_a_whole_incident_is_one_file(folder: Path) -> None:
    async with pages(keeper_of(folder)) as service:
        reply = await get(service.port, f"/evidence/{OLDER}.tar.gz")
        again = await get(service.port, f"/evidence/{OLDER}.tar.gz", BROWSER)
    assert reply.headers["content-type"] == "application/gzip"
    assert reply.body == again.body
    with tarfile.open(fileobj=io.BytesIO(reply.body)) as archive:
        content = {
            entry.name: file.read()
            for entry in archive
            if (file := archive.extractfile(entry)) is not None
        }
    assert content == {
        f"{OLDER}/jvm-7.txt": b"x" * 3_000_000,
        f"{OLDER}/report.json": RECORD,
        f"{OLDER}/report.txt": TEXT.encode(),
    }
