"""How it is asked: the kind of probe, its times, and what they add up to."""

from collections.abc import Iterator

from probe.lint.records import Found, Level, Rule
from probe.lint.rules.ports import CLIENTS, HTTP_GET, listed, spoken
from probe.lint.view import View
from probe.manifests import Container, Probe, Value

ROLES = ("readinessProbe", "livenessProbe", "startupProbe")

PATIENCE = 10
"""Seconds of silence, all told, below which liveness kills an application for being busy ..."""

SPELL = 60
"""... and the seconds within which they come: longer than most spells of load last."""

READINESS_LIMIT = 30
RESTART_LIMIT = 120
EXECS_A_SECOND = 10
EXEC_COST = 0.08
"""Seconds of CPU on the node for one exec probe: docs/kubernetes.md, "exec, http or gRPC?"."""


def each(view: View, *roles: str) -> Iterator[Probe]:
    """The probes of the containers that run, but those that our sidecar answers."""
    for container in view.pod.containers:
        for role in roles:
            probe = container.probe(role)
            if probe is not None and not view.asks_sidecar(probe):
                yield probe


def tcp_probe(view: View) -> Iterator[Found]:
    for probe in each(view, "readinessProbe", "livenessProbe"):
        if probe.handler != "tcpSocket":
            continue
        port = probe.action.get("port")
        yield Found(
            port,
            f"The {probe.role} of container {probe.container.name} connects to port {port.text} "
            "and asks nothing. The kernel answers a connect by itself until the accept queue is "
            "full, so an application that has stopped accepting passes; and each connect takes one "
            "place more in that queue.",
            *request(view, probe),
        )


def request(view: View, probe: Probe) -> tuple[str, tuple[str, ...]]:
    """A sentence, and the lines of a question that only the application can answer."""
    number = probe.port or 0
    telling = "Ask something that only the application can answer:"
    if words := CLIENTS.get(number):
        lines = (f"{probe.role}:", f"  exec: {{command: [{words}]}}", "  timeoutSeconds: 3")
        return telling, lines
    route = next((route for route in view.traffic if route.number == number), None)
    if route is not None and spoken(route) == "http":
        port = probe.action.get("port").text
        return telling, (f"{probe.role}:", "  httpGet:", "    path: /", f"    port: {port}")
    return (
        "Ask it in its own protocol; or let the sidecar ask the kernel whether it accepts:",
        ("args:", "  - serve", f"  - --target=tcp://:{number}"),
    )


def handler(probe: Probe) -> tuple[object, ...]:
    """All that makes one question the same as another."""
    action = probe.action
    headers = tuple(
        (header.get("name").text.lower(), header.get("value").text)
        for header in action.get("httpHeaders")
    )
    port = probe.port or action.get("port").text
    scheme = action.get("scheme").text.upper() or "HTTP"
    return (
        *(probe.handler, port, probe.path, probe.host, scheme, headers),
        *(probe.command, action.get("service").text),
    )


def asks(probe: Probe) -> str:
    """What it asks, in words."""
    port = probe.port or probe.action.get("port").text
    told = {
        HTTP_GET: f"GET {probe.path} on port {port}",
        "tcpSocket": f"a connect to port {port}",
        "grpc": f"the gRPC health of port {port}",
        # Which is not shown: passwords stand in commands.
        "exec": "the same command",
    }
    return told.get(probe.handler, "nothing")


def liveness_equals_readiness(view: View) -> Iterator[Found]:
    for container in view.applications:
        liveness, readiness = container.probe("livenessProbe"), container.probe("readinessProbe")
        if liveness is None or readiness is None or not liveness.handler:
            continue
        if view.asks_sidecar(liveness) or handler(liveness) != handler(readiness):
            continue
        if liveness.notices_within > readiness.notices_within:
            continue
        lasts = max(3 * readiness.threshold, 6)
        yield Found(
            liveness.value,
            f"Liveness and readiness of container {container.name} both ask "
            f"{asks(liveness)}, and liveness fails after {liveness.notices_within} s, readiness "
            f"after {readiness.notices_within} s: an application that needs a pause from its "
            "traffic is restarted instead, and its load goes to the others, which are restarted "
            "next.",
            "Give liveness several times the patience of readiness, or leave it out:",
            (
                "livenessProbe:",
                f"  periodSeconds: {liveness.period}",
                f"  timeoutSeconds: {max(liveness.timeout, 5)}",
                f"  failureThreshold: {lasts}",
            ),
        )


