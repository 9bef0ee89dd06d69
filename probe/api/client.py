"""What a sidecar in this network namespace says, for the commands that may do without it."""

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

from probe.config.records import ListenAddress
from probe.display import printable
from probe.evidence.records.report import Judgement, Recollection, SidecarState, typed
from probe.model import Target

PATIENCE = 5.0
"""Seconds that a sidecar may take for an answer, which it gives from memory; for the first page it
loads what serves pages."""

SILENCE = 20.0
"""Seconds without an event after which nobody is there any more. There is one a second, or a few
seconds where there are many targets."""

EVENTS = "text/event-stream"

MAX_ANSWER = 8 << 20
"""Bytes of an answer that are taken."""

ROUNDED = 1.0
"""Seconds by which the time in an incident's id may be too early."""


class Unanswered(Exception):
    """The sidecar does not tell; str() says why in one line."""


class Absent(Unanswered):
    """Nothing listens there: there is no sidecar."""


class NotKept(Unanswered):
    """It has no such page."""


class Known(NamedTuple):
    """What a sidecar knows of one port."""

    sidecar: SidecarState
    recollection: Recollection


def get(address: ListenAddress, path: str, accept: str = "application/json") -> bytes:
    """One page of the sidecar there. Raises Unanswered."""
    with _answer(address, path, accept, PATIENCE) as answer:
        return answer.read(MAX_ANSWER)


def follow(address: ListenAddress, path: str) -> Iterator[Any]:
    """What the sidecar there sends of a page as server-sent events: the JSON of each, as it comes,
    until it sends no more. Raises Unanswered, also where nothing came for SILENCE.
    """
    with understood(address), _answer(address, path, EVENTS, SILENCE) as answer:
        if answer.headers.get_content_type() != EVENTS:
            raise ValueError("no events")
        data = b""
        while line := answer.readline(MAX_ANSWER):
            field, _, value = line.rstrip(b"\r\n").partition(b":")
            if field == b"data":
                data += value
                if len(data) > MAX_ANSWER:
                    raise ValueError("an event without an end")
            elif not field and not value and data:  # the empty line at the end of each
                yield json.loads(data)
                data = b""


@contextmanager
def _answer(
    address: ListenAddress, path: str, accept: str, patience: float
) -> Iterator[http.client.HTTPResponse]:
    """A good answer to a question; `patience`: seconds that each piece of it may take. Raises
    Unanswered, whatever happens while it is read, too.
    """
    connection = http.client.HTTPConnection(address.host, address.port, timeout=patience)
    try:
        connection.request("GET", path, headers={"Host": "localhost", "Accept": accept})
        answer = connection.getresponse()
        if answer.status != 200:
            body = answer.read(MAX_ANSWER)
            said = printable(body.decode("utf-8", "replace").partition("\n")[0][:200])
            refusal = NotKept if answer.status == 404 else Unanswered
            raise refusal(f"the sidecar at {address} says {said}")
        yield answer
    except ConnectionRefusedError:
        raise Absent(f"no sidecar answers at {address}") from None
    except (OSError, http.client.HTTPException) as error:
        said = getattr(error, "strerror", "") or str(error)
        why = "no answer in time" if isinstance(error, TimeoutError) else printable(said)
        raise Unanswered(f"the sidecar at {address}: {why}") from error
    finally:
        connection.close()


def recall(address: ListenAddress, target: Target) -> Known:
    """What the sidecar there knows of a target; not if it watches its port at another host.
    Raises Unanswered.
    """
    name, host = target.name, target.host
    with understood(address):
        targets = _targets(address)
        if name not in targets:
            others = ", ".join(targets)
            raise Unanswered(f"the sidecar at {address} watches {others}, and not {name}")
        known = targets[name]
        if host and known["host"] not in ("", host):
            place = f"{known['host']}, port {name}"
            raise Unanswered(f"the sidecar at {address} watches {place}, and not that of {host}")
        judgement = _judgement(known)
        told = json.loads(get(address, "/evidence/baseline"))
        recollections = typed(tuple[Recollection, ...], told["targets"])
        recollection = {one.socket or str(one.port): one for one in recollections}[name]
        kept = json.loads(get(address, "/evidence"))["incidents"]
        said = SidecarState(
            where=str(address),
            judgement=judgement,
            incident=_incident(kept, target.slug, judgement.lasting),
            own_queued_for=known["own_connection_queued_seconds"],
        )
        return Known(said, recollection)


def watched(address: ListenAddress) -> tuple[Target, ...]:
    """What the sidecar there watches: ports and hosts or sockets, and which it discovered. Raises
    Unanswered.
    """
    with understood(address):
        return tuple(
            Target(
                told["port"] or 0,
                host=str(told["host"]),
                socket=told["socket"] or "",
                discovered=told["discovered"] is True,
            )
            for told in _targets(address).values()
        )


def _targets(address: ListenAddress) -> dict[str, dict[str, Any]]:
    return {str(one["name"]): one for one in json.loads(get(address, "/status"))["targets"]}


@contextmanager
def understood(address: ListenAddress) -> Iterator[None]:
    """Whatever else may answer there, its answers are no reason to fail."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Unanswered(f"what answers at {address} is no sidecar of this version") from error


def _judgement(target: dict[str, Any]) -> Judgement:
    verdict = target["verdict"]
    incident = verdict["incident"]
    lasting = None if incident is None else incident["seconds_ago"]
    return typed(
        Judgement, {**verdict, "ready": target["ready"], "live": target["live"], "lasting": lasting}
    )


def _incident(kept: list[dict[str, Any]], place: str, lasting: float | None) -> str:
    """The id of what was kept of an incident that has lasted so many seconds."""
    if lasting is None:
        return ""
    began = time.time() - lasting - ROUNDED
    for one in kept:
        if one["place"] == place and datetime.fromisoformat(one["at"]).timestamp() >= began:
            return str(one["id"])
    return ""
