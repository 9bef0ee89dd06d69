"""Sends what was saved: once before liveness may fail, then in the background until it is there.

Nothing is kept for that but the names of incidents. An archive is made of what lies in the store of
the evidence, anew for each attempt, and is in memory while it is sent. What answers is not trusted:
only a whole answer of 200 to 299, after all was sent, counts.
"""

import asyncio
import base64
import logging
import random
import re
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import NamedTuple, NoReturn

from probe.display import plural
from probe.evidence.proc.files import reason
from probe.evidence.upload.archive import Archive, Read, pack_incident
from probe.evidence.upload.destination import (
    Destination,
    UnusableDestination,
    resolve,
    shown_before,
)
from probe.evidence.wording import file_size
from probe.imports.aiohttp_lean import URL, aiohttp
from probe.model import EvidenceOptions, EvidenceSent
from probe.roundtrip.headers import merge

logger = logging.getLogger(__name__)

ATTEMPT = 30.0
"""Seconds for one attempt in the background."""

GIVE_UP = 3600.0
"""Seconds after which an incident is not sent any more."""

WAITING = 20
"""Incidents that wait to be sent; of more, the oldest is given up."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0
"""Seconds from one attempt to the next: doubled each time, or what the server asks for."""

AT_ONCE = 2
"""Archives in memory: one that is tried again, and one whose /live waits."""

CHUNK = 1 << 16

LONGEST_ANSWER = 1 << 16
"""Bytes of an answer that are read."""


class NotSent(Exception):
    """str() says why, in one line without secrets; `after`: seconds the server asked us to wait."""

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


class Gone(NotSent):
    """It cannot be sent any more."""


class Parcel(NamedTuple):
    """An incident to send, by its id and the names of its files; `until` is when to give up."""

    target: str
    incident: str
    files: tuple[str, ...]
    until: float


class Uploader:
    """Takes incidents by `deliver`, and tries again in `run` what could not be sent at once."""

    def __init__(self, options: EvidenceOptions, origin: str, read: Read) -> None:
        """`origin` is whose evidence it is: the name of a pod, or of a host."""
        self._options = options
        self._origin = re.sub(r"[^A-Za-z0-9._-]", "-", origin)
        self._read = read
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._waiting: deque[Parcel] = deque()
        self._filled = asyncio.Event()
        self._to = shown_before(options)
        self._sent = self._failed = self._given_up = 0
        self._error = ""

    def so_far(self) -> EvidenceSent:
        """What came of it."""
        return EvidenceSent(
            self._to,
            self._sent,
            self._failed,
            len(self._waiting),
            self._given_up,
            self._error,
        )

    async def deliver(
        self, target: str, incident: str, files: tuple[str, ...], seconds: float
    ) -> None:
        """Send an incident within `seconds`, or leave it for later."""
        parcel = Parcel(target, incident, files, time.monotonic() + GIVE_UP)
        try:
            await self._send(parcel, seconds)
        except Gone as error:
            self._give_up(parcel, error)
        except NotSent as error:
            logger.warning(
                "%s: evidence not sent to %s: %s; tried again for %g min: %s",
                *(target, self._to, error, GIVE_UP / 60, incident),
                extra={"fields": {"event": "evidence_not_sent", "id": incident}},
            )
            if len(self._waiting) >= WAITING:
                self._give_up(self._waiting.popleft(), f"{WAITING} others wait")
            self._waiting.append(parcel)
            self._filled.set()

    async def run(self) -> NoReturn:
        """Try again what waits, one after the other, until cancelled."""
        failures, pause = 0, FIRST_PAUSE
        try:
            while True:
                await self._filled.wait()
                await asyncio.sleep(pause)
                parcel = self._waiting[0]
                try:
                    await self._send(parcel, ATTEMPT)
                except NotSent as error:
                    failures += 1
                    pause = _pause(failures, error.after)
                    again = not isinstance(error, Gone) and time.monotonic() < parcel.until
                    if not again:
                        self._give_up(parcel, error)
                else:
                    failures, pause, again = 0, FIRST_PAUSE, False
                self._put_back(parcel, again=again)
        finally:
            if self._waiting:
                left = plural(len(self._waiting), "incident")
                logger.warning("evidence of %s is not sent: the sidecar ends", left)

    def _put_back(self, parcel: Parcel, *, again: bool) -> None:
        """Behind the others, so that what is never taken does not keep them back; or not at all."""
        with suppress(ValueError):  # where too many came meanwhile, it has made way
            self._waiting.remove(parcel)
            if again:
                self._waiting.append(parcel)
        if not self._waiting:
            self._filled.clear()

    def _give_up(self, parcel: Parcel, why: object) -> None:
        self._given_up += 1
        logger.warning(
            "%s: evidence is not sent to %s any more: %s: %s",
            *(parcel.target, self._to, why, parcel.incident),
            extra={"fields": {"event": "evidence_given_up", "id": parcel.incident}},
        )

    async def _send(self, parcel: Parcel, seconds: float) -> None:
        """One attempt, within `seconds`. Raises NotSent."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(seconds), self._turns:
                name, archive, left_out = await self._pack(parcel)
                destination = await self._destination()
                await self._transmit(destination, name, archive)
        except Exception as error:  # noqa: BLE001 - told, and none of it may end the sidecar
            failed = error if isinstance(error, NotSent) else _fault(error)
            self._failed += 1
            self._error = str(failed)
            raise failed from None
        self._sent += 1
        self._error = ""
        logger.info(
            "%s: evidence sent to %s in %.1f s: %s, %s, sha256 %s%s",
            *(parcel.target, self._to, time.monotonic() - began, name),
            *(file_size(len(archive.content)), archive.sha256, left_out),
            extra={"fields": {"event": "evidence_sent", "id": parcel.incident}},
        )

    async def _pack(self, parcel: Parcel) -> tuple[str, Archive, str]:
        """The name of the archive, the archive, and in words what is not in it."""
        folder = f"{self._origin}_{parcel.incident}"
        try:
            packed = await pack_incident(folder, parcel.incident, parcel.files, self._read)
        except KeyError:
            raise Gone("it is not kept here any more") from None
        left_out = ", ".join(packed.left_out)
        without = f", without {left_out}: too large" if left_out else ""
        return f"{folder}.tar.gz", packed, without

    async def _destination(self) -> Destination:
        try:
            found = await asyncio.to_thread(resolve, self._options)
        except UnusableDestination as error:
            raise NotSent(str(error)) from None
        self._to = found.shown
        return found

    async def _transmit(self, destination: Destination, name: str, archive: Archive) -> None:
        """Send the archive, and where the names are ours its digest, as sha256sum reads it."""
        digest = base64.b64encode(bytes.fromhex(archive.sha256)).decode()
        about = {
            "Content-Disposition": f'attachment; filename="{name}"',
            "Content-Digest": f"sha-256=:{digest}:",  # RFC 9530
        }
        if not destination.is_signed:  # a signature may cover the type, or that there is none
            about["Content-Type"] = "application/gzip"
        trust = await self._trust() if destination.url.startswith("https:") else True
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, ssl=trust),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        ) as session:
            if not destination.is_folder:
                await _request(session, destination, archive.content, about)
                return
            await _request(session, destination.named(name), archive.content, about)
            line = f"{archive.sha256}  {name}\n".encode()
            await _request(session, destination.named(f"{name}.sha256"), line, {})

    async def _trust(self) -> ssl.SSLContext:
        """Made for each attempt, and let go with it: the system's authorities take 2 MiB."""
        file = self._options.put_ca_file
        try:
            return await asyncio.to_thread(ssl.create_default_context, cafile=file or None)
        except OSError as error:  # which an SSLError is, too
            raise NotSent(f"{file or 'the authorities of the system'}: {reason(error)}") from None