def liveness_kills_busy(view: View) -> Iterator[Found]:
    for probe in each(view, "livenessProbe"):
        ports = view.ports_of(probe) if probe.handler in (HTTP_GET, "grpc") else None
        if not ports or not ports & view.ports:
            continue
        silence = probe.timeout * probe.threshold
        within = probe.period * (probe.threshold - 1) + probe.timeout
        if silence >= PATIENCE or within >= SPELL:
            continue
        yield Found(
            probe.value,
            f"The liveness probe of container {probe.container.name} asks {listed(ports)}, the "
            f"port of the traffic, and restarts it when {probe.threshold} answers in a row take "
            f"longer than {probe.timeout} s, which is {within} s of load or of garbage collection. "
            "A busy application is killed with all that it was serving, and the next replica is "
            "busier.",
            "Wait longer before a restart, or let it ask the sidecar, which tells busy from dead:",
            (
                "livenessProbe:",
                f"  periodSeconds: {max(probe.period, 10)}",
                "  timeoutSeconds: 5",
                "  failureThreshold: 6",
            ),
        )


def timeout_default(view: View) -> Iterator[Found]:
    for container in view.pod.containers:
        found = [
            probe
            for role in ("readinessProbe", "livenessProbe")
            if (probe := container.probe(role))
            and probe.handler in (HTTP_GET, "grpc", "exec")
            and not probe.value.get("timeoutSeconds")
            and not view.asks_sidecar(probe)
        ]
        if not found:
            continue
        roles = " and ".join(probe.role for probe in found)
        has = "has" if len(found) == 1 else "have"
        command = any(probe.handler == "exec" for probe in found)
        takes = "To start a process in a container can take longer." if command else ""
        yield Found(
            found[0].value,
            f"{roles} of container {container.name} {has} no timeoutSeconds, so kubelet waits 1 s "
            "for an answer: a pause for garbage collection or a slow node is a failure. "
            f"{takes}".rstrip(),
            "Say how long an answer may take:",
            (f"{found[0].role}:", "  timeoutSeconds: 3"),
        )


def readiness_slow(view: View) -> Iterator[Found]:
    if not view.for_users:
        return
    asked = [
        probe
        for probe in view.readiness
        if probe.handler and probe.notices_within > READINESS_LIMIT
    ]
    for probe in asked:
        yield Found(
            probe.value,
            f"A bad pod keeps its traffic for up to {probe.notices_within} s: periodSeconds "
            f"{probe.period} x failureThreshold {probe.threshold} + timeoutSeconds "
            f"{probe.timeout}, of the readiness probe of container {probe.container.name}.",
            "Ask more often:",
            (
                "readinessProbe:",
                "  periodSeconds: 5",
                f"  timeoutSeconds: {min(max(probe.timeout, 1), 3)}",
                "  failureThreshold: 2",
            ),
        )


def restart_slow(view: View) -> Iterator[Found]:
    for container in view.applications:
        probe = container.probe("livenessProbe")
        if probe is None or not probe.handler:
            continue
        own = probe.value.get("terminationGracePeriodSeconds").number
        grace = view.pod.grace if own is None else own
        total = probe.notices_within + grace
        if total <= RESTART_LIMIT:
            continue
        whose = "the probe's own" if own is not None else "the pod's"
        yield Found(
            probe.value,
            f"A dead container {container.name} is restarted after up to {total} s: periodSeconds "
            f"{probe.period} x failureThreshold {probe.threshold} + timeoutSeconds "
            f"{probe.timeout} + {grace} s of grace ({whose} terminationGracePeriodSeconds), since "
            "what hangs does not obey SIGTERM.",
            "Give the probe a grace period of its own, and fewer failures to wait for:",
            (
                "livenessProbe:",
                f"  periodSeconds: {min(probe.period, 10)}",
                f"  failureThreshold: {min(probe.threshold, 6)}",
                "  terminationGracePeriodSeconds: 10",
            ),
        )


def probe_host(view: View) -> Iterator[Found]:
    if view.pod.host_network:
        return  # the node's own loopback is then the pod's, and the baseline forbids it anyway
    for container in view.pod.all_containers:
        for name in ROLES:
            probe = container.probe(name)
            if probe is not None and probe.host:
                yield refused(name, container, probe.action.get("host"))
        for hook in ("postStart", "preStop"):
            for kind in (HTTP_GET, "tcpSocket"):
                if host := container.value.get("lifecycle", hook, kind, "host"):
                    yield refused(f"{hook} hook", container, host)


