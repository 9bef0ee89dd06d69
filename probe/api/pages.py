"""The pages that aiohttp serves, one request each, after `replies` has let the client in.

aiohttp is 11 MiB in memory and a third of a start of the sidecar, and most sidecars are never asked
for a page: so nobody imports this before somebody asks for one.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from probe.api.replies import prefers_json
from probe.api.requests import DEFECT, SERVER, Reply, as_json, wants_html
from probe.imports.aiohttp_lean import web

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def runner(routes: Iterable[web.AbstractRouteDef]) -> web.AppRunner:
    """Return what serves these pages, to be set up in the loop."""
    app = web.Application(middlewares=[_refuse_improper])
    app.on_response_prepare.append(_add_headers)
    app.add_routes(routes)
    return web.AppRunner(app, shutdown_timeout=1.0, access_log=None)


def wants_json(request: web.Request) -> bool:
    return prefers_json(_accepted(request))


def is_browser(request: web.Request) -> bool:
    return wants_html(_accepted(request))


def _accepted(request: web.Request) -> str:
    return ",".join(request.headers.getall("Accept", ()))


def headers(content_type: str) -> dict[str, str]:
    return Reply(200, b"", content_type).headers


def reply_text(code: int, body: str) -> web.Response:
    return reply(Reply(code, body.rstrip("\n").encode() + b"\n"))


def reply_json(code: int, body: dict[str, Any]) -> web.Response:
    return reply(as_json(code, body))


def reply(answer: Reply) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, headers=answer.headers)


@web.middleware
async def _refuse_improper(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Say in one line what no page here takes, and what is a defect of ours."""
    refusal = request.match_info.http_exception
    if refusal is not None:
        return reply_text(404, f"404: nothing here; GET {request.path} is no page")
    try:
        return await handler(request)
    except ConnectionError:
        raise  # The client has gone, which is its affair.
    except Exception as error:
        logger.exception("%s %s failed", request.method, request.path, exc_info=error)
        return reply(DEFECT)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = SERVER