def _fault(error: Exception) -> NotSent:
    """What an attempt that was not just refused comes to."""
    if isinstance(error, TimeoutError):
        return NotSent("no answer in time")
    logger.exception("evidence could not be sent", exc_info=error)
    return NotSent(f"a fault of our own: {type(error).__name__}")


def _pause(failures: int, after: float | None) -> float:
    """Seconds; the jitter keeps a thousand sidecars apart."""
    if after is not None:
        return min(after, LONGEST_PAUSE)
    longest = min(FIRST_PAUSE * 2.0 ** min(failures, 30), LONGEST_PAUSE)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


async def _request(
    session: aiohttp.ClientSession,
    destination: Destination,
    content: bytes,
    about: Mapping[str, str],
) -> None:
    """Send one file. Raises NotSent for all but a whole answer that says it is there."""
    left = len(content)

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal left
        for begin in range(0, len(content), CHUNK):
            chunk = content[begin : begin + CHUNK]
            yield chunk
            left -= len(chunk)

    ours = {"Content-Length": f"{len(content)}", "User-Agent": "accept-probe", **about}
    try:
        async with session.request(
            destination.method,
            URL(destination.url, encoded=True),
            data=chunks(),
            headers=merge([*ours.items()], [*destination.headers]),
            skip_auto_headers=("Accept-Encoding", "Content-Type"),
            allow_redirects=False,
        ) as response:
            said = await _said(response)
    except aiohttp.ClientError as error:
        raise NotSent(destination.quoted(_why(error))) from None
    except (OSError, ValueError) as error:
        raise NotSent(destination.quoted(reason(error))) from None
    if not 200 <= response.status < 300:
        moved = ", and redirects are not followed" if 300 <= response.status < 400 else ""
        quote = f": {destination.quoted(said)}" if said.strip() else ""
        after = response.headers.get("Retry-After", "")
        raise NotSent(
            f"HTTP {response.status}{moved}{quote}", float(after) if after.isdecimal() else None
        )
    if left:
        raise NotSent(f"HTTP {response.status}, but with {file_size(left)} not yet sent")


async def _said(response: aiohttp.ClientResponse) -> str:
    """The beginning of an answer, which has to come to its end, unless it is too long."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK):
        body += chunk
        if len(body) > LONGEST_ANSWER:
            break
    return body.decode("utf-8", "replace")


def _why(error: aiohttp.ClientError) -> str:
    """What went wrong, in words: those of the library may have the whole address in them."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate: {getattr(error.certificate_error, 'verify_message', '')}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name does not resolve"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer was cut off"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it cut the connection before it answered"
    if isinstance(error, OSError):
        return reason(error)
    return type(error).__name__
