"""`probe audit`: every listener of the namespace, its queue and owner, and what nothing probes."""

import json
import sys
from collections.abc import Iterable
from contextlib import closing
from typing import NamedTuple

from probe import exits
from probe.api import client as sidecar
from probe.config import Config, ListenAddress
from probe.display import printable
from probe.evidence.acceptors.owners import Owners
from probe.kernel import CannotTell, open_view, unixdiag
from probe.kernel.hosts import NoAddress, find, reached
from probe.kernel.namespace import Interface, from_outside, interfaces
from probe.kernel.sockdiag import Channel
from probe.model import Listener, Target, plain
from probe.sidecar import hold

REACHABLE = {True: "outside", False: "loopback", None: "?"}
BY_PATH = "path"
"""By whom a unix socket is reached: by whoever has its path in sight, or its abstract name."""

NAME_PATIENCE = 2.0
"""Seconds that the resolver may take over a target's host."""


class ListenerRow(NamedTuple):
    """One listener. `owners` are `name (pid)`; empty: not visible from here. `from_outside`: see
    namespace.from_outside.
    """

    listener: Listener
    owners: tuple[str, ...]
    probed: bool
    from_outside: bool | None
    discovered: bool = False
    """Our sidecar has found it, and watches its queue alone."""


def run(config: Config) -> int:
    """Print the table, or JSON. Exit 0; 3 when the listeners could not be read."""
    try:
        with closing(open_view()) as view:
            listeners = (*view.listeners(), *_unix_listeners())
    except CannotTell as error:
        print(f"probe: {error}", file=sys.stderr)
        return exits.UNKNOWN
    watched = _watched(config.listen.asked)
    own = _own(config.listen, listeners)
    targets = (*config.targets, *(watched or ()))
    probed = _reached(listeners, (target for target in targets if not target.discovered))
    discovered = _reached(listeners, (target for target in targets if target.discovered))
    found = Owners().find(one.inode for one in listeners).owners
    links = _interfaces()
    rows = sorted(
        (
            ListenerRow(
                one,
                tuple(f"{owner.comm} ({owner.pid})" for owner in found.get(one.inode, ())),
                one in probed,
                from_outside(one, links) if one.port else False,
                one in discovered - probed,
            )
            for one in listeners
            if watched is None or one not in own
        ),
        key=lambda row: (not row.listener.port, row.listener.port, row.listener.address),
    )
    print("\n".join(_as_json(rows) if config.json else _as_table(rows)))
    return exits.OK


def _own(at: ListenAddress, listeners: Iterable[Listener]) -> set[Listener]:
    """Those of the sidecar that answers there: its port, and the socket by which it is held."""
    held_by = hold.address(at.port).replace("\0", "@")
    return {
        *_listeners_of(Target(at.port, host=at.host), listeners),
        *(one for one in listeners if not one.port and one.address == held_by),
    }


def _unix_listeners() -> tuple[Listener, ...]:
    """Those on unix sockets; where the kernel does not tell, none, and it is said."""
    try:
        with closing(Channel()) as channel:
            return unixdiag.listeners(channel)
    except CannotTell as error:
        print(f"probe: unix sockets are left out: {error}", file=sys.stderr)
        return ()


def _interfaces() -> tuple[Interface, ...] | None:
    try:
        return interfaces()
    except CannotTell:
        return None


def _watched(address: ListenAddress) -> tuple[Target, ...] | None:
    """Return what the sidecar there watches; None where there is no sidecar."""
    try:
        return sidecar.watched(address)
    except sidecar.Unanswered:
        return None


def _reached(listeners: Iterable[Listener], targets: Iterable[Target]) -> set[Listener]:
    """Those that any of the targets means."""
    return {listener for target in targets for listener in _listeners_of(target, listeners)}


def _listeners_of(target: Target, listeners: Iterable[Listener]) -> tuple[Listener, ...]:
    """Those that a target means; none where its host is of another network namespace."""
    if target.socket:
        try:
            with closing(unixdiag.open_socket(target.socket, from_afar=True)) as view:
                meant = {one.cookie for one in view.listeners()}
        except CannotTell:
            return ()
        return tuple(one for one in listeners if not one.port and one.cookie in meant)
    try:
        hosts = find(target.host, NAME_PATIENCE)
    except NoAddress:
        return ()
    return reached(hosts, (listener for listener in listeners if listener.port == target.port))


def _as_json(rows: Iterable[ListenerRow]) -> list[str]:
    return [
        json.dumps(
            {
                **plain(row.listener),
                "from_outside": row.from_outside,
                "owners": list(row.owners),
                "probed": row.probed,
                "discovered": row.discovered,
            }
        )
        for row in rows
    ]


def _as_table(rows: list[ListenerRow]) -> list[str]:
    if not rows:
        return ["Nothing listens here."]
    lines = [("PORT", "ADDRESS", "REACHABLE", "QUEUED", "LIMIT", "DROPS", "PROBED", "OWNER")]
    lines += [
        (
            str(row.listener.port or "unix"),
            printable(row.listener.address),
            REACHABLE[row.from_outside] if row.listener.port else BY_PATH,
            str(row.listener.length),
            _known(row.listener.limit),
            _known(row.listener.drops) if row.listener.port else "-",
            "yes" if row.probed else "queue" if row.discovered else "no",
            ", ".join(row.owners) or "not visible",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)][:-1]
    table = [
        "  ".join([*(map(str.ljust, line, widths)), line[-1]])  # the last one is as long as it is
        for line in lines
    ]
    notes = []
    if ports := _ports(row for row in rows if row.discovered):
        notes.append(f"Watched by the queue alone: {ports}. --port for each would ask it, too.")
    unprobed = [row for row in rows if not (row.probed or row.discovered)]
    if ports := _ports(row for row in unprobed if row.listener.port):
        notes.append(f"Nothing probes {ports}: a sidecar would with --port for each.")
    if paths := sorted(row.listener.address for row in unprobed if not row.listener.port):
        said = ", ".join(map(printable, paths))
        notes.append(f"Nothing probes {said}: a sidecar would with --target unix://PATH for each.")
    return [*table, *([""] if notes else []), *notes]


def _ports(rows: Iterable[ListenerRow]) -> str:
    return ", ".join(map(str, sorted({row.listener.port for row in rows})))


def _known(number: int | None) -> str:
    return "?" if number is None else str(number)