def refused(what: str, container: Container, at: Value) -> Found:
    host = at.text
    return Found(
        at,
        f"The {what} of container {container.name} asks host {host}, not the pod: kubelet asks it "
        "from the node, where 127.0.0.1 is the node itself, and since Kubernetes 1.34 the baseline "
        "level of Pod Security refuses such a pod.",
        "Leave the host out, which means the pod's own address; a name for virtual hosts is a "
        "header:",
        (
            "httpGet:",
            "  path: /",
            "  port: http",
            "  httpHeaders:",
            f"    - {{name: Host, value: {host}}}",
        ),
    )


def exec_in_many(view: View) -> Iterator[Found]:
    found = [
        probe
        for role in ("readinessProbe", "livenessProbe")
        for probe in view.pod.probes(role)
        if probe.handler == "exec"
    ]
    if not found:
        return
    rate = sum(1 / probe.period for probe in found)
    replicas = view.pod.replicas or 1
    if rate < 1 and rate * replicas < EXECS_A_SECOND:
        return
    many = f"{replicas} replicas" if replicas > 1 else "one pod"
    cores = rate * replicas * EXEC_COST
    yield Found(
        found[0].value,
        f"kubelet starts {rate * replicas:.2g} processes a second for the exec probes of {many}, "
        f"at about 80 ms of CPU on the node each: {cores:.2g} cores for asking.",
        "Ask by httpGet or grpc, which costs about 1 ms, or less often:",
        (f"{found[0].role}:", "  periodSeconds: 10"),
    )


RULES = (
    Rule(
        "tcp-probe",
        Level.WARNING,
        "A probe connects and asks nothing",
        "An application that has stopped accepting goes on passing, since the kernel answers a "
        "connect; and the probe itself fills the accept queue.",
        "Ask something that only the application can answer.",
        """\
readinessProbe:
  exec: {command: [redis-cli, ping]}
  timeoutSeconds: 3
""",
        tcp_probe,
    ),
    Rule(
        "liveness-equals-readiness",
        Level.WARNING,
        "Liveness asks what readiness asks, and is no more patient",
        "An application that needs a pause from its traffic is restarted instead, and its load "
        "goes to the others.",
        "Give liveness several times the patience of readiness, or leave it out.",
        """\
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 9
""",
        liveness_equals_readiness,
    ),
    Rule(
        "liveness-kills-busy",
        Level.WARNING,
        "Liveness asks the port of the traffic, and has little patience",
        "An application that is busy is killed with all that it was serving, and the next replica "
        "is busier.",
        "Wait longer before a restart, or let the sidecar answer, which tells busy from dead.",
        """\
livenessProbe:
  httpGet: {path: /live, port: 9809}   # the sidecar's
  periodSeconds: 5
  failureThreshold: 6
""",
        liveness_kills_busy,
    ),
    Rule(
        "timeout-default",
        Level.NOTE,
        "A probe does not say how long an answer may take",
        "kubelet waits 1 s: a pause for garbage collection or a slow node counts as a failure.",
        "Say how long an answer may take.",
        """\
readinessProbe:
  timeoutSeconds: 3
""",
        timeout_default,
    ),
    Rule(
        "readiness-slow",
        Level.NOTE,
        "A bad pod keeps its traffic for more than 30 s",
        "So long, every request that the Service sends there fails.",
        "Ask more often.",
        """\
readinessProbe:
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: 2
""",
        readiness_slow,
    ),
    Rule(
        "restart-slow",
        Level.NOTE,
        "A dead container is restarted after more than 2 minutes",
        "So long, the replica is missing.",
        "Give the probe a grace period of its own, and fewer failures to wait for.",
        """\
livenessProbe:
  terminationGracePeriodSeconds: 10
""",
        restart_slow,
    ),
    Rule(
        "probe-host",
        Level.WARNING,
        "A probe or a hook names a host",
        "kubelet asks that host from the node and not the pod, and Pod Security's baseline refuses "
        "the pod since Kubernetes 1.34.",
        "Leave the host out; a name for virtual hosts is a header.",
        """\
httpGet:
  path: /
  port: http
  httpHeaders:
    - {name: Host, value: shop.example}
""",
        probe_host,
    ),
    Rule(
        "exec-in-many",
        Level.NOTE,
        "Exec probes start many processes",
        "Each costs about 80 ms of CPU on the node, most of it in the container runtime.",
        "Ask by httpGet or grpc, which costs about 1 ms, or less often.",
        """\
readinessProbe:
  grpc: {port: 9000}
""",
        exec_in_many,
    ),
)
