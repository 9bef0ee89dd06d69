"""The records that pass between the rooms. Pure data: no I/O, no clock.

Every record is a NamedTuple: frozen, slotted, typed, and without the import of `dataclasses`,
which alone would cost `probe check` more CPU time than all the rest of its start.

Times called `at` or `since` are seconds on the monotonic clock of whoever recorded them;
durations are seconds.
"""

from __future__ import annotations

from enum import StrEnum

from probe.display import utc
from probe.imports.typing_lite import Any, NamedTuple


class Outcome(StrEnum):
    """What a round trip came to. UNKNOWN is not a failure: we could not tell."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Stage(StrEnum):
    """Where a round trip that failed was stuck, or what was wrong with its answer."""

    REFUSED = "refused"
    SYN_DROPPED = "syn_dropped"
    HANDSHAKE_INCOMPLETE = "handshake_incomplete"
    QUEUED = "queued"
    UNREAD = "unread"
    UNANSWERED = "unanswered"
    RESET = "reset"
    TLS = "tls"
    STATUS = "status"
    UNEXPECTED_REPLY = "unexpected_reply"


class Reason(StrEnum):
    """Why a target is not ready, or not live."""

    STARTING = "starting"
    NOT_LISTENING = "not_listening"
    ACCEPT_QUEUE_SATURATED = "accept_queue_saturated"
    ACCEPT_QUEUE_STALLED = "accept_queue_stalled"
    ROUND_TRIP_FAILED = "round_trip_failed"
    SHUTTING_DOWN = "shutting_down"


class Condition(StrEnum):
    """What the judge thinks of a target. SUSPECT: a symptom, but not yet for long enough."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    SUSPECT = "suspect"
    UNHEALTHY = "unhealthy"


WORST_FIRST = (Condition.UNHEALTHY, Condition.SUSPECT, Condition.UNKNOWN, Condition.HEALTHY)
"""In the order in which people want to hear of targets."""


class OnStall(StrEnum):
    """What follows a stall, when /live would fail.

    RESTART: it does, and kubelet restarts the application. HOLD: it does not, and the pod stays out
    of service until somebody looks. TERMINATE: the stalled container is ended, and kubelet starts
    it again. QUARANTINE: the pod is set aside and replaced. EVICT: it is deleted and replaced, when
    its budget allows. EXIT: the sidecar ends, and a rule of the pod restarts all of its containers.
    """

    RESTART = "restart"
    HOLD = "hold"
    TERMINATE = "terminate"
    QUARANTINE = "quarantine"
    EVICT = "evict"
    EXIT = "exit"


class Protocol(StrEnum):
    """How a round trip speaks to the application."""

    HTTP = "http"
    HTTPS = "https"
    TCP = "tcp"
    GRPC = "grpc"
    FASTCGI = "fastcgi"
    QUEUE = "queue"
    """Not at all: no connection is ever made, and the accept queue alone is judged."""


