"""What to watch: which ports take the traffic, and how to ask each of them. Nothing is guessed:
each answer comes with where it was found, and what is not said is asked of the user.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from probe.config.targets import PARAMETERS
from probe.display import without_secrets
from probe.lint.view import View, is_side, is_side_name
from probe.manifests import Container, Probe, Route, Value

ROLES = ("readinessProbe", "livenessProbe", "startupProbe")
HTTP = ("http", "web", "www", "http1", "ws")
TOLD = "--port"
WELL_KNOWN = {80: "http", 3306: "queue"}
"""Ports of a Service that say by themselves what is spoken."""
BANS = {"mysql", "mariadb"}
"""Who knocks at these without speaking is banned after a while: the queue tells enough."""


class Ambiguous(Exception):
    """str() says why it cannot be told what to watch, and what the user can do."""


class Nothing(Exception):
    """str() says why there is nothing to watch."""


class Port(NamedTuple):
    """A port that takes traffic."""

    number: int
    container: Container | None
    why: str
    route: Route | None = None


class Asking(NamedTuple):
    """How a port is asked."""

    url: str
    """Empty: by http without a path, as --port alone has it."""
    why: str
    probe: Probe | None = None
    """Whose question it is."""
    headers: str = ""
    """The names of those that are sent."""

    @property
    def shown(self) -> str:
        """A header or the query of a path may be a secret."""
        if not self.url:
            return "http, any answer below 500"
        return without_secrets(self.url) + (f" with {self.headers}" if self.headers else "")

    def word(self, number: int) -> str:
        return f"--target={self.url}" if self.url else f"--port={number}"


def place(view: View, value: Value, route: Route | None = None) -> str:
    file = route.service.file if route else view.pod.owner.file
    return f"{file}:{value.line}"


# --- which


def ports(view: View, notes: list[str]) -> list[Port]:
    """Those to which Services send traffic; where none is known, the one that the pod declares."""
    if view.routes:
        return routed(view, notes)
    declared = list(of_containers(view))
    users = [port for port in declared if not is_side_name(port.why)]
    if len(users) == 1:
        port = users[0]
        named = f" ({port.why})" if port.why else ""
        return [
            port._replace(why=f"container {owner(port)} declares it{named}; no Service is here")
        ]
    if users:
        numbers = ", ".join(str(port.number) for port in users)
        raise Ambiguous(
            f"which of its ports takes the traffic, {numbers}? Give --port, or its Service as "
            "well: kubectl get deploy,svc -o yaml"
        )
    for probe in view.readiness:
        if probe.port is not None and not probe.host and not declared:
            why = f"its readiness asks it ({place(view, probe.value)}); no Service is here"
            return [Port(probe.port, probe.container, why)]
    raise Nothing(
        "takes no traffic: no Service selects it, and it declares no port for users; --port N if "
        "it listens all the same"
    )


def owner(port: Port) -> str:
    return port.container.name if port.container else ""


def routed(view: View, notes: list[str]) -> list[Port]:
    known = {route.number: route for route in view.routes if route.number is not None}
    if not known:
        names = ", ".join(sorted({route.name for route in view.routes}))
        raise Ambiguous(f"its Service asks for a port named {names}, and no container has one")
    routes = view.ordinary or tuple(known.values())
    chosen = [route for route in routes if not route.is_headless] or list(routes)
    chosen_numbers = {route.number for route in chosen}
    for number, route in known.items():
        if number not in chosen_numbers:
            whom = "for operators" if is_side(route) else "for peers"
            notes.append(f"{route.title} is {whom}, and not watched: --port {number} would")
    return [
        Port(route.number, container_of(view, route), sent(view, route), route)
        for route in sorted(chosen, key=lambda route: route.number or 0)
        if route.number is not None
    ]


def sent(view: View, route: Route) -> str:
    return f"{route.service.title} sends traffic to it ({place(view, route.port, route)})"


def told(view: View, number: int) -> Port:
    """A port that the user gave."""
    for route in view.routes:
        if route.number == number:
            return Port(number, container_of(view, route), TOLD, route)
    declaring = (one for one in view.applications if one.declares(number))
    return Port(number, next(declaring, asked_in(view, number)), TOLD)


def container_of(view: View, route: Route) -> Container | None:
    return route.container or asked_in(view, route.number)


def asked_in(view: View, number: int | None) -> Container | None:
    """The container whose own probe asks the port, or the only one."""
    for role in ROLES:
        for probe in view.pod.probes(role):
            if probe.port == number and not probe.host:
                return probe.container
    ordinary = [one for one in view.applications if one.section == "containers"]
    return ordinary[0] if len(ordinary) == 1 else None


def of_containers(view: View) -> Iterator[Port]:
    """The TCP ports that ordinary containers declare, with their names for the reason."""
    for container in view.applications:
        for port in container.value.get("ports"):
            number = port.get("containerPort").number
            if number and (port.get("protocol").text or "TCP") == "TCP":
                yield Port(number, container, port.get("name").text)


# --- how


def asked(view: View, port: Port, notes: list[str]) -> Asking:
    """As the application's own probes ask it; else by what the port is called."""
    for role in ROLES:
        for probe in view.pod.probes(role):
            if probe.port == port.number and not probe.host:
                where = f"{role} of container {probe.container.name} ({place(view, probe.value)})"
                if found := by_probe(probe, port.number, where, notes):
                    return found
    return by_name(port)


