"""`--evidence-put`: what is sent, when it counts as sent, and what is told of it and what never.

The servers are real ones that misbehave. A store of S3's kind is in test_upload_s3.
"""

import asyncio
import base64
import hashlib
import io
import json
import logging
import ssl
import tarfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from probe.evidence.store import RECORD, REPORT
from probe.evidence.upload import archive as archive_module
from probe.evidence.upload import uploader as module
from probe.evidence.upload.archive import Archive, pack
from probe.evidence.upload.uploader import WAITING, Uploader
from probe.model import Condition, EvidenceOptions
from tests.evidence.test_keeper import Sidecar, sidecar, verdict
from tests.faults.harness import application, watched
from tests.support import eventually, in_background

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfi"
ID = "20261126T021500Z-8080-accept_queue_stalled"
FILES = {REPORT: b"8080: who accepted is gone\n", RECORD: b'{"schema": 1}', "jvm-7.txt": b"x" * 99}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Taken:
    """What a server was sent, the oldest first."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, bytes, dict[str, str]]] = []
        self.faults: list[Handler] = []
        """What the next requests meet."""
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self.faults:
            return await self.faults.pop(0)(request)
        body = await request.read()
        self.requests.append((request.method, request.path_qs, body, dict(request.headers)))
        return web.Response(status=201)


@asynccontextmanager
async def listening(context: ssl.SSLContext | None = None) -> AsyncIterator[Taken]:
    taken = Taken()
    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", taken.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    taken.url = f"{'https' if context else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield taken
    finally:
        await runner.cleanup()


def uploader(put: str, files: dict[str, bytes] = FILES, **options: Any) -> Uploader:
    async def read(incident: str, name: str, limit: int) -> bytes:
        if incident != ID:
            raise KeyError(name)
        return files[name][:limit]

    method = "" if put.startswith(("PUT ", "POST ")) else "PUT "
    return Uploader(EvidenceOptions(put=f"{method}{put}", **options), "shop_web-1", read)


async def deliver(sends: Uploader, seconds: float = 10.0, incident: str = ID) -> None:
    await sends.deliver("8080", incident, tuple(FILES), seconds)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is asked again at once."""
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.01)


# --- what is sent


async def test_a_folder_gets_the_archive_and_its_digest() -> None:
    async with listening() as server:
        sends = uploader(f"{server.url}/incidents/")
        await deliver(sends)
        await deliver(sends)
        first, checksum, again, _ = server.requests
    name = f"shop_web-1_{ID}.tar.gz"
    method, path, content, headers = first
    assert (method, path) == ("PUT", f"/incidents/{name}")
    assert headers["Content-Type"] == "application/gzip"
    assert headers["Content-Length"] == f"{len(content)}"
    assert "Transfer-Encoding" not in headers, "which stores of S3's kind refuse"
    digest = hashlib.sha256(content)
    told = base64.b64encode(digest.digest()).decode()
    assert headers["Content-Digest"] == f"sha-256=:{told}:"
    assert checksum[1:3] == (
        f"/incidents/{name}.sha256",
        f"{digest.hexdigest()}  {name}\n".encode(),
    )
    assert again[2] == content, "the same files make the same bytes"
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        names = [entry.name for entry in archive]
        kept = {name: archive.extractfile(name).read() for name in names}  # type: ignore[union-attr]
    folder = f"shop_web-1_{ID}"
    assert names[:2] == [f"{folder}/{RECORD}", f"{folder}/{REPORT}"], "the reports come first"
    assert kept == {f"{folder}/{name}": content for name, content in FILES.items()}
    assert sends.so_far().sent == 2


async def test_a_signed_address_is_sent_to_as_it_stands() -> None:
    """No letter of it is written otherwise, and no header is added that a signature might cover."""
    query = "X-Amz-Credential=AK%2F20261126%2Fs3&X-Amz-Signature=a%2Bb~c/d&response=%20+"

    async with listening() as server:
        asked: list[str] = []

        async def note(request: web.Request) -> web.Response:
            asked.append(request.raw_path)
            assert "Content-Type" not in request.headers
            return web.Response()

        server.faults.append(note)
        await deliver(uploader(f"{server.url}/bucket/a%2Fb%20c.tar.gz?{query}"))
    assert asked == [f"/bucket/a%2Fb%20c.tar.gz?{query}"], "and one request is all"