class Target(NamedTuple):
    """One port or unix socket of the application, and how to ask it.

    An empty host means: dial what the listener is bound to. An empty path (http, https): ask for /,
    and any answer below 500 is good; a path: 200 to 399, as kubelet has it; unless `status` says
    which are. fastcgi is the same, and without a path asks for /ping.
    """

    port: int
    protocol: Protocol = Protocol.HTTP
    host: str = ""
    path: str = ""
    send: bytes = b""
    """tcp: what is said first; http: the body of the request."""
    expect: bytes = b""
    """tcp: what is to come then; http: what the body of the answer is to hold."""
    service: str = ""
    tls: bool = False
    """tcp and grpc over TLS; https always is."""
    ca_file: str = ""
    server_name: str = ""
    verify: bool = True
    then: tuple[tuple[bytes, bytes], ...] = ()
    """tcp: what is said and expected after the first `send` and `expect`, step by step."""
    headers: tuple[tuple[str, str], ...] = ()
    """http, grpc: names and values. A value as it was written: a secret in a variable or a file is
    read when it is sent, and is in no record."""
    method: str = "GET"
    status: tuple[tuple[int, int], ...] = ()
    """http: from and to; empty: as the path has it."""
    match: str = ""
    """http: a regular expression (`probe.pattern`) that the body of the answer is to match."""
    http_version: str = "1.1"
    """"2": by ALPN over TLS, else with prior knowledge."""
    cert_file: str = ""
    key_file: str = ""
    """The client's certificate; its key may be in the same file."""
    proxy_protocol: str = ""
    """The version of the header that is sent before all else; empty: none."""
    socket: str = ""
    """The path of a unix socket, `@NAME` of an abstract one; then the port is 0."""

    discovered: bool = False
    """Found listening, and not asked for: it decides nothing by itself."""

    @property
    def name(self) -> str:
        """The target in logs, labels and messages: its port or the path of its socket, which no
        two targets share.
        """
        return self.socket or str(self.port)

    @property
    def slug(self) -> str:
        """The name as it can be a part of a file's name: of a socket, the end of its path."""
        if not self.socket:
            return str(self.port)
        end = self.socket.rpartition("/")[2]
        plain = "".join(
            one if one.isascii() and (one.isalnum() or one == ".") else "_" for one in end
        )
        return f"unix.{plain[:40]}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The words of it that may be a password, and are to be shown to nobody: what is sent, over
        tcp what is expected too, and the values in the query of the path. Shorter ones than 4
        letters hide nothing. The headers of a request are known to who sends it alone.
        """
        expected = self.expect if self.protocol is Protocol.TCP else b""
        talk = (self.send, expected, *(part for step in self.then for part in step))
        said = b" ".join(talk).decode("utf-8", "backslashreplace")
        values = (pair.rpartition("=")[2] for pair in self.path.partition("?")[2].split("&"))
        return tuple(word for word in (*said.split(), *values) if len(word) >= 4)

    @property
    def encrypted(self) -> bool:
        return self.tls or self.protocol is Protocol.HTTPS


class Listener(NamedTuple):
    """A LISTEN socket as the kernel tells of it at one moment.

    The address of a unix socket is its path as it was bound, or `@NAME`, and its port is 0.
    `length` and `limit` count connections in the accept queue; the kernel calls the queue full
    when length > limit, so limit + 1 fit. `limit` and `drops` are None where only /proc could be
    asked. `cookie` tells one listener from its successor on the same port.
    """

    family: int
    address: str
    port: int
    cookie: int
    length: int
    limit: int | None
    drops: int | None
    inode: int
    uid: int
    v6only: bool | None = None
    """An AF_INET6 listener that takes no IPv4; None where that does not arise or is not known."""
    device: int = 0
    """The index of the interface that it is bound to, and takes connections by; 0: by any, or not
    known."""

    @property
    def full(self) -> bool:
        """Whether one more connection might be dropped. A limit of 0 holds one connection."""
        return self.limit is not None and self.length >= max(self.limit, 1)

    @property
    def saturation(self) -> float | None:
        """Length / limit; None where the limit is not known."""
        return None if self.limit is None else self.length / max(self.limit, 1)


class TcpState:
    """What a connection can be in (include/net/tcp_states.h). Not an enum, whose making would cost
    every `probe check` 0.2 ms.
    """

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12


class Connection(NamedTuple):
    """The server's side of one TCP connection, as an exact lookup or a dump gives it.

    `rqueue` and `wqueue` are bytes; `queued` is the one question most callers have: it waits in
    the accept queue, and no process has a descriptor for it.
    """

    state: int
    family: int
    local: tuple[str, int]
    remote: tuple[str, int]
    cookie: int
    inode: int
    rqueue: int
    wqueue: int
    retransmits: int = 0
    bytes_sent: int | None = None
    bytes_received: int | None = None
    last_data_sent: float | None = None
    """Seconds; of a queued connection that is how long it has been queued."""
    last_data_received: float | None = None
    last_ack_received: float | None = None

    @property
    def queued(self) -> bool:
        """ESTABLISHED or CLOSE_WAIT without an inode; elsewhere inode 0 means nothing."""
        return self.inode == 0 and self.state in MAY_BE_QUEUED


MAY_BE_QUEUED = (TcpState.ESTABLISHED, TcpState.CLOSE_WAIT)
"""The states in which a connection can be in the accept queue."""


class Sample(NamedTuple):
    """The listeners of one target at one moment.

    `accepts` counts every accept in the network namespace but our own so far, up to a constant
    (PassiveOpens less the sum of all queue lengths), None when it could not be read consistently.
    `head` holds the cookies of the queued connections of which one is the head of the port's
    queue, if all of them were seen queued in this very sample; () when nobody looked. `error` says
    why nothing could be seen; then the listeners mean nothing.
    """

    listeners: tuple[Listener, ...] = ()
    accepts: int | None = None
    head: tuple[int, ...] = ()
    error: str = ""
    absence: str = ""
    """What is seen instead of a listener, where something is."""


class Accepted(NamedTuple):
    """The server's side of a connection as a walk of thousands is content with: no text is made.

    `local` and `remote` are addresses in binary, 16 bytes whatever the family. `rqueue`, `sent` and
    `received` are bytes; `sent_ago` and `received_ago` seconds since the last data went either way,
    or since the connection was made while there was none.
    """

    state: int
    family: int
    local: bytes
    remote: bytes
    remote_port: int
    cookie: int
    inode: int
    rqueue: int = 0
    retransmits: int = 0
    sent: int = 0
    received: int = 0
    sent_ago: float = 0.0
    received_ago: float = 0.0


class Work(NamedTuple):
    """What a restart would cut off, as one walk of the connection table saw it; and who accepts.

    It counts connections to the target that a process holds a descriptor of, ours left out.
    """

    accepted: int
    """All of them."""
    served: int = 0
    """Those that were sent something within the policy's `live_after`."""
    sent_ago: float | None = None
    """Seconds since any of them was sent something; None: none ever was. What is being sent again,
    since nobody acknowledges it, is not sent."""
    working: int = 0
    """Those whose data has been read and not been answered yet: they received more lately than they
    were sent anything."""
    resets: int | None = None
    """Established connections that were reset in the whole namespace so far (EstabResets)."""
    youngest_owner: float | None = None
    """Seconds that the youngest process with a descriptor of the listener has lived; None: nobody
    born since the last known accept is in sight."""
    acceptors_gone: bool | None = None
    """Whether it is proven that who accepted has exited; None: that cannot be told."""


