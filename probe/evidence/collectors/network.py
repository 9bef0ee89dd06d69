"""The port's connections grouped by state, the namespace's counters and the sysctls that decide.

All of it belongs to the network namespace, so the capture may read its own: a pod's containers
share one.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from probe.evidence.proc.files import Unavailable, read
from probe.evidence.records.facts import Connections, CounterChange, Peer, StateCount
from probe.evidence.wording import endpoint
from probe.model import Connection, TcpState

OLDEST = 20
"""Connections of one kind that are kept, the oldest first."""

STATES = {number: name for name, number in vars(TcpState).items() if name.isupper()}

COUNTERS = (
    "PassiveOpens",
    "AttemptFails",
    "EstabResets",
    "RetransSegs",
    "ListenOverflows",
    "ListenDrops",
    "TCPReqQFullDrop",
    "TCPReqQFullDoCookies",
    "TCPDeferAcceptDrop",
    "TCPAbortOnData",
    "TCPAbortOnMemory",
    "TCPBacklogDrop",
)

SYSCTLS = (
    "net/core/somaxconn",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/tcp_abort_on_overflow",
    "net/ipv4/tcp_syncookies",
    "net/ipv4/tcp_synack_retries",
)


def summarise(connections: Iterable[Connection], *, redact: bool) -> Connections:
    """Group a port's connections; with `redact`, peers are left out."""
    every = [connection for connection in connections if connection.state != TcpState.LISTEN]
    queued = [connection for connection in every if connection.queued]
    accepted = [connection for connection in every if connection.inode]
    silent = [one for one in accepted if one.bytes_sent == 0 and one.bytes_received]
    states = Counter(connection.state for connection in every)
    waiting = Counter(connection.state for connection in queued)
    return Connections(
        total=len(every),
        states=tuple(
            StateCount(STATES.get(state, str(state)), count, waiting[state])
            for state, count in states.most_common()
        ),
        queued=tuple(peer(one, redact) for one in oldest(queued, "last_data_sent")),
        silent=tuple(peer(one, redact) for one in oldest(silent, "last_data_received")),
        ended=waiting[TcpState.CLOSE_WAIT],
        unclosed=sum(connection.state == TcpState.CLOSE_WAIT for connection in accepted),
    )


def oldest(connections: list[Connection], age: str) -> list[Connection]:
    return sorted(connections, key=lambda one: -(getattr(one, age) or 0.0))[:OLDEST]


def peer(connection: Connection, redact: bool) -> Peer:
    return Peer(
        state=STATES.get(connection.state, str(connection.state)),
        remote="" if redact else remote(connection),
        queued_for=connection.last_data_sent if connection.queued else None,
        quiet_for=connection.last_data_received,
        unread=connection.rqueue,
        received=connection.bytes_received,
    )


def remote(connection: Connection) -> str:
    """Who is at the other end: of a unix socket, the inode of the client's is all that tells."""
    host, number = connection.remote
    return endpoint(host, number) if host else f"socket:[{number}]"


def counters() -> dict[str, int]:
    """The namespace's counters that tell of refused or lost connections. Raises Unavailable."""
    found: dict[str, int] = {}
    for name in ("snmp", "netstat"):
        lines = read(f"/proc/thread-self/net/{name}").decode().split("\n")
        for titles, values in zip(lines[::2], lines[1::2], strict=False):
            found.update(zip(titles.split()[1:], map(int, values.split()[1:]), strict=True))
    return {name: found[name] for name in COUNTERS if name in found}


def changes(
    before: Mapping[str, int], now: Mapping[str, int], healthy: Mapping[str, int]
) -> tuple[CounterChange, ...]:
    """How far each counter rose; those that are 0 say nothing and are left out."""
    return tuple(
        CounterChange(
            name,
            value,
            during=value - before.get(name, value),
            since_healthy=value - healthy[name] if name in healthy else None,
        )
        for name, value in now.items()
        if value
    )


def sysctls() -> tuple[tuple[str, str], ...]:
    """The settings of the namespace that have a part in it, those that can be read."""
    found = []
    for path in SYSCTLS:
        try:
            value = read(f"/proc/sys/{path}", 256).decode().strip()
        except Unavailable:
            continue
        found.append((path.replace("/", "."), value))
    return tuple(found)