async def test_a_webhook_is_posted_to_with_a_header_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with listening() as server:
        monkeypatch.setenv("HOOK_TOKEN", SECRET)
        headers = (("Authorization", "Bearer ${env:HOOK_TOKEN}"),)
        await deliver(uploader(f"POST {server.url}/hook", put_headers=headers))
        ((method, path, _, sent),) = server.requests
    assert (method, path) == ("POST", "/hook")
    assert sent["Authorization"] == f"Bearer {SECRET}"
    assert sent["Content-Disposition"] == f'attachment; filename="shop_web-1_{ID}.tar.gz"'


async def test_address_and_headers_are_read_anew_from_their_files(tmp_path: Path) -> None:
    address, team = tmp_path / "address", tmp_path / "team"
    async with listening() as server:
        headers = (("Content-Type", "application/x-tar"), ("X-Team", f"${{file:{team}}}"))
        sends = uploader(f"POST ${{file:{address}}}", put_headers=headers)
        assert sends.so_far().to == "a secret address"
        await deliver(sends)
        assert sends.so_far().error == f"the address: {address}: No such file or directory"
        address.write_text(f"{server.url}/first\n")
        team.write_text("shop\n")
        async with in_background(sends.run()):
            await eventually(lambda: sends.so_far().sent == 1)
        address.write_text(f"{server.url}/second")
        team.write_text("web")
        await deliver(sends)
        first, second = server.requests
    assert sends.so_far().to == server.url
    assert first[:2] == ("POST", "/first")
    assert (first[3]["Content-Type"], first[3]["X-Team"]) == ("application/x-tar", "shop")
    assert second[1] == "/second"
    assert second[3]["X-Team"] == "web"
    for wrong in ("ftp://x/", "/another/file", "", "https://a b/", "${file:/etc/passwd}"):
        address.write_text(wrong)
        await deliver(sends)
        assert sends.so_far().error == "the address, with its secrets, is no URL"
    address.write_text("https://x/\nhttps://y/")
    await deliver(sends)
    assert sends.so_far().error == f"the address: {address} holds more than one line of text"


async def test_a_key_alone_may_be_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", SECRET)
    async with listening() as server:
        sends = uploader(f"{server.url}/hooks/${{env:KEY}}")
        assert sends.so_far().to == server.url
        await deliver(sends)
        assert server.requests[0][1] == f"/hooks/{SECRET}"


def test_what_is_too_large_is_left_out_and_the_reports_are_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(archive_module, "LARGEST", 100)
    caplog.set_level(logging.INFO)

    async def scene() -> list[str]:
        async with listening() as server:
            await deliver(uploader(f"{server.url}/x"))
            content = server.requests[0][2]
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            return [entry.name.rpartition("/")[2] for entry in archive]

    assert asyncio.run(scene()) == [RECORD, REPORT]
    assert caplog.messages[-1].endswith(", without jvm-7.txt: too large")


# --- TLS


async def test_the_certificate_is_verified(tmp_path: Path, authority: trustme.CA) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    file = tmp_path / "ca.crt"
    authority.cert_pem.write_to_path(str(file))

    async with listening(context) as server:
        stranger = uploader(f"{server.url}/x")
        await deliver(stranger)
        assert stranger.so_far().error.startswith("its certificate: ")
        assert not server.requests
        trusting = uploader(f"{server.url}/x", put_ca_file=str(file))
        await deliver(trusting)
        assert trusting.so_far().sent == 1
        lost = uploader(f"{server.url}/x", put_ca_file=f"{file}.old")
        await deliver(lost)
        assert lost.so_far().error == f"{file}.old: No such file or directory"


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


# --- servers that are not what they should be


def answer(status: int, text: str = "", **headers: str) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        await request.read()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, text=text, headers=named)

    return handle


async def early(request: web.Request) -> web.StreamResponse:
    """200 before it has read the whole."""
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write_eof()
    return response


async def cut(request: web.Request) -> web.StreamResponse:
    """In the middle of what is sent."""
    await request.content.read(1)
    assert request.transport
    request.transport.abort()
    return web.Response()


async def half(request: web.Request) -> web.StreamResponse:
    """In the middle of its own answer."""
    await request.read()
    response = web.StreamResponse(headers={"Content-Length": "100"})
    await response.prepare(request)
    await response.write(b"stored")
    assert request.transport
    request.transport.abort()
    return response


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def endless(request: web.Request) -> web.StreamResponse:
    await request.read()
    response = web.StreamResponse(status=500)
    await response.prepare(request)
    with suppress(ConnectionError):
        while True:
            await response.write(b"no " * 10000)
    return response


