"""A pod with all that is known of it: the Services that select it, our sidecar, and which ports
its readiness asks.
"""

import re
from functools import cached_property
from typing import NamedTuple

from probe.lint import sidecar
from probe.manifests import Container, Pod, Probe, Route

URL = re.compile(
    r"(?P<scheme>https?)://(?:localhost|127\.0\.0\.1|\[::1\]|0\.0\.0\.0)(?::(?P<port>\d{1,5}))?(?![\w.])"
)
GRPC_ADDRESS = re.compile(r"-addr[= ](?:localhost|127\.0\.0\.1|\[::1\])?:(\d{1,5})\b")

SIDE = (
    *("metrics", "prometheus", "prom", "management", "mgmt", "admin", "health", "healthz"),
    *("healthcheck", "monitoring", "jmx", "debug", "probe", "probes", "status", "telemetry"),
    *("actuator", "exporter", "stats", "epmd", "profiling", "pprof"),
)
"""Words in the name of a port that is for the operators, not for the users, of an application."""


class AskedPorts(NamedTuple):
    """What the readiness probes of a pod ask."""

    ports: frozenset[int]
    knows_all: bool
    """Whether they ask nothing else: what a script does cannot be seen."""


CONDITION = "accept-probe/Accepting"
"""What `--kube-condition` writes."""


class View:
    """One pod, as the rules see it."""

    def __init__(self, pod: Pod, routes: tuple[Route, ...], tags: dict[str, str]) -> None:
        """`tags`: what a kustomization beside the file makes of the names of images."""
        self.pod = pod
        self.routes = routes
        self.tags = tags
        self.sidecar = sidecar.find(pod)

    @cached_property
    def traffic(self) -> tuple[Route, ...]:
        """One route a port, of Services that let go of a pod that is not ready: where several lead
        to one port, the one that matters most.
        """
        found: dict[int, Route] = {}
        for route in sorted(self.routes, key=lambda route: (is_side(route), route.is_headless)):
            if route.number is not None and route.wants_ready:
                found.setdefault(route.number, route)
        return tuple(found.values())

    @property
    def for_users(self) -> tuple[Route, ...]:
        """The routes that are not for the operators alone."""
        return tuple(route for route in self.traffic if not is_side(route))

    @property
    def ordinary(self) -> tuple[Route, ...]:
        """The routes that users take; where there are none, those of the operators."""
        return self.for_users or self.traffic

    @property
    def ports(self) -> frozenset[int]:
        return frozenset(route.number for route in self.traffic if route.number is not None)

    @cached_property
    def readiness(self) -> list[Probe]:
        return self.pod.probes("readinessProbe")

    @cached_property
    def gates(self) -> frozenset[str]:
        """The conditions beside its probes that make the pod ready."""
        gates = self.pod.spec.get("readinessGates")
        return frozenset(gate.get("conditionType").text for gate in gates)

    @property
    def is_gated(self) -> bool:
        """Whether the pod is ready when our sidecar says so by a condition, without any probe."""
        config = self.sidecar.reading.config if self.sidecar else None
        return config is not None and config.kube_condition and CONDITION in self.gates

    @cached_property
    def asked(self) -> AskedPorts:
        ports: set[int] = set()
        knows_all = True
        for probe in self.readiness:
            found = self.ports_of(probe)
            ports |= found or set()
            knows_all = knows_all and found is not None
        return AskedPorts(frozenset(ports), knows_all)

    def ports_of(self, probe: Probe) -> set[int] | None:
        """The ports of the pod that a probe asks, through our sidecar as well; None: unknown."""
        if self.sidecar and sidecar.asks_ready(probe, self.sidecar):
            return sidecar.ports_asked(probe, self.sidecar)
        if self.sidecar and sidecar.is_of(probe, self.sidecar):
            return set()
        if probe.handler == "exec":
            return self.ports_of_command(probe)
        if probe.host and not self.pod.host_network:
            return None
        if probe.port is None:
            # A name that no port has: which port was meant is not known, and is told by its rule.
            return None if probe.action.get("port") else set()
        return {probe.port}

    def ports_of_command(self, probe: Probe) -> set[int] | None:
        words = sidecar.after("check", probe.command)
        if words is not None:
            targets = sidecar.read("check", words, self.pod, probe.container).ports
            return set(targets) if targets else None
        text = " ".join(probe.command)
        urls = {
            int(m["port"] or (443 if m["scheme"] == "https" else 80)) for m in URL.finditer(text)
        }
        return urls | set(map(int, GRPC_ADDRESS.findall(text))) or None

    def asks_sidecar(self, probe: Probe) -> bool:
        """Whether our sidecar answers it, whatever it is asked."""
        if self.sidecar is None:
            return False
        checks = (sidecar.is_of, sidecar.asks_ready, sidecar.asks_live)
        return any(check(probe, self.sidecar) for check in checks)

    def is_ours(self, container: Container) -> bool:
        return self.sidecar is not None and container == self.sidecar.container

    @property
    def applications(self) -> tuple[Container, ...]:
        """The containers but our sidecar."""
        return tuple(one for one in self.pod.containers if not self.is_ours(one))

    @property
    def serving(self) -> Container | None:
        """The container that the traffic goes to, as far as the pod says."""
        for route in self.ordinary:
            if route.container is not None:
                return route.container
        ordinary = [one for one in self.applications if one.section == "containers"]
        return ordinary[0] if len(ordinary) == 1 else None


def is_side(route: Route) -> bool:
    return any(map(is_side_name, route.names))


def is_side_name(name: str) -> bool:
    """Whether a port that is called so is for the operators."""
    return not set(SIDE).isdisjoint(re.split(r"[^a-z]+", name.lower()))