def by_probe(probe: Probe, number: int, where: str, notes: list[str]) -> Asking | None:
    """None where the probe does not say how: a mere connect, a command."""
    if probe.handler == "grpc":
        service = probe.action.get("service").text
        return Asking(f"grpc://:{number}" + (f"/{service}" if service else ""), where, probe)
    if probe.handler != "httpGet":
        return None
    scheme = "https" if probe.action.get("scheme").text.upper() == "HTTPS" else "http"
    path = probe.path if probe.path.startswith("/") else f"/{probe.path}"
    headers = [
        (header.get("name").text, header.get("value").text)
        for header in probe.action.get("httpHeaders")
    ]
    if any("${" in value for _, value in headers):
        notes.append(f"{number} is asked without {path}: ${{ in a header would be a secret's place")
        headers, path = [], "/"
    # As kubelet, which takes any certificate.
    further = ["insecure=1"] if scheme == "https" else []
    further += [f"header={escaped(f'{name}: {value}')}" for name, value in headers]
    names = ", ".join(name for name, _ in headers)
    return Asking(http(scheme, number, path, further), where, probe, names)


def escaped(text: str) -> str:
    """As a parameter of a target's URL, in an argument of which kubelet replaces $(NAME)."""
    return "".join(f"%{ord(sign):02X}" if sign in "%&$" else sign for sign in text)


def http(scheme: str, number: int, path: str, further: list[str]) -> str:
    """The URL of a target; empty where --port alone says the same."""
    page, _, query = path.replace("$", "%24").partition("?")
    theirs = [as_theirs(pair, scheme) for pair in query.split("&") if query]
    parameters = "&".join([*theirs, *further])
    if page == "/" and not parameters and scheme == "http":
        return ""
    shown = "" if page == "/" else page
    return f"{scheme}://:{number}{shown}" + (f"?{parameters}" if parameters else "")


def as_theirs(pair: str, scheme: str) -> str:
    """A parameter of the application's own, which may have a name of ours."""
    name = pair.partition("=")[0]
    return f"%{ord(pair[0]):02X}{pair[1:]}" if name in PARAMETERS[scheme] else pair


def by_name(port: Port) -> Asking:
    """By appProtocol, the container's name for the port, the Service's, or a well-known number."""
    number = port.number
    route = port.route
    names = [
        *([route.port.get("appProtocol").text] if route else []),
        *names_of(port.container, number),
        *([route.port.get("name").text] if route else []),
    ]
    for name in filter(None, names):
        if speaks := spoken(name):
            return Asking(url(speaks, number), f"the name {name}")
    if route and (speaks := WELL_KNOWN.get(route.port.get("port").number or 0, "")):
        return Asking(url(speaks, number), f"port {route.port.get('port').text} of the Service")
    if port.why == TOLD:
        return Asking("", "as --port has it")
    return Asking(url("tcp", number), "nothing says what it speaks: that it accepts is enough")


def names_of(container: Container | None, number: int) -> Iterable[str]:
    if container is None:
        return []
    return [
        port.get("name").text
        for port in container.value.get("ports")
        if port.get("containerPort").number == number
    ]


def spoken(name: str) -> str:
    """The scheme of a name such as `http-web`, `kubernetes.io/ws`, `grpc`; empty: it says none."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    if "grpc" in words:
        return "grpc"
    if not BANS.isdisjoint(words):
        return "queue"
    if "h2c" in words:
        return "h2c"
    if "https" in words:
        return "https"
    return "http" if any(word in HTTP for word in words) else ""


def url(scheme: str, number: int) -> str:
    if scheme == "h2c":
        return http("http", number, "/", ["http_version=2"])
    if scheme in ("http", "https"):
        return http(scheme, number, "/", ["insecure=1"] if scheme == "https" else [])
    return f"{scheme}://:{number}"
