"""Objects of Kubernetes, and the pods in them: whatever has a pod template by its shape."""

from collections.abc import Iterator
from pathlib import PurePath
from typing import NamedTuple

from probe.manifests.nodes import Value

DEEPEST = 10
"""Levels below an object at which a pod template may stand: JobSets and the like have it at 6."""

NEVER = ("metadata", "status", "data")
"""Where no pod template is, whatever it looks like."""


KUSTOMIZATION = "Kustomization"


def is_kustomization(file: str) -> bool:
    """Whether kustomize takes the file for one whatever stands in it, kind or no kind."""
    return PurePath(file).stem.lower() == KUSTOMIZATION.lower()


class Object(NamedTuple):
    """One object, and the file that it stands in."""

    file: str
    root: Value

    @property
    def kind(self) -> str:
        return self.root.get("kind").text or (KUSTOMIZATION if is_kustomization(self.file) else "")

    @property
    def group(self) -> str:
        """`apps` of `apps/v1`; empty for the core."""
        return self.root.get("apiVersion").text.rpartition("/")[0]

    @property
    def name(self) -> str:
        metadata = self.root.get("metadata")
        return metadata.get("name").text or metadata.get("generateName").text

    @property
    def namespace(self) -> str:
        return self.root.get("metadata", "namespace").text

    @property
    def title(self) -> str:
        """`Deployment web`, or `Deployment shop/web`."""
        place = f"{self.namespace}/" if self.namespace else ""
        return f"{self.kind} {place}{self.name or '(without a name)'}"

    @property
    def annotations(self) -> Value:
        return self.root.get("metadata", "annotations")

    @property
    def owner(self) -> str:
        """The uid, or the name, of the controller that made it; empty for what people write."""
        for reference in self.root.get("metadata", "ownerReferences"):
            if reference.get("controller").is_true:
                return reference.get("uid").text or reference.get("name").text
        return ""


class Probe(NamedTuple):
    """One probe of a container. `port` is None where there is none, or no port has its name."""

    role: str
    """`readinessProbe`, `livenessProbe` or `startupProbe`."""
    container: "Container"
    value: Value
    handler: str
    """`httpGet`, `tcpSocket`, `grpc` or `exec`; empty: none."""
    action: Value
    port: int | None

    @property
    def host(self) -> str:
        return self.action.get("host").text

    @property
    def path(self) -> str:
        return self.action.get("path").text or ("/" if self.handler == "httpGet" else "")

    @property
    def command(self) -> tuple[str, ...]:
        return self.action.get("command").words()

    @property
    def period(self) -> int:
        """Seconds, as are all of these; Kubernetes' default where none is given."""
        return self.value.get("periodSeconds").number or 10

    @property
    def timeout(self) -> int:
        return self.value.get("timeoutSeconds").number or 1

    @property
    def threshold(self) -> int:
        return self.value.get("failureThreshold").number or 3

    @property
    def notices_within(self) -> int:
        """Seconds from a fault to the last failure that counts: it came just after a good probe."""
        return self.period * self.threshold + self.timeout