S3_ERROR = """<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"""


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (answer(500, "out of\nspace\x1b[2J"), "HTTP 500: out of space\\x1b[2J"),
        (answer(403, S3_ERROR), "HTTP 403: AccessDenied Request has expired"),
        (answer(404), "HTTP 404"),
        (answer(307, Location="/elsewhere"), "HTTP 307, and redirects are not followed"),
        (answer(302, Location="http://169.254.169.254/"), "HTTP 302, and redirects"),
        (early, "HTTP 200, but with "),
        (cut, "it cut the connection before it answered|Connection reset by peer|Cannot write"),
        (half, "the answer was cut off"),
        (hang, "no answer in time"),
        (endless, "HTTP 500: no no no"),
    ],
)
async def test_what_counts_as_sent_is_a_good_answer_after_the_whole(
    fault: Handler, why: str
) -> None:
    """Else it is tried again, until it is."""
    files = FILES
    if fault in (early, cut):  # more than the buffers of two sockets
        noise = b"".join(hashlib.sha512(b"%d" % number).digest() for number in range(100_000))
        files = {**FILES, "jvm-7.txt": noise}

    async with listening() as server:
        server.faults.append(fault)
        sends = uploader(f"{server.url}/x", files)
        await deliver(sends, 1.0 if fault is hang else 10.0)
        told = sends.so_far()
        assert any(part in told.error for part in why.split("|")), told.error
        assert (told.sent, told.failed, told.waiting) == (0, 1, 1)
        async with in_background(sends.run()):
            await eventually(lambda: sends.so_far().sent == 1)
        assert len(server.requests) == 1
        assert sends.so_far()._replace(to="") == ("", 1, 1, 0, 0, "")


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("http://127.0.0.1:1/x", "Connect"),
        ("http://nowhere.invalid/x", "its name does not resolve"),
        ("http://[::1]:1/x", "Connect"),
    ],
)
async def test_who_is_not_there_costs_no_more_than_its_time(where: str, why: str) -> None:
    sends = uploader(where)
    began = time.monotonic()
    await deliver(sends, 2.0)
    assert time.monotonic() - began < 4
    assert sends.so_far().error.startswith((why, "no answer in time"))


async def test_a_fault_of_our_own_is_told_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faults = [RuntimeError("a defect")] * 2

    def defective(folder: str, files: Iterable[tuple[str, bytes]]) -> Archive:
        if faults:
            raise faults.pop()
        return pack(folder, files)

    monkeypatch.setattr(archive_module, "pack", defective)
    async with listening() as server:
        sends = uploader(f"{server.url}/x")
        await deliver(sends)
        assert sends.so_far().error == "a fault of our own: RuntimeError"
        async with in_background(sends.run()):
            await eventually(lambda: sends.so_far().sent == 1)
    assert "a defect" in caplog.text


def test_what_a_server_asks_for_is_waited_for_within_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LONGEST_PAUSE", 300.0)
    assert module._pause(1, 7.0) == 7.0
    assert module._pause(1, 1e9) == 300.0
    monkeypatch.setattr(module, "FIRST_PAUSE", 1.0)
    assert 0.5 <= module._pause(0, None) <= 1.0
    assert module._pause(1000, None) <= 300.0


async def test_what_is_given_up_says_why(caplog: pytest.LogCaptureFixture) -> None:
    """Too many that wait, one that is kept no longer, and one whose time is over."""

    async with listening() as server:
        server.faults += [answer(500, "no")] * (WAITING + 3)
        sends = uploader(f"{server.url}/x")
        await deliver(sends, incident="20200101T000000Z-8080-gone")
        assert (sends.so_far().given_up, sends.so_far().waiting) == (1, 0)
        assert "it is not kept here any more" in caplog.messages[-1]
        for _ in range(WAITING + 1):
            await deliver(sends)
        assert (sends.so_far().given_up, sends.so_far().waiting) == (2, WAITING)
        assert any(f"{WAITING} others wait" in line for line in caplog.messages)
        async with in_background(sends.run()):
            await eventually(lambda: sends.so_far().waiting == 0)
        assert sends.so_far().sent == WAITING


async def test_what_is_never_taken_is_given_up_in_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "GIVE_UP", 0.1)

    async with listening() as server:
        server.faults += [answer(413, "too large")] * 1000
        sends = uploader(f"{server.url}/x")
        await deliver(sends)
        async with in_background(sends.run()):
            await eventually(lambda: sends.so_far().given_up == 1)
        assert sends.so_far().waiting == 0
    assert "any more: HTTP 413: too large" in caplog.messages[-1]


