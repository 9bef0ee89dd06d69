"""Which port is asked, and which takes the traffic: the incident, seen in review."""

from collections.abc import Iterator
from typing import NamedTuple

from probe.lint import sidecar
from probe.lint.records import Found, Level, Place, Rule
from probe.lint.view import View, is_side
from probe.manifests import Probe, Route

HTTP_GET = "httpGet"


CLIENTS = {
    6379: "redis-cli, ping",
    5432: "pg_isready, -h, 127.0.0.1",
    3306: "mysqladmin, ping, -h, 127.0.0.1",
    5672: "rabbitmq-diagnostics, -q, check_port_connectivity",
}
"""What servers on well-known ports bring along to be asked with."""

NOT_HTTP = (*CLIENTS, 9092, 11211, 27017)
"""Ports that speak something else, whether or not anybody names them."""


class Framework(NamedTuple):
    """A framework that puts health on a port of its own, and how to have it on the traffic's."""

    why: str
    path: str
    env: tuple[str, ...] = ()
    """Lines of a container's `env`."""


SPRING = Framework(
    "With management.server.port, Spring Boot answers health on that port alone; its property "
    "management.endpoint.health.probes.add-additional-paths brings /readyz and /livez to the port "
    "of the traffic:",
    "/readyz",
    ("  - name: MANAGEMENT_ENDPOINT_HEALTH_PROBES_ADDADDITIONALPATHS", '    value: "true"'),
)
QUARKUS = Framework(
    "With quarkus.management.enabled, Quarkus answers /q/health on its management port alone "
    "(9000): build without it, or ask a route that the application itself serves:",
    "/q/health/ready",
)
MICRONAUT = Framework(
    "With endpoints.all.port, Micronaut answers health on that port alone: leave it unset, or ask "
    "a route that the application itself serves:",
    "/health/readiness",
)
AKKA = Framework(
    "Akka Management answers /ready on a server of its own (8558): ask a route that the "
    "application itself serves:",
    "/",
)


def framework(probe: Probe) -> Framework | None:
    """Whose health it asks, by path and port."""
    if "/actuator/health" in probe.path:
        return SPRING
    if "/q/health" in probe.path:
        return QUARKUS
    if probe.path.startswith(("/health/readiness", "/health/liveness")):
        return MICRONAUT
    return AKKA if probe.port == 8558 else None


def spoken(route: Route) -> str:
    """`grpc`, `http` or `tcp`: what a port speaks, by its names."""
    names = " ".join(route.names).lower()
    if "grpc" in names:
        return "grpc"
    if any(word in names for word in ("http", "web", "api", "www", "rest", "h2c")):
        return "http"
    return "tcp" if names or route.number in NOT_HTTP else "http"


def instead(view: View, missed: list[Route], probe: Probe) -> tuple[str, tuple[str, ...]]:
    """A sentence, and the lines of a readiness probe that asks the first of the ports."""
    route = missed[0]
    speaks = spoken(route)
    if speaks == "grpc":
        lines: tuple[str, ...] = ("readinessProbe:", f"  grpc: {{port: {route.number}}}")
        return "Ask the port of the traffic:", lines
    if speaks == "tcp":
        return (
            "Ask that port in its own protocol, by a command or by the sidecar, which sees in the "
            "kernel whether the application accepts:",
            by_sidecar(view, missed),
        )
    known = framework(probe)
    path = probe.path if probe.handler == HTTP_GET else "/"
    lines = ("readinessProbe:", "  httpGet:")
    if known is not None:
        path = known.path
        lines = ("env:", *known.env, *lines) if known.env else lines
    lines = (*lines, f"    path: {path}", f"    port: {route.name or route.number}")
    return known.why if known else "Ask the port of the traffic:", lines


def by_sidecar(view: View, missed: list[Route]) -> tuple[str, ...]:
    """The arguments with which a sidecar watches these ports, and those that are asked already."""
    schemes = {"grpc": "--target=grpc://:{}", "tcp": "--target=tcp://:{}", "http": "--port={}"}
    new = [schemes[spoken(route)].format(route.number) for route in missed]
    kept = [f"--port={number}" for number in sorted(view.asked.ports & view.ports)]
    return ("args:", "  - serve", *(f"  - {word}" for word in (*kept, *new)))


def described(probe: Probe, view: View) -> str:
    """`8081 (/healthz)`: what a probe asks."""
    if view.asks_sidecar(probe) and view.sidecar:
        targets = view.sidecar.reading.ports
        return f"the sidecar, which watches {listed(targets)}" if targets else "the sidecar"
    ports = view.ports_of(probe)
    asked = listed(ports) if ports else probe.action.get("port").text or "a command"
    return f"{asked} ({probe.path})" if probe.handler == HTTP_GET else asked


