"""What is answered from memory, by no library: the three questions, /status, /metrics, and what is
refused. No request makes us ask the kernel or the application, so that no client can make us slow,
and no fault of theirs makes us silent.
"""

import logging
import re
from collections.abc import Callable

from probe.api.answers import NoTarget, ask, checks, document, hold_document, text
from probe.api.metrics import CONTENT_TYPE, Metrics
from probe.api.questions import PATHS, Asked, UnclearQuestion, read_question
from probe.api.requests import DEFECT, Reply, Request, as_json, line, wants_html
from probe.api.status import About, Evidence, nothing_tried, status
from probe.model import EvidenceSent
from probe.sidecar.board import Board

logger = logging.getLogger(__name__)

GUARDED = ("/evidence",)
"""The pages, with all that is below them, that `probe.api.pages` serves: to who may enter the pod,
since they show peers, threads and stacks."""

VIEWS = ("/", "/view")
"""What people look at, which `probe.api.view.live` serves to everyone."""

LONG = ("/status", "/metrics", "/view")
"""What takes a millisecond rather than a tenth of it."""

LOOPBACK = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})
"""Not the rest of 127.0.0.0/8: a service mesh hands on what comes from outside from there, Istio
from 127.0.0.6."""

HANDED_ON = (b"forwarded", b"via", b"x-forwarded-for")

LOCAL_NAME = re.compile(rb"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.IGNORECASE)

FITS = {
    "*/*": (1, 1),
    "application/*": (2, 0),
    "text/*": (0, 2),
    "application/json": (3, 0),
    "text/plain": (0, 3),
}
"""How closely a media range fits JSON and plain text; 0: not at all."""

RANGES = re.compile(rf"(?:^|,)\s*({'|'.join(map(re.escape, FITS))})\s*(?:;([^,]*))?(?=,|$)")
"""The media ranges of an Accept header that matter here; others cost next to nothing."""


class Replies:
    """What the board and the metrics make of requests."""

    def __init__(
        self,
        board: Board,
        about: About,
        metrics: Metrics,
        *,
        evidence: Evidence = nothing_tried,
        sent: Callable[[], EvidenceSent] | None = None,
    ) -> None:
        self._board = board
        self._about = about
        self._metrics = metrics
        self._evidence = evidence
        self._sent = sent

    def at_once(self, request: Request) -> Reply | None:
        """Answer one of the three questions, which takes a tenth of a millisecond; else None."""
        if request.method not in (b"GET", b"HEAD"):
            return None
        try:
            asked = read_question(request.path.decode(), request.query.decode())
        except UnclearQuestion as error:
            return line(400, str(error))
        if asked is None:
            return None
        return answer_question(self._board, asked, request.value(b"accept").decode())

    def reply(self, request: Request, peer: str) -> Reply | None:
        """Answer a client at the address `peer`; None where it asks for a page and may see it."""
        try:
            return self.at_once(request) or self._reply(request, peer)
        except Exception:
            logger.exception("%s %s failed", *map(bytes.decode, (request.method, request.path)))
            return DEFECT

    def takes_long(self, request: Request) -> bool:
        """Tell whether an answer takes more than a tenth of a millisecond."""
        return request.path.decode() in LONG

    def _reply(self, request: Request, peer: str) -> Reply | None:
        path = request.path.decode()
        guarded = path.startswith(tuple(f"{page}/" for page in GUARDED)) or path in GUARDED
        if path == "/" and not wants_html(request.value(b"accept").decode()):
            return _nothing_here()
        if not guarded and path not in (*VIEWS, *LONG) and read_question(path) is None:
            return _nothing_here()
        if request.method not in (b"GET", b"HEAD"):
            return line(405, f"{path} takes GET and HEAD")._replace(allow="GET,HEAD")
        if path in VIEWS:
            return None
        local = is_local(request, peer)
        if path == "/status":
            # The self-test names processes, which is for who may enter the pod.
            shown = self._evidence if local else nothing_tried
            lag = self._metrics.loop_lag
            return as_json(200, status(self._board, self._about, lag, shown, self._sent))
        if path == "/metrics":
            return Reply(200, self._metrics.render(), CONTENT_TYPE)
        if not local:
            return line(
                403,
                f"{path} is for clients on the loopback address of this pod; "
                "from elsewhere: kubectl port-forward POD LOCAL_PORT:PORT",
            )
        return None


def _nothing_here() -> Reply:
    pages = ", ".join(page for paths in PATHS.values() for page in paths[:1])
    return line(
        404, f"nothing here; there are {pages}, /status, /metrics and, in a browser, a page"
    )


def is_local(request: Request, peer: str) -> bool:
    """Tell whether a request comes from this network namespace, as `kubectl port-forward` does,
    which enters it.

    The peer's address decides; no header can stand in for it. Headers can only make it worse: a
    request that a proxy beside us says it handed on is not local, nor is one from a web page that
    reaches the forwarded port through a name of its own (DNS rebinding).
    """
    return (
        peer in LOOPBACK
        and not any(name in HANDED_ON for name, _ in request.headers)
        and all(LOCAL_NAME.fullmatch(value) for name, value in request.headers if name == b"host")
    )


def answer_question(board: Board, asked: Asked, accept: str) -> Reply:
    """Answer as text, or as JSON where a client prefers that."""
    try:
        answer = ask(board, asked)
    except NoTarget as error:
        return line(404, str(error))
    degraded = bool(answer.warnings)
    code = (asked.warn if degraded else 200) if answer.ok else 503
    if prefers_json(accept):
        shown = as_json(code, document(answer, checks(board, asked), hold_document(board)))
    else:
        details = checks(board, asked) if asked.verbose else ()
        shown = Reply(code, text(answer, details, warn=asked.warn != 200).encode())
    return shown._replace(degraded=degraded)


def prefers_json(accept: str) -> bool:
    """Tell whether an Accept header prefers JSON to plain text; on a tie, plain text it is."""
    json_best = text_best = (0, 0.0)  # how closely a range fits, and the quality it gives
    for media, parameters in RANGES.findall(accept.lower()):
        quality = 1.0
        for parameter in parameters.split(";"):
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                quality = _number(value)
        json_fit, text_fit = FITS[media]
        if json_fit > json_best[0]:
            json_best = (json_fit, quality)
        if text_fit > text_best[0]:
            text_best = (text_fit, quality)
    return _preference(json_best) > _preference(text_best)


def _preference(best: tuple[int, float]) -> tuple[float, int]:
    fit, quality = best
    return (quality, fit) if quality else (0.0, 0)


def _number(quality: str) -> float:
    try:
        return min(max(float(quality), 0.0), 1.0)
    except ValueError:
        return 0.0
