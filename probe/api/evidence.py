"""The evidence over HTTP, for clients in the pod alone (`replies.GUARDED`).

Files are read in a thread, and one at a time is in memory, however many clients want one and
however slowly they take it.
"""

import asyncio
from datetime import UTC, datetime
from typing import Protocol

from probe.api.pages import headers, is_browser, reply, reply_json, reply_text, wants_json
from probe.evidence.incident import HEAD
from probe.evidence.listing import Listed, as_json, as_table, listed
from probe.evidence.records.audit import plain
from probe.evidence.records.report import Recollection
from probe.evidence.store import (
    FILE_LIMIT,
    NAME,
    RECORD,
    REPORT,
    Incident,
    Kept,
    parse_id,
)
from probe.imports.aiohttp_lean import web

LISTED = 100
"""Incidents at most that are listed with their findings, which are read from their reports."""

LONGEST_REPORT = 256 * 1024
"""Bytes of a report that a page has at most; ours have some 10 KiB."""

PIECE = 64 * 1024
"""Bytes that are handed to a client at once."""

PATIENCE = 30.0
"""Seconds that a client may take over one file: others wait for theirs."""


class Keeper(Protocol):
    """Where incidents are kept; `EvidenceKeeper` is one. Its coroutines never block the loop."""

    async def incidents(self, most: int) -> Kept:
        """What is kept, `most` incidents of it at most."""

    async def read(self, identity: str, name: str, limit: int = FILE_LIMIT) -> bytes:
        """A file's first `limit` bytes. Raises KeyError where there is no incident or file."""

    def recollections(self) -> tuple[Recollection, ...]:
        """What is remembered of every target."""


def routes(keeper: Keeper) -> list[web.RouteDef]:
    """The pages, for `pages.runner`:

    `/evidence` lists the incidents, `/evidence/baseline` says what is remembered of healthy time,
    `/evidence/ID` is a report, `/evidence/ID/FILE` one of an incident's files, and
    `/evidence/ID.tar.gz` all of them. The list and the report are pages for who asks for HTML.
    """
    pages = _Pages(keeper)
    return [
        web.get("/evidence", pages.show_list),
        web.get("/evidence/baseline", pages.show_baseline),
        web.get("/evidence/{id}.tar.gz", pages.show_archive),
        web.get("/evidence/{id}", pages.show_report),
        web.get("/evidence/{id}/{name}", pages.show_file),
    ]


class _Pages:
    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._turns = asyncio.Lock()

    async def show_list(self, request: web.Request) -> web.StreamResponse:
        async with self._turns:
            incidents, older = await self._keeper.incidents(LISTED)
            shown = [await self._listed(incident) for incident in incidents]
        if is_browser(request):
            from probe.api.evidence_html import list_page  # not loaded for nothing

            return reply(list_page(shown, older))
        if wants_json(request):
            return reply_json(200, {"incidents": as_json(shown), "older": older})
        return reply_text(200, "\n".join(as_table(shown, older, datetime.now(UTC))))

    async def show_baseline(self, request: web.Request) -> web.StreamResponse:
        recollections = self._keeper.recollections()
        return reply_json(200, {"targets": [plain(one) for one in recollections]})

    async def show_report(self, request: web.Request) -> web.StreamResponse:
        if not is_browser(request):
            return await self._show(request, RECORD if wants_json(request) else REPORT)
        from probe.api.evidence_html import report_page  # not loaded for nothing

        identity = request.match_info["id"]
        async with self._turns:
            try:
                incident = await self._find(identity)
                text = await self._keeper.read(identity, REPORT, LONGEST_REPORT)
            except KeyError:
                return _nothing()
        return reply(report_page(identity, text.decode("utf-8", "replace"), incident.files))

    async def show_archive(self, request: web.Request) -> web.StreamResponse:
        from probe.evidence.upload.archive import pack_incident  # not loaded for nothing

        identity = request.match_info["id"]
        async with self._turns:
            try:
                incident = await self._find(identity)
                names = (name for name, _ in incident.files)
                packed = await pack_incident(identity, identity, names, self._keeper.read)
            except KeyError:
                return _nothing()
            return await _send(request, packed.content, "application/gzip")

    async def show_file(self, request: web.Request) -> web.StreamResponse:
        return await self._show(request, request.match_info["name"])

    async def _show(self, request: web.Request, name: str) -> web.StreamResponse:
        identity = request.match_info["id"]
        if not parse_id(identity) or not NAME.fullmatch(name):
            return _nothing()
        async with self._turns:
            try:
                content = await self._keeper.read(identity, name)
            except KeyError:
                return _nothing()
            return await _send(request, content, _type(name))

    async def _listed(self, incident: Incident) -> Listed:
        try:
            return listed(incident, await self._keeper.read(incident.id, RECORD, HEAD))
        except KeyError:
            return listed(incident, b"")

    async def _find(self, identity: str) -> Incident:
        """An incident by its id. Raises KeyError."""
        if parse_id(identity):
            for incident in (await self._keeper.incidents(LISTED)).incidents:
                if incident.id == identity:
                    return incident
        raise KeyError(identity)


async def _send(request: web.Request, content: bytes, content_type: str) -> web.StreamResponse:
    response = web.StreamResponse(headers=headers(content_type))
    response.content_length = len(content)
    await response.prepare(request)
    try:
        async with asyncio.timeout(PATIENCE):
            if request.method != "HEAD":
                for begin in range(0, len(content), PIECE):
                    await response.write(content[begin : begin + PIECE])
            await response.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    return response


def _type(name: str) -> str:
    return "application/json" if name.endswith(".json") else "text/plain; charset=utf-8"


def _nothing() -> web.StreamResponse:
    return reply_text(404, "404: no such evidence; GET /evidence lists what is kept")