class Container(NamedTuple):
    """A container; `section` is the list of the pod that it stands in."""

    value: Value
    section: str

    @property
    def name(self) -> str:
        return self.value.get("name").text or "(without a name)"

    @property
    def is_native_sidecar(self) -> bool:
        """An init container that is started and goes on running."""
        return self.section == "initContainers" and self.value.get("restartPolicy").text == "Always"

    @property
    def runs(self) -> bool:
        """Whether it runs beside the others, rather than before them."""
        return self.section == "containers" or self.is_native_sidecar

    @property
    def image(self) -> str:
        return self.value.get("image").text

    @property
    def command(self) -> tuple[str, ...]:
        """What is run, as far as the manifest says."""
        return self.value.get("command").words() + self.value.get("args").words()

    @property
    def port_names(self) -> list[str]:
        names = (port.get("name").text for port in self.value.get("ports"))
        return [name for name in names if name]

    def port_named(self, name: str, protocol: str = "") -> int | None:
        for port in self.value.get("ports"):
            mine = port.get("protocol").text or "TCP"
            if port.get("name").text == name and protocol in ("", mine):
                return port.get("containerPort").number
        return None

    def declares(self, number: int) -> bool:
        """Whether it lists the port. That it does not says nothing: the list is informational."""
        return any(port.get("containerPort").number == number for port in self.value.get("ports"))

    def probe(self, role: str) -> Probe | None:
        value = self.value.get(role)
        if not value:
            return None
        for handler in ("httpGet", "tcpSocket", "grpc", "exec"):
            if action := value.get(handler):
                port = action.get("port")
                # kubelet, too, takes for a number what is no name of a port.
                number = self.port_named(port.text) if port else None
                return Probe(role, self, value, handler, action, number or port.number)
        return Probe(role, self, value, "", Value(None, value.line, value.column), None)


class Pod(NamedTuple):
    """A pod, or the template of one: a mapping with `metadata` and `spec`."""

    owner: Object
    template: Value

    @property
    def spec(self) -> Value:
        return self.template.get("spec")

    @property
    def labels(self) -> dict[str, str]:
        return self.template.get("metadata", "labels").texts()

    @property
    def annotations(self) -> Value:
        return self.template.get("metadata", "annotations")

    @property
    def containers(self) -> tuple[Container, ...]:
        """All that run beside each other, native sidecars first."""
        return tuple(container for container in self.all_containers if container.runs)

    @property
    def all_containers(self) -> tuple[Container, ...]:
        return tuple(
            Container(value, section)
            for section in ("initContainers", "containers")
            for value in self.spec.get(section)
        )

    @property
    def host_network(self) -> bool:
        return self.spec.get("hostNetwork").is_true

    @property
    def grace(self) -> int:
        """Seconds from SIGTERM to SIGKILL."""
        number = self.spec.get("terminationGracePeriodSeconds").number
        return 30 if number is None else number

    @property
    def replicas(self) -> int | None:
        """None where the object does not say: a DaemonSet, or what an autoscaler decides."""
        return self.owner.root.get("spec", "replicas").number

    def probes(self, role: str) -> list[Probe]:
        found = (container.probe(role) for container in self.containers)
        return [probe for probe in found if probe is not None]


def objects(file: str, document: Value) -> Iterator[Object]:
    """The objects of a document; the items of a List, or of a JSON array, each for itself."""
    yield from _objects(file, document, set())


def _objects(file: str, document: Value, seen: set[Value]) -> Iterator[Object]:
    """`seen`: a list may have itself as an item, or ten aliases of a list of ten aliases."""
    if document in seen:
        return
    seen.add(document)
    items = document.get("items") if document.get("kind").text.endswith("List") else document
    says_what = bool(document.get("apiVersion").text and document.get("kind").text)
    if items.is_list:
        for item in items:
            yield from _objects(file, item, seen)
    elif says_what or (document.is_mapping and is_kustomization(file)):
        yield Object(file, document)


def pods(item: Object) -> Iterator[Pod]:
    """The object itself where it is a Pod; else each pod template in it, wherever it stands."""
    if item.kind == "Pod" and not item.group:
        if item.root.get("spec", "containers").is_list:
            yield Pod(item, item.root)
        return
    yield from (Pod(item, template) for template in _templates(item.root, set(), 0))


def _templates(value: Value, seen: set[Value], depth: int) -> Iterator[Value]:
    if depth > DEEPEST or value in seen:
        return
    seen.add(value)
    if depth and _is_template(value):
        yield value
        return
    for key, entry in value.entries():
        if key not in NEVER:
            yield from _templates(entry, seen, depth + 1)
    for entry in value:
        yield from _templates(entry, seen, depth + 1)


def _is_template(value: Value) -> bool:
    containers = list(value.get("spec", "containers"))
    return bool(containers) and all(
        container.get("name").text or container.get("image").text for container in containers
    )