async def test_what_waits_at_the_end_is_told(caplog: pytest.LogCaptureFixture) -> None:
    sends = uploader("http://127.0.0.1:1/x")
    await deliver(sends)
    async with in_background(sends.run()):
        await asyncio.sleep(0)
    assert caplog.messages[-1] == "evidence of 1 incident is not sent: the sidecar ends"


def test_no_secret_is_told_whatever_a_server_repeats(caplog: pytest.LogCaptureFixture) -> None:
    """The path of a webhook, a signature, a password, a token: each as it was sent, and decoded."""
    path, key = "/services/T0123456/B0123456/hook-key-1", "c2lnbmF0dXJl%2Bkey"
    caplog.set_level(logging.DEBUG)

    async def scene() -> str:
        async with listening() as server:

            async def repeat(request: web.Request) -> web.Response:
                said = f"{request.raw_path} {request.path_qs} {dict(request.headers)} {request.url}"
                return web.Response(status=403, text=said)

            server.faults.append(repeat)
            there = server.url.removeprefix("http://")
            sends = uploader(
                f"http://someone:{'pass' * 3}@{there}{path}?X-Amz-Signature={key}",
                put_headers=(("X-Token", f"Key {SECRET}"),),
            )
            await deliver(sends)
            return str(sends.so_far())

    told = asyncio.run(scene())
    told += "".join(one.getMessage() for one in caplog.records if one.name != "aiohttp.access")
    basic = base64.b64encode(b"someone:passpasspass").decode()
    for secret in (path, key, "c2lnbmF0dXJl+key", "passpasspass", basic, SECRET):
        assert secret not in told
    assert "HTTP 403" in told


# --- with the keeper and with a sidecar


async def test_liveness_waits_for_the_first_attempt_and_no_longer_than_its_deadline() -> None:
    running: Sidecar
    async with sidecar(EvidenceOptions(deadline=6.0)) as running, listening() as server:
        sends = Uploader(EvidenceOptions(put=f"PUT {server.url}/"), "web", running.keeper.read)
        running.keeper.deliver_by(sends.deliver)
        began, goes_on = asyncio.Event(), asyncio.Event()

        async def slow(request: web.Request) -> web.Response:
            began.set()
            await goes_on.wait()
            return web.Response()

        server.faults += [slow, answer(200), hang]
        running.becomes(Condition.SUSPECT, 1.0)
        await running.incident()
        await began.wait()
        assert running.keeper.holds(verdict(Condition.UNHEALTHY)), "it is saved, and not sent"
        goes_on.set()
        await eventually(lambda: sends.so_far().sent == 1)
        await eventually(lambda: not running.keeper.pending("8080"))
        at = time.monotonic()
        running.becomes(Condition.UNHEALTHY, 2.0, live=False)
        await running.incident()
        assert running.keeper.pending("8080")
        await eventually(lambda: not running.keeper.pending("8080"))
        assert time.monotonic() - at < 6.0 + 1.0
        await eventually(lambda: sends.so_far().waiting == 1)
        assert sends.so_far().error == "no answer in time"


@pytest.mark.slow
def test_a_stall_is_sent_away_before_live_fails(tmp_path: Path) -> None:
    """A real sidecar and application: what arrives says as much as is to leave the pod."""

    async def scene() -> tuple[bytes, dict[str, Any], str, list[str]]:
        async with listening() as server:
            address = tmp_path / "address"
            address.write_text(f"{server.url}/x.tar.gz?signature={SECRET}")
            options = (f"--evidence-put=${{file:{address}}}", "--live-after=4s")

            def stall() -> tuple[dict[str, Any], str, list[str]]:
                with application() as app, watched(app, *options) as there:
                    app.stop()
                    there.until(30, event="evidence_sent")
                    there.until(30, event="transition", live=False)
                    return there.status(), there.get("/metrics")[1], there._lines.seen

            told = await asyncio.to_thread(stall)
            return server.requests[0][2], *told

    content, status, metrics, log = asyncio.run(scene())
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        (record,) = (entry for entry in archive if entry.name.endswith(f"/{RECORD}"))
        file = archive.extractfile(record)
        assert file
        report = json.loads(file.read())
    assert report["redacted"] is True
    assert report["judgement"]["reason"] == "accept_queue_stalled" or report["judgement"]["stage"]
    assert status["evidence_sent"]["sent"] == 1
    assert status["evidence_sent"]["to"].startswith("http://127.0.0.1:")
    assert "acceptprobe_evidence_sent_total 1.0" in metrics
    assert "acceptprobe_evidence_waiting 0.0" in metrics
    assert SECRET not in "\n".join([*log, metrics, json.dumps(status)])
