"""Which Service sends traffic to which port of which pod.

A Service without a selector, or of an external name, sends nothing to the pods of its input; UDP
and SCTP have no accept queue. `containerPort` decides nothing but what a name stands for: a
container takes traffic on whatever it listens on.
"""

from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import NamedTuple

from probe.manifests.nodes import Value
from probe.manifests.objects import Container, Object, Pod


class Route(NamedTuple):
    """One port of a Service, and where in a pod it leads. `number` is None where the pod has no
    port of the name that the Service asks for.
    """

    service: Object
    port: Value
    number: int | None
    name: str
    """The name that the Service asks for by `targetPort`; empty where it asks for a number."""
    container: Container | None
    """Whose port it is, as far as the pod says."""

    @property
    def is_headless(self) -> bool:
        """Names in the DNS, and nothing in between: a client takes whatever port it likes."""
        return self.service.root.get("spec", "clusterIP").text == "None"

    @property
    def wants_ready(self) -> bool:
        """Whether a pod that is not ready gets none."""
        return not self.service.root.get("spec", "publishNotReadyAddresses").is_true

    @property
    def names(self) -> tuple[str, ...]:
        """What the port is called, here and there."""
        told = (self.port.get("name").text, self.name, self.port.get("appProtocol").text)
        return tuple(filter(None, told))

    @property
    def title(self) -> str:
        """`8080`, or `8080 (http)`."""
        name = self.name or self.port.get("name").text
        return f"{self.number} ({name})" if name else str(self.number)


def services(items: Iterable[Object]) -> list[Object]:
    """Those that send traffic to pods that they select."""
    return [
        item
        for item in items
        if item.kind == "Service"
        and not item.group
        and item.root.get("spec", "selector").texts()
        and item.root.get("spec", "type").text != "ExternalName"
    ]


def selects(service: Object, pod: Pod) -> bool:
    """Whether it does by labels and namespace. One that says no namespace may be put into any."""
    here, there = service.namespace, pod.owner.namespace
    wanted = service.root.get("spec", "selector").texts().items()
    return wanted <= pod.labels.items() and (here == there or not here or not there)


def selected(service: Object, candidates: Sequence[Pod]) -> list[Pod]:
    """The pods that it selects, of those that stand nearest: in its file, else in its folder, else
    anywhere. Folders of one repository are often applied to different namespaces, with the same
    labels and without saying so.
    """
    found = [pod for pod in candidates if selects(service, pod)]
    for distance in (
        lambda pod: pod.owner.file == service.file,
        lambda pod: PurePath(pod.owner.file).parent == PurePath(service.file).parent,
    ):
        if near := [pod for pod in found if distance(pod)]:
            return near
    return found


def routes(service: Object, pod: Pod) -> list[Route]:
    """Where the TCP ports of a Service lead in a pod that it selects."""
    return [
        _route(service, port, pod)
        for port in service.root.get("spec", "ports")
        if (port.get("protocol").text or "TCP") == "TCP"
    ]


def _route(service: Object, port: Value, pod: Pod) -> Route:
    target = port.get("targetPort") or port.get("port")
    number = target.number
    if number is not None:
        container = next(
            (candidate for candidate in pod.containers if candidate.declares(number)), None
        )
        return Route(service, port, number, "", container)
    for container in pod.containers:
        number = container.port_named(target.text, "TCP")
        if number is not None:
            return Route(service, port, number, target.text, container)
    return Route(service, port, None, target.text, None)