class Phases(NamedTuple):
    """How long each part of a round trip took, in seconds; None where it was not reached.

    `accept` is the accept delay: from the end of the handshake until the application held a
    descriptor for our connection.
    """

    connect: float | None = None
    accept: float | None = None
    tls: float | None = None
    first_byte: float | None = None
    total: float | None = None


class RoundTrip(NamedTuple):
    """What one connection to the application came to. `at` is when it was begun."""

    at: float
    outcome: Outcome
    stage: Stage | None = None
    detail: str = ""
    status: int | None = None
    accepted: bool = False
    phases: Phases = Phases()


class Observation(NamedTuple):
    """What the judge is fed: a sample, the end of a round trip, or both.

    `accepted`: a connection of ours that had been queued was accepted since the last observation.
    `own_queued_for`: seconds that our own connection was seen in the queue, None when it is not
    there.
    `work`: what a walk has seen since the last observation of what a restart would cost.
    `unasked`: no connection of ours is ever made, and what is observed is all there is to judge.
    """

    at: float
    sample: Sample | None = None
    round_trip: RoundTrip | None = None
    accepted: bool = False
    own_queued_for: float | None = None
    work: Work | None = None
    unasked: bool = False


class Policy(NamedTuple):
    """The thresholds of the judge; the defaults are those of `probe serve`. Durations: seconds."""

    interval: float = 1.0
    saturated_at: float = 0.9
    saturated_for: float = 5.0
    recovered_below: float = 0.5
    recovered_for: float = 2.0
    stalled_for: float = 3.0
    timeout: float = 2.0
    failure_threshold: int = 2
    success_threshold: int = 1
    live_after: float = 30.0
    live_after_busy: float = 300.0
    """While accepted requests are worked on, or a process that holds the listener starts."""
    live_on: frozenset[str] = frozenset()
    """Beside a stall: 'vanished' (the listener is gone), 'unanswered' (a handler never answers)."""


class EvidenceOptions(NamedTuple):
    """What is captured when a target turns suspect, and how much of it is kept. Durations are
    seconds, sizes bytes.
    """

    dir: str = ""
    """Empty: in memory only."""
    max_count: int = 20
    max_size: int = 64 << 20
    redact: bool = False
    deadline: float = 10.0
    cooldown: float = 300.0
    jvm_attach: bool = False
    on_incident: tuple[str, ...] = ()
    """The user's own command, as words; nothing is run through a shell."""
    on_incident_timeout: float = 30.0
    put: str = ""
    """`PUT URL` or `POST URL`: where it is sent. As in the headers, a secret stands there by its
    place, and is read when it is sent."""
    put_headers: tuple[tuple[str, str], ...] = ()
    put_ca_file: str = ""


class EvidenceSent(NamedTuple):
    """What came so far of sending evidence away, for /status and /metrics.

    `failed` counts attempts, the others incidents; `error` is why the last attempt failed, "" where
    it did not.
    """

    to: str
    sent: int = 0
    failed: int = 0
    waiting: int = 0
    given_up: int = 0
    error: str = ""


class Verdict(NamedTuple):
    """What is thought of one target, and since when.

    `message` gives the figures; `incident` is when the first suspicion arose, None while healthy.
    `kept` says why it is live although it has stalled for long enough, "" where that is not so.
    """

    target: str
    condition: Condition = Condition.UNKNOWN
    reason: Reason | None = Reason.STARTING
    stage: Stage | None = None
    message: str = ""
    since: float = 0.0
    incident: float | None = None
    ready: bool = False
    live: bool = True
    started: bool = False
    kept: str = ""


class Hold(NamedTuple):
    """Somebody's wish that /live, and if `ready` /ready too, stays good whatever is found.

    It lasts `until` on the clock of the verdicts, which is `ends` on the wall.
    """

    until: float
    ends: float
    ready: bool = False
    by: str = ""

    def __str__(self) -> str:
        what = "/live and /ready are" if self.ready else "/live is"
        return f"{what} held good until {utc(self.ends)}, as {self.by} asked"


class Transition(NamedTuple):
    """A change of condition or reason, or of being ready, live or started."""

    target: str
    at: float
    before: Verdict
    after: Verdict


def plain(value: Any) -> Any:
    """Return a record as JSON knows it: dicts, lists, strings, numbers, booleans and None."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: plain(item) for name, item in value._asdict().items()}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value
