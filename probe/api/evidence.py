"""The evidence over HTTP, for clients in the pod alone (`replies.GUARDED`).

Files are read in a thread, and one at a time is in memory, however many clients want one and
however slowly they take it.
"""

import asyncio
from datetime import UTC, datetime
from typing import Protocol

from probe.api.pages import headers, reply_json, reply_text, wants_json
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
    `/evidence/ID` is a report and `/evidence/ID/FILE` one of an incident's files.
    """
    turns = asyncio.Lock()

    async def show_list(request: web.Request) -> web.StreamResponse:
        async with turns:
            incidents, older = await keeper.incidents(LISTED)
            shown = [await _listed(keeper, incident) for incident in incidents]
        if wants_json(request):
            return reply_json(200, {"incidents": as_json(shown), "older": older})
        return reply_text(200, "\n".join(as_table(shown, older, datetime.now(UTC))))

    async def show_baseline(request: web.Request) -> web.StreamResponse:
        return reply_json(
            200, {"targets": [plain(recollection) for recollection in keeper.recollections()]}
        )

    async def show_report(request: web.Request) -> web.StreamResponse:
        return await show(request, RECORD if wants_json(request) else REPORT)

    async def show_file(request: web.Request) -> web.StreamResponse:
        return await show(request, request.match_info["name"])

    async def show(request: web.Request, name: str) -> web.StreamResponse:
        identity = request.match_info["id"]
        if not parse_id(identity) or not NAME.fullmatch(name):
            return _nothing()
        async with turns:
            try:
                content = await keeper.read(identity, name)
            except KeyError:
                return _nothing()
            return await _send(request, content, _type(name))

    return [
        web.get("/evidence", show_list),
        web.get("/evidence/baseline", show_baseline),
        web.get("/evidence/{id}", show_report),
        web.get("/evidence/{id}/{name}", show_file),
    ]


async def _listed(keeper: Keeper, incident: Incident) -> Listed:
    try:
        return listed(incident, await keeper.read(incident.id, RECORD, HEAD))
    except KeyError:
        return listed(incident, b"")


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
