"""What an answer of HTTP comes to, in whatever version it was given.

Good is 200 to 399 when a path was given, as for kubelet; else any answer below 500; unless the
target says which statuses are, and what the body is to hold. A redirect is an answer. A 400 that
asks for TLS is no answer of the application: whoever holds the port could not read our request.
"""

from __future__ import annotations

from probe.display import without_secrets
from probe.model import Stage, Target
from probe.roundtrip.exchange import LIMIT, Result
from probe.roundtrip.wording import asks_for_tls, escape, quote, shorten, use_tls

BAD_REQUEST, MISDIRECTED = 400, 421

REDIRECTS = frozenset({301, 302, 303, 307, 308})

ANY_ANSWER = ((100, 499),)
AS_KUBELET = ((200, 399),)


def good(target: Target) -> tuple[tuple[int, int], ...]:
    """The statuses that are: from and to."""
    return target.status or (AS_KUBELET if target.path else ANY_ANSWER)


def ranges(statuses: tuple[tuple[int, int], ...]) -> str:
    """Statuses in words: `200 to 299, 401`."""
    return ", ".join(f"{low}" if low == high else f"{low} to {high}" for low, high in statuses)


def fault(target: Target, status: int | None, said: bytes, location: bytes) -> Result | None:
    """What is wrong with the status, once it is known; the answer need not be whole."""
    if status is None:
        return None
    if status == BAD_REQUEST and not target.encrypted and asks_for_tls(said):
        detail = f"HTTP {status}: {quote(said)}; {use_tls(target)}"
        return Result(Stage.UNEXPECTED_REPLY, detail, status)
    if any(low <= status <= high for low, high in good(target)):
        return None
    detail = f"HTTP {status}, not {ranges(good(target))}"
    if status in REDIRECTS and location:
        detail += f": {leads(location)}"
    elif said.strip():
        detail += f": {quote(said)}"
    if status == MISDIRECTED and target.encrypted and not target.server_name:
        detail += "; --server-name gives the name to ask for"
    return Result(Stage.STATUS, detail, status)


def judge(target: Target, status: int, said: bytes, location: bytes) -> Result:
    """What a whole answer comes to. `said` is its body, or as much of it as is looked at."""
    if wrong := fault(target, status, said, location):
        return wrong
    if (target.expect or target.match) and (lacks := _lacks(target, said)):
        return lacks._replace(status=status)
    note = f"HTTP {status}: {leads(location)}" if status in REDIRECTS and location else ""
    return Result(status=status, detail=note)


def leads(location: bytes) -> str:
    """Where a redirect leads, without what may be a secret."""
    where = shorten(escape(without_secrets(location.decode(errors="replace")).encode()))
    return f"a redirect to {where}, which is not followed"


def _lacks(target: Target, body: bytes) -> Result | None:
    """What the body was to hold and does not."""
    if target.expect not in body:
        missing = f'no "{shorten(escape(target.expect))}"'
    elif missing := _mismatch(target.match, body) if target.match else "":
        missing = f"{missing} {shorten(target.match)}"
    else:
        return None
    size = f"{len(body)} bytes" if len(body) < LIMIT else f"the first {LIMIT} bytes"
    came = f"in {size} of the body: {quote(body)}" if body.strip() else "but an empty body"
    return Result(Stage.UNEXPECTED_REPLY, f"{missing} {came}")


def _mismatch(pattern: str, body: bytes) -> str:
    from probe.pattern import TooDear, compiled

    try:
        return "" if compiled(pattern).matches(body) else "nothing that matches"
    except TooDear:
        return "too many ways to match"