def listed(numbers: frozenset[int] | set[int] | None) -> str:
    return enumerated([str(number) for number in sorted(numbers or ())])


def enumerated(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = words or [""]
    return f"{', '.join(first)} and {last}" if first else last


def of_service(route: Route) -> Place:
    return Place(
        route.service.file,
        route.port.line,
        route.port.column,
        f"{route.service.title} sends traffic to {route.title}",
    )


def traffic_port_unprobed(view: View) -> Iterator[Found]:
    if not view.readiness or not view.asked.knows_all:
        return
    asked = view.asked.ports
    missed = [route for route in view.traffic if route.number not in asked]
    users = [route for route in missed if not is_side(route)]
    if users and not any(route.number in asked for route in view.for_users):
        # What is further missed matters less, and is left for the next time.
        yield unprobed(view, users, None)
        return
    # The ports of a headless Service are for peers, who look for themselves.
    further = [route for route in missed if not route.is_headless]
    if users := [route for route in further if not is_side(route)]:
        # kubelet has one probe a container; the sidecar has as many targets as are wanted.
        yield unprobed(view, users, Level.WARNING if view.sidecar else Level.NOTE)
    if side := [route for route in further if is_side(route)]:
        yield unprobed(view, side, Level.NOTE)


def unprobed(view: View, missed: list[Route], level: Level | None) -> Found:
    """`level` is None where users are sent to ports of which none is asked: the incident."""
    probe = nearest(view, missed[0])
    if view.sidecar is not None:
        telling, lines = "Let the sidecar watch it as well:", by_sidecar(view, missed)
    elif level is None:
        telling, lines = instead(view, missed, probe)
    else:
        telling = "A container has one readiness probe; the sidecar watches any number of ports:"
        lines = by_sidecar(view, missed)
    them = "it" if len(missed) == 1 else "any of them"
    asks = "; ".join(
        f"that of container {asking.container.name} asks {described(asking, view)}"
        for asking in view.readiness
    )
    follows = (
        the_incident(view, missed)
        if level is None
        else "A pod that no longer accepts there stays Ready for as long as its other ports answer."
    )
    return Found(
        probe.action.get("port") or probe.action or probe.value,
        f"{sent(missed)}, and no readiness probe asks {them}: {asks}. {follows}",
        telling,
        lines,
        tuple(map(of_service, missed)),
        level,
    )


def the_incident(view: View, missed: list[Route]) -> str:
    """What happens to the user, in the figures of this manifest."""
    replicas = view.pod.replicas or 1
    share = f" (one request in {replicas})" if replicas > 1 else ""
    others = listed(view.asked.ports) or "all else"
    verb = "go" if len(view.asked.ports) > 1 else "goes"
    numbers = listed({route.number for route in missed if route.number is not None})
    return (
        f"When nothing accepts on {numbers} any more, the kernel goes on completing handshakes "
        f"there, and {others} {verb} on answering: the pod stays Ready, keeps its share of the "
        f"traffic{share}, and every request in it waits until it times out."
    )


def sent(missed: list[Route]) -> str:
    """`Service a sends traffic to port 80 (http), Service b to ports 81 and 82`."""
    ports: dict[str, list[str]] = {}
    for route in missed:
        ports.setdefault(route.service.title, []).append(route.title)
    told: list[str] = []
    for service, titles in ports.items():
        sends = "" if told else " sends traffic"
        told.append(f"{service}{sends} to port{'s' * (len(titles) > 1)} {enumerated(titles)}")
    return ", ".join(told)


def nearest(view: View, route: Route) -> Probe:
    """The readiness probe to change: that of the container that takes the traffic."""
    container = route.container or view.serving
    return next(
        (probe for probe in view.readiness if probe.container == container), view.readiness[0]
    )


def probe_port_not_traffic(view: View) -> Iterator[Found]:
    serving = view.serving
    if serving is None or not view.for_users:
        return
    probe = serving.probe("livenessProbe")
    if probe is None or view.asks_sidecar(probe) or probe.handler == "exec":
        return
    ports = view.ports_of(probe)
    if not ports or ports & view.ports:
        return
    route = view.ordinary[0]
    yield Found(
        probe.action.get("port"),
        f"The liveness probe of container {serving.name} asks {described(probe, view)}, to which "
        f"no Service sends traffic. A container that has stopped accepting on {route.title} "
        "answers there all the same, and is never restarted.",
        "Let it ask the sidecar, whose /live tells a dead application from a busy one; or leave "
        "it, if somebody restarts by hand:",
        ("livenessProbe:", "  httpGet:", "    path: /live", f"    port: {sidecar.LISTEN}"),
        (of_service(route),),
    )


def probe_port_undeclared(view: View) -> Iterator[Found]:
    for container in view.pod.containers:
        for role in ("readinessProbe", "livenessProbe", "startupProbe"):
            probe = container.probe(role)
            if probe is None or probe.handler not in (HTTP_GET, "tcpSocket"):
                continue
            name = probe.action.get("port")
            if name and probe.port is None:
                names = enumerated(container.port_names) or "no name"
                yield Found(
                    name,
                    f"The {role} of container {container.name} asks the port named {name.text}, "
                    f"and the container has {names}: kubelet cannot ask, and counts every time as "
                    "a failure.",
                    "Give the port that name, or ask it by its number:",
                    named(name.text),
                )


def named(name: str) -> tuple[str, ...]:
    return ("ports:", f"  - name: {name}", "    containerPort: 8080   # what it listens on")


def service_port_undeclared(view: View) -> Iterator[Found]:
    for route in view.routes:
        if route.number is not None or not route.name:
            continue
        names = [name for container in view.pod.containers for name in container.port_names]
        has = f"has {enumerated(names)}" if names else "names no port"
        owner, template = view.pod.owner, view.pod.template
        yield Found(
            route.port.get("targetPort"),
            f"{route.service.title} sends traffic to the port named {route.name}, and "
            f"{owner.title}, which it selects, {has}: the Service has no endpoint for it, "
            "and every connection is refused or dropped.",
            "Name the port in the container that listens on it, or give its number:",
            named(route.name),
            (Place(owner.file, template.line, template.column, "the pod"),),
            None,
            route.service,
        )


def no_readiness(view: View) -> Iterator[Found]:
    if view.readiness or view.gates or not view.traffic:
        return
    route = view.ordinary[0]
    container = route.container or view.serving or view.applications[0]
    if spoken(route) == "grpc":
        handler: tuple[str, ...] = (f"  grpc: {{port: {route.number}}}",)
    elif spoken(route) == "tcp":
        words = CLIENTS.get(route.number or 0, "a, request, in, its, own, protocol")
        handler = (f"  exec: {{command: [{words}]}}",)
    else:
        handler = ("  httpGet:", "    path: /", f"    port: {route.name or route.number}")
    yield Found(
        container.value,
        f"{route.service.title} sends traffic to port {route.title}, and no container has a "
        "readiness probe: the pod gets its share from the moment its processes run until they "
        "end, whether or not anything answers.",
        "Ask the port of the traffic:",
        ("readinessProbe:", *handler, "  periodSeconds: 5", "  timeoutSeconds: 3"),
        (of_service(route),),
        None if any(not route.is_headless for route in view.for_users) else Level.NOTE,
    )


INCIDENT = """\
readinessProbe:
  httpGet:
    path: /
    port: 8080   # the targetPort of the Service
"""

RULES = (
    Rule(
        "traffic-port-unprobed",
        Level.ERROR,
        "A Service sends traffic to a port that no readiness probe asks",
        "When the application stops accepting on that port, the pod stays Ready and every request "
        "in it times out, for as long as the other port answers.",
        "Let a readiness probe ask the port that takes the traffic.",
        INCIDENT,
        traffic_port_unprobed,
    ),
    Rule(
        "probe-port-not-traffic",
        Level.NOTE,
        "A liveness probe asks a port to which no Service sends traffic",
        "A container that has stopped accepting on the port of the traffic is never restarted.",
        "Let liveness ask the sidecar, which restarts for a proven stall of that port alone.",
        """\
livenessProbe:
  httpGet:
    path: /live
    port: 9809   # the sidecar's
""",
        probe_port_not_traffic,
    ),
    Rule(
        "probe-port-undeclared",
        Level.ERROR,
        "A probe asks a port by a name that its container does not have",
        "kubelet cannot ask: the pod is never ready, or is restarted for ever.",
        "Give the port that name, or ask it by its number.",
        """\
ports:
  - name: http
    containerPort: 8080
readinessProbe:
  httpGet: {path: /, port: http}
""",
        probe_port_undeclared,
    ),
    Rule(
        "service-port-undeclared",
        Level.ERROR,
        "A Service asks for a port by a name that the pod does not have",
        "The Service has no endpoint for that port: every connection to it is refused or dropped.",
        "Name the port in the container that listens on it, or give its number.",
        """\
ports:
  - name: http   # as the Service's targetPort says
    containerPort: 8080
""",
        service_port_undeclared,
    ),
    Rule(
        "no-readiness",
        Level.WARNING,
        "A Service selects a pod without a readiness probe",
        "Clients are sent to it before anything listens, and go on being sent when it hangs.",
        "Ask the port of the traffic.",
        """\
readinessProbe:
  httpGet:
    path: /
    port: http
  periodSeconds: 5
  timeoutSeconds: 3
""",
        no_readiness,
    ),
)
