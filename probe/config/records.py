"""What a configuration comes to. Durations are seconds, sizes bytes."""

from __future__ import annotations

from probe.display import host_port
from probe.imports.typing_lite import NamedTuple
from probe.model import EvidenceOptions, Policy, Target

LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where to ask who listens at every address."""


class ListenAddress(NamedTuple):
    """Where to listen or connect; an empty host means every address, of both families."""

    host: str
    port: int

    @property
    def asked(self) -> ListenAddress:
        """Where a client of the same network namespace asks who listens there: at loopback, who
        listens at every address; to loopback a sidecar tells everything.
        """
        return self._replace(host=LOOPBACK.get(self.host, self.host))

    def __str__(self) -> str:
        return host_port(self.host, self.port)


LISTENING = ListenAddress("", 0)
"""Stands for wherever the sidecar was told to listen."""


class DiscoveryOptions(NamedTuple):
    """Whether listeners that are no target are watched by their queue: 'watch', and nothing depends
    on them; 'decide', and a stall of one makes the pod not ready.
    """

    mode: str | None = None
    excluded: tuple[int, ...] = ()
    """Ports that are left alone."""
    ephemeral: bool = False
    """Ports that the kernel has given out too."""


class ResponseOptions(NamedTuple):
    """What follows a stall."""

    on_stall: tuple[str, ...] = ()
    """In this order, where one cannot be done: of OnStall; none is RESTART."""
    quarantine_labels: tuple[tuple[str, str | None], ...] = ()
    """Label and value to set on the own pod; None: remove the label."""
    quarantine_max: int = 1
    quarantine_for: float = 3600.0
    terminate_grace: float = 10.0
    floor: float | None = None
    """Whoever is overloaded leaves only while this share of the others is ready; None: whenever."""
    floor_unknown: str = "leave"
    """What it does where they are not known: 'leave' or 'stay'."""


class Config(NamedTuple):
    """What one command was asked to do. Settings the command does not take are at their default."""

    command: str
    targets: tuple[Target, ...] = ()
    policy: Policy = Policy()
    listen: ListenAddress = ListenAddress("", 9809)
    agent_listen: ListenAddress | None = None
    """Where HAProxy's agent-check is answered, if it is."""
    log_format: str = "text"
    log_level: str = "info"
    metrics: str = "brief"
    record: str = ""
    drain: float = 1.0
    """Between SIGTERM and the end: time for somebody to be told that we are not ready."""
    evidence: EvidenceOptions = EvidenceOptions()
    response: ResponseOptions = ResponseOptions()
    discovery: DiscoveryOptions = DiscoveryOptions()
    kube_events: bool = False
    kube_condition: bool = False
    sidecar: ListenAddress | None = None
    """Ask the sidecar there instead of the application."""
    live: bool = False
    time_limit: float = 0.0
    """For the whole command (check, wait); a round trip's own is `policy.timeout`."""
    exit_style: str = ""
    """Whose exit statuses `check` has; empty: those that go with its format."""
    format: str = "text"
    """How `check` and `watch` print."""
    once: bool = False
    """Whether `watch` ends with the first answer."""
    json: bool = False
    pid: int | None = None
    netns: str = ""
    file: str = ""
    """The recording that `replay` reads."""
    paths: tuple[str, ...] = ()
    """What `lint`, `inject` and `uninject` read; `-` is standard input."""
    fail_on: str = "warning"
    rules: tuple[str, ...] = ()
    """Those that `lint` holds; empty: all, but those to `skip`."""
    skip: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    """Those that `inject` is to watch, whatever the manifests say; `urls`: the same as targets."""
    urls: tuple[str, ...] = ()
    image: str = ""
    classic: bool = False
    """A container beside the others, rather than a native sidecar."""
    in_place: bool = False
    diff: bool = False
    form: str = "manifest"
    """What `inject` writes."""
    hold_for: float = 0.0
    """Seconds that `hold` asks for."""
    hold_ready: bool = False
    incident: str = ""
    """The id that `evidence show` was given."""
    then: tuple[str, ...] = ()
    """What follows `--`: what `wait` becomes once the targets are healthy, or more arguments of the
    sidecar that `inject` puts there.
    """
    notices: tuple[str, ...] = ()
    """What was found and ignored, a line each; serve logs them."""
