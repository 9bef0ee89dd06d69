"""The table of settings. Flags, environment variables, YAML keys and help are all read from it."""

from collections.abc import Callable, Iterable

from probe.config.records import LISTENING, Config, DiscoveryOptions, ResponseOptions
from probe.config.values import (
    LOOPBACK,
    Choice,
    Count,
    Duration,
    Escaped,
    FilePath,
    Fraction,
    Header,
    Host,
    HostPort,
    HttpPath,
    Kind,
    Label,
    Namespace,
    Regex,
    SendTo,
    Size,
    SocketPath,
    Statuses,
    Switch,
    Url,
    Words,
)
from probe.model import EvidenceOptions, OnStall, Policy, Protocol, Target


class Field:
    """One setting. `into` is where it goes: `listen`, `policy.interval`; empty: nowhere by itself.

    `collect` makes a setting repeatable: it gathers the values. The default is that of the record
    it goes into, unless the row has one. Like all of these tables no NamedTuple: such a class
    costs the start of every `probe check` more than its sixty rows do.
    """

    def __init__(
        self,
        name: str,
        kind: Kind,
        into: str,
        commands: tuple[str, ...],
        help: str,  # noqa: A002 - what it is
        *,
        collect: Callable[[Iterable[object]], object] | None = None,
        metavar: str = "",
        key: str = "",
        own_default: object = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.section, _, self.attribute = into.rpartition(".")
        self.commands = commands
        self.help = help
        self.collect = collect
        self.metavar = metavar or kind.metavar
        self.own_default = own_default
        self.flag = f"--{name}"
        self.key = key or name.replace("-", "_")

    @property
    def environment(self) -> str:
        """The variable; made when somebody asks, since most never do."""
        return f"PROBE_{self.name.replace('-', '_').upper()}"

    @property
    def default(self) -> object:
        if self.own_default is not None:
            return self.own_default
        return SECTIONS[self.section]._field_defaults.get(self.attribute)


SECTIONS: dict[
    str, type[Config | Policy | EvidenceOptions | ResponseOptions | DiscoveryOptions | Target]
] = {
    "": Config,
    "discovery": DiscoveryOptions,
    "policy": Policy,
    "evidence": EvidenceOptions,
    "response": ResponseOptions,
    "target": Target,
}

SERVE = ("serve",)
WATCH = ("serve", "watch")
JUDGE = ("serve", "check", "wait", "diagnose", "watch")
TARGETED = (*JUDGE, "audit")
STORE = ("serve", "diagnose", "evidence list", "evidence show")
REPORT = ("audit", "diagnose", "evidence list", "evidence show")
LINT = ("lint",)
INJECT = ("inject",)
EDIT = ("inject", "uninject")
HOLD = ("hold", "release")
ALL = (*TARGETED, "evidence list", "evidence show", *HOLD, *LINT, *EDIT)

TARGETS = (
    Field(
        "port",
        Count(1, 65535, "a port"),
        "",
        TARGETED,
        "a port of the application",
        collect=tuple,
    ),
    Field(
        "target",
        Url(),
        "",
        TARGETED,
        "a port with its protocol and more, as below",
        collect=tuple,
        key="targets",
    ),
)

SOCKET = Field(
    "socket",
    SocketPath(),
    "target.socket",
    (),
    "a unix socket, in the place of a port; a --target and the file's targets have it",
)

TARGET = (
    Field(
        "protocol",
        Choice(*Protocol),
        "target.protocol",
        JUDGE,
        "how to speak to every --port",
    ),
    Field(
        "host",
        Host(),
        "target.host",
        JUDGE,
        "where to connect; by default what the listener is bound to",
    ),
    Field(
        "path",
        HttpPath(),
        "target.path",
        JUDGE,
        "http, https, fastcgi: ask for it, and take only 200 to 399 for good; without it, GET / "
        "(fastcgi: /ping) and any answer below 500",
    ),
    Field(
        "header",
        Header(),
        "target.headers",
        JUDGE,
        "http, https, grpc: send this as well; Host is who is asked for, and a secret is read when "
        "it is sent: 'Authorization: Bearer ${file:/run/secrets/token}', ${env:NAME}",
        collect=tuple,
        key="headers",
    ),
    Field(
        "method",
        Choice("GET", "HEAD", "POST", "OPTIONS"),
        "target.method",
        JUDGE,
        "http, https: how to ask; the body of a POST is what --send says",
    ),
    Field(
        "status",
        Statuses(),
        "target.status",
        JUDGE,
        "http, https: take these for good, such as 200-299,401; redirects are not followed",
    ),
    Field(
        "send",
        Escaped(),
        "target.send",
        JUDGE,
        r"tcp: send this, such as PING\r\n; http, https: the body of the request",
    ),
    Field(
        "expect",
        Escaped(),
        "target.expect",
        JUDGE,
        "tcp: and then wait for this, such as +PONG; a longer talk is a --target. http, https: "
        "what the body of the answer must hold",
    ),
    Field(
        "match",
        Regex(),
        "target.match",
        JUDGE,
        "http, https: a regular expression that the body of the answer must match, in its first "
        "64 KiB",
    ),
    Field(
        "http-version",
        Choice("1.1", "2"),
        "target.http_version",
        JUDGE,
        "http, https: 2 speaks HTTP/2 alone: by ALPN over TLS, else with prior knowledge (h2c)",
    ),
    Field(
        "service",
        Kind(),
        "target.service",
        JUDGE,
        "grpc: the service whose health to ask for; by default the whole server's",
        metavar="NAME",
    ),
    Field("tls", Switch(), "target.tls", JUDGE, "tcp, grpc: over TLS"),
    Field("ca-file", FilePath(), "target.ca_file", JUDGE, "TLS: trust these authorities only"),
    Field(
        "server-name",
        Host(),
        "target.server_name",
        JUDGE,
        "who is asked for, whatever address is dialled: in Host and in TLS, and to be found in the "
        "certificate",
        metavar="NAME",
    ),
    Field("insecure", Switch(), "target.insecure", JUDGE, "TLS: take any certificate"),
    Field(
        "cert-file",
        FilePath(),
        "target.cert_file",
        JUDGE,
        "TLS: show this certificate of ours, in PEM form; read again when it changes",
    ),
    Field(
        "key-file",
        FilePath(),
        "target.key_file",
        JUDGE,
        "TLS: the key of --cert-file, where that file does not hold it",
    ),
    Field(
        "proxy-protocol",
        Choice("1", "2"),
        "target.proxy_protocol",
        JUDGE,
        "begin with the PROXY header of this version, before TLS and all else",
    ),
)

DISCOVERY = (
    Field(
        "discover",
        Choice("watch", "decide", bare="watch"),
        "discovery.mode",
        SERVE,
        "watch the queue of whatever else listens; so it is where no target is given. decide: let "
        "a stall of one make the pod not ready",
        metavar="[watch|decide]",
    ),
    Field(
        "exclude-port",
        Count(1, 65535, "a port"),
        "discovery.excluded",
        SERVE,
        "discover: leave this port alone",
        collect=tuple,
    ),
    Field(
        "discover-ephemeral",
        Switch(),
        "discovery.ephemeral",
        SERVE,
        "discover: also ports in the range that the kernel gives out by itself (32768 to 60999)",
    ),
)

SIDECAR = (
    Field(
        "sidecar",
        HostPort(empty_host=LOOPBACK, bare=LISTENING),
        "sidecar",
        ("check", "watch"),
        "ask the sidecar there, or where --listen says, instead of the application",
        metavar="[HOST:PORT]",
    ),
    Field("live", Switch(), "live", ("check",), "with --sidecar: whether it is live, not ready"),
)

JUDGEMENT = (
    Field(
        "interval",
        Duration(0.1, 60),
        "policy.interval",
        WATCH,
        "the time from sample to sample, and from round trip to round trip",
    ),
    Field(
        "round-trip-timeout",
        Duration(0.01, 60),
        "policy.timeout",
        ("serve", "wait", "diagnose", "watch"),
        "how long one round trip may take",
    ),
    Field(
        "failure-threshold",
        Count(1, 100),
        "policy.failure_threshold",
        WATCH,
        "not ready after so many failed round trips in a row",
    ),
    Field(
        "success-threshold",
        Count(1, 100),
        "policy.success_threshold",
        WATCH,
        "ready after so many good round trips in a row",
    ),
    Field(
        "saturated-at",
        Fraction(),
        "policy.saturated_at",
        JUDGE,
        "saturated: the accept queue is so full",
    ),
    Field(
        "saturated-for",
        Duration(0, 3600),
        "policy.saturated_for",
        WATCH,
        "and was in every sample for so long",
    ),
    Field(
        "recovered-below",
        Fraction(),
        "policy.recovered_below",
        WATCH,
        "recovered: the accept queue is less full than that",
    ),
    Field(
        "recovered-for",
        Duration(0, 3600),
        "policy.recovered_for",
        WATCH,
        "and was in every sample for so long",
    ),
    Field(
        "stalled-for",
        Duration(0.1, 3600),
        "policy.stalled_for",
        WATCH,
        "stalled: something is queued and nothing was accepted for so long",
    ),
    Field(
        "live-after",
        Duration(0.1, 86400),
        "policy.live_after",
        WATCH,
        "liveness fails when a stall has lasted so long and nobody is served or worked for",
    ),
    Field(
        "live-after-busy",
        Duration(0.1, 86400),
        "policy.live_after_busy",
        WATCH,
        "the same while accepted requests are worked on, or a process that is to accept starts",
    ),
    Field(
        "live-on",
        Choice("vanished", "unanswered"),
        "policy.live_on",
        WATCH,
        "let liveness fail as well when the listener is gone, or when a handler never answers",
        collect=frozenset,
    ),
)

SERVING = (
    Field(
        "listen",
        HostPort(least_port=0),
        "listen",
        ("serve", "check", "watch", *REPORT, *HOLD),
        "where the sidecar answers; an empty host means every address, of both families",
    ),
    Field(
        "agent-listen",
        HostPort(least_port=0),
        "agent_listen",
        SERVE,
        "answer HAProxy's agent-check there: up, drained or down, and its weight",
    ),
    Field("log-format", Choice("text", "json"), "log_format", SERVE, "how to write the log"),
    Field(
        "log-level",
        Choice("debug", "info", "warning", "error"),
        "log_level",
        SERVE,
        "the least that is logged",
    ),
    Field(
        "metrics",
        Choice("brief", "full"),
        "metrics",
        SERVE,
        "full: every duration as a histogram, and every stage from the start; twice as many series",
    ),
    Field(
        "record", FilePath(), "record", SERVE, "write what was observed there, for `probe replay`"
    ),
    Field(
        "drain",
        Duration(0, 60),
        "drain",
        SERVE,
        "after SIGTERM, answer `shutting_down` for this long before ending",
    ),
)

EVIDENCE = (
    Field(
        "evidence-dir",
        FilePath(),
        "evidence.dir",
        STORE,
        "keep evidence there; without it, in memory",
        metavar="DIR",
    ),
    Field(
        "evidence-max-count",
        Count(1, 10_000),
        "evidence.max_count",
        ("serve", "diagnose"),
        "keep so many incidents",
    ),
    Field(
        "evidence-max-size",
        Size(1 << 20, 64 << 30),
        "evidence.max_size",
        ("serve", "diagnose"),
        "and so many bytes of them",
    ),
    Field(
        "evidence-redact",
        Switch(),
        "evidence.redact",
        ("serve", "diagnose"),
        "leave out peers and the names of threads",
    ),
    Field(
        "evidence-deadline",
        Duration(1, 300),
        "evidence.deadline",
        ("serve", "diagnose"),
        "how long a capture may take; liveness waits for it",
    ),
    Field(
        "evidence-cooldown",
        Duration(0, 86400),
        "evidence.cooldown",
        SERVE,
        "the least time from one capture of a target to the next",
    ),
    Field(
        "jvm-attach",
        Switch(),
        "evidence.jvm_attach",
        ("serve", "diagnose"),
        "ask a JVM for its thread dump; leaves a socket file and a thread behind in it",
    ),
    Field(
        "on-incident",
        Words(),
        "evidence.on_incident",
        SERVE,
        "run this with the incident's folder; no shell is involved",
    ),
    Field(
        "on-incident-timeout",
        Duration(1, 600),
        "evidence.on_incident_timeout",
        SERVE,
        "and end it after so long",
    ),
    Field(
        "evidence-put",
        SendTo(),
        "evidence.put",
        SERVE,
        "send each incident there, before liveness fails: a gzip tar, in a folder if the URL ends "
        "with /, and without peers and names of threads, unless --evidence-redact says false",
    ),
    Field(
        "evidence-put-header",
        Header(),
        "evidence.put_headers",
        SERVE,
        "and this header with it: 'Authorization: Bearer ${file:/run/secrets/token}', ${env:NAME}",
        collect=tuple,
        key="evidence_put_headers",
    ),
    Field(
        "evidence-put-ca-file",
        FilePath(),
        "evidence.put_ca_file",
        SERVE,
        "TLS: trust these authorities only, not those of the system",
    ),
)

RESPONSE = (
    Field("kube-events", Switch(), "kube_events", SERVE, "write Events on the own pod"),
    Field(
        "kube-condition",
        Switch(),
        "kube_condition",
        SERVE,
        "write a condition of the own pod, accept-probe/Accepting, which can be its readiness gate",
    ),
    Field(
        "floor",
        Fraction(),
        "response.floor",
        SERVE,
        "saturated, or with a failed round trip, leave the Services only while this share of their "
        "other endpoints is ready, and one at least; a stall always leaves",
    ),
    Field(
        "floor-unknown",
        Choice("leave", "stay"),
        "response.floor_unknown",
        SERVE,
        "what follows where the other endpoints are not known",
    ),
    Field(
        "on-stall",
        Choice(*OnStall),
        "response.on_stall",
        SERVE,
        "restart (if nothing is said): liveness fails; hold: only readiness does; terminate: end "
        "the stalled container; quarantine: relabel the pod, so that a replacement starts and this "
        "one can be studied; evict: have the pod replaced, when its budget allows; exit: end with "
        "status 88, for a rule that restarts all containers. What is given later is for where the "
        "first cannot be done",
        collect=tuple,
    ),
    Field(
        "terminate-grace",
        Duration(0, 3600),
        "response.terminate_grace",
        SERVE,
        "terminate: how long the application has from SIGTERM to SIGKILL",
    ),
    Field(
        "quarantine-label",
        Label(),
        "response.quarantine_labels",
        SERVE,
        "what to do to the pod's labels: set one, or remove it",
        collect=tuple,
    ),
    Field(
        "quarantine-max",
        Count(1, 100),
        "response.quarantine_max",
        SERVE,
        "at most so many pods of one owner at once",
    ),
    Field(
        "quarantine-for",
        Duration(60, 604800),
        "response.quarantine_for",
        SERVE,
        "how long the pod is to be kept",
    ),
)

REVIEW = (
    Field(
        "fail-on",
        Choice("error", "warning", "note"),
        "fail_on",
        LINT,
        "exit with 1 for findings of this level and above",
    ),
    Field(
        "rule",
        Kind(),
        "rules",
        LINT,
        "hold this rule only; docs/rules.md has all of them",
        collect=tuple,
        metavar="RULE",
    ),
    Field(
        "skip",
        Kind(),
        "skip",
        LINT,
        "hold all rules but this one",
        collect=tuple,
        metavar="RULE",
    ),
    Field(
        "format",
        Choice("text", "json", "sarif", "github", "junit"),
        "formats",
        LINT,
        "how to print what was found; by default text",
        collect=tuple,
    ),
    Field(
        "output",
        FilePath(),
        "outputs",
        LINT,
        "write there instead of standard output: the first --output has the first --format, and "
        "so on; fewer have json, sarif and junit",
        collect=tuple,
    ),
)

SIDECAR_TO_BE = (
    Field(
        "port",
        Count(1, 65535, "a port"),
        "ports",
        INJECT,
        "watch this port, rather than what the Services say; of one workload",
        collect=tuple,
    ),
    Field(
        "target",
        Url(),
        "urls",
        INJECT,
        "the same with its protocol and more, as probe serve takes it",
        collect=tuple,
        key="targets",
    ),
    Field(
        "image",
        Kind(),
        "image",
        INJECT,
        "the sidecar's image; by default accept-probe of this version, or the name that is there",
        metavar="NAME:TAG",
    ),
    Field(
        "classic",
        Switch(),
        "classic",
        INJECT,
        "one container more, for Kubernetes before 1.29, instead of a native sidecar",
    ),
)

EDITING = (
    Field("in-place", Switch(), "in_place", EDIT, "write into the files, not to standard output"),
    Field("diff", Switch(), "diff", EDIT, "show what would change, and change nothing"),
    Field(
        "output",
        Choice("manifest", "patch", "component"),
        "form",
        INJECT,
        "patch: a strategic merge patch for kustomize; component: a kustomization.yaml with it",
    ),
)

COMMAND = (
    Field(
        "timeout",
        Duration(0.05, 3600),
        "time_limit",
        ("check",),
        "answer within so long, whatever happens",
        own_default=0.9,
    ),
    Field(
        "exit-style",
        Choice("kubelet", "docker", "consul", "nagios"),
        "exit_style",
        ("check",),
        "exit as this caller takes it; by default kubelet, and nagios with --format nagios",
    ),
    Field(
        "format",
        Choice("text", "json", "nagios", "junit"),
        "format",
        ("check",),
        "how to print the answer; text is one line",
    ),
    Field(
        "format",
        Choice("text", "json"),
        "format",
        ("watch",),
        "json: what is known, one object a line; the last ten minutes with --once alone",
    ),
    Field("once", Switch(), "once", ("watch",), "print what is known now, and end"),
    Field(
        "timeout",
        Duration(0.05, 86400),
        "time_limit",
        ("wait",),
        "give up after so long",
        own_default=60.0,
    ),
    Field(
        "for",
        Duration(1, 86400),
        "hold_for",
        ("hold",),
        "how long",
        own_default=1800.0,
    ),
    Field(
        "ready",
        Switch(),
        "hold_ready",
        ("hold",),
        "keep the pod in its Service, too, though it may serve nobody",
    ),
    Field("json", Switch(), "json", REPORT, "print JSON"),
    Field(
        "pid",
        Count(1, 4194304, "a process id"),
        "pid",
        ("diagnose",),
        "of all that may hold the listener, look at this process alone",
    ),
    Field(
        "netns",
        Namespace(),
        "netns",
        ("diagnose",),
        "look from a node into this network namespace: its name, its path, or a process in it",
    ),
    Field("config", FilePath(), "", ALL, "read a YAML file with these settings"),
)

GROUPS = (
    ("Targets", TARGETS + TARGET),
    ("Discovery", DISCOVERY),
    ("The sidecar", SIDECAR),
    ("Judgement", JUDGEMENT),
    ("Serving", SERVING),
    ("Evidence", EVIDENCE),
    ("Response", RESPONSE),
    ("Review", REVIEW),
    ("The sidecar to be", SIDECAR_TO_BE),
    ("Editing", EDITING),
    ("This command", COMMAND),
)

FIELDS = tuple(field for _, fields in GROUPS for field in fields)


def taken_by(command: str) -> tuple[Field, ...]:
    return tuple(field for field in FIELDS if command in field.commands)
