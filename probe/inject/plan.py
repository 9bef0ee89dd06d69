"""What is to change in one pod so that the sidecar is there as it should be, and why."""

from typing import Any, NamedTuple

from probe import __version__
from probe.config import Config, ConfigError, load
from probe.inject import good, targets
from probe.inject.changes import Change, Drop, KeyPath, Put
from probe.inject.data import data_of
from probe.inject.record import Wishes
from probe.inject.targets import Ambiguous, Asking, Nothing, Port, place
from probe.lint.view import View
from probe.manifests import Container, Probe
from probe.model import Policy

IMAGE = "accept-probe"
NAME = "probe"
SPEC: KeyPath = ("spec",)

NATIVE = "Kubernetes 1.29 for native sidecars, which older ones never start: --classic"
SLEEP_ACTION = "Kubernetes 1.30 for preStop.sleep, which 1.29 leaves out and older ones refuse"
RESTART_ALL = "Kubernetes 1.36 for RestartAllContainers (1.35: a feature gate)"


class Unsuitable(Exception):
    """str() says why the pod cannot be given the sidecar, and what the user can do."""


class Passed(Exception):
    """str() says why the pod is none that the sidecar is for."""


class Options(NamedTuple):
    """What the user asked for."""

    told: Wishes = Wishes()
    image: str = ""
    classic: bool = False
    live: bool = False
    """Whether the object was read from a cluster, rather than written."""


class Plan(NamedTuple):
    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    """Every choice, with where it came from."""
    needs: tuple[str, ...]
    """What the cluster or the image must have."""
    container: KeyPath
    args: tuple[str, ...]


def require_suitable(view: View, options: Options) -> None:
    """Raises Unsuitable or Passed."""
    pod = view.pod
    if maker := next((one for one in pod.owner.root.get("metadata", "ownerReferences")), None):
        raise Passed(
            f"is made by {maker.get('kind').text} {maker.get('name').text}: inject what makes it"
        )
    if view.sidecar is not None:
        raise Passed("has the sidecar already, and not by inject: it stays as it is")
    if not all(one.image for one in pod.all_containers if one.section == "containers"):
        raise Passed("has a container without an image: a patch, by its form")
    if not all(one.value.get("name").text for one in pod.all_containers):
        raise Unsuitable(
            "has a container without a name: what makes the pod decides what runs in it"
        )
    if pod.owner.group == "batch" and not (options.told.ports or options.told.urls):
        raise Passed("is a job, to which no Service sends traffic: --port watches it all the same")
    if pod.owner.group == "batch" and options.classic:
        raise Unsuitable("is a job, which a classic sidecar would keep from completing")
    if pod.owner.kind == "Pod" and options.live:
        raise Unsuitable(
            "runs already, and a running pod takes no further container: inject its file"
        )
    system = (
        pod.spec.get("os", "name").text or pod.spec.get("nodeSelector", "kubernetes.io/os").text
    )
    if system.lower() == "windows":
        raise Unsuitable("is for Windows, and accept queues are asked of the Linux kernel")
    if pod.host_network:
        raise Unsuitable(
            f"has hostNetwork: port {good.PORT} and the counters would be the whole node's. "
            'docs/kubernetes.md, "Surroundings", has what can be done by hand'
        )


def plan(view: View, options: Options) -> Plan:
    """Raises Unsuitable, and Passed where there is nothing to do."""
    require_suitable(view, options)
    return Planner(view, options).plan()


class Planner:
    """The way to one plan: `notes` says every choice, with where it came from."""

    def __init__(self, view: View, options: Options) -> None:
        self.view = view
        self.pod = view.pod
        self.options = options
        self.notes: list[str] = []
        self.needs: list[str] = []
        self.changes: list[Change] = []

    def plan(self) -> Plan:
        watched = self.watched()
        # One container may have several of the ports.
        serving = list(dict.fromkeys(port.container for port, _ in watched if port.container))
        self.words = self.arguments(watched, serving)
        config = self.config(self.words)
        self.port = config.listen.port
        self.on_stall = config.response.on_stall
        if any(one.declares(self.port) for one in self.view.applications):
            raise Unsuitable(
                f"has port {self.port} itself: -- --listen=:9810 gives the sidecar another"
            )
        self.share_processes()
        container = self.sidecar(config, serving)
        for one in serving:
            self.application(one, watched)
        missing = [str(port.number) for port, _ in watched if port.container is None]
        if missing and self.asks_live:
            self.notes.append(
                f"no liveness asks the sidecar: which container has {' and '.join(missing)} is "
                "not said; declare the port in it"
            )
        return Plan(
            tuple(self.changes),
            tuple(self.notes),
            tuple(self.needs),
            container,
            tuple(self.words),
        )

    # --- what to watch

    def watched(self) -> list[tuple[Port, Asking]]:
        told = self.options.told
        found = [targets.told(self.view, number) for number in told.ports]
        try:
            if not told.ports and not told.urls:
                found = targets.ports(self.view, self.notes)
        except Ambiguous as error:
            raise Unsuitable(str(error)) from None
        except Nothing as error:
            raise Passed(str(error)) from None
        watched = []
        for port in found:
            asked = targets.asked(self.view, port, self.notes)
            watched.append((port, asked))
            self.notes.append(f"watches {port.number}: {port.why}; {asked.shown}: {asked.why}")
        for url in told.urls:
            numbers = [target.port for target in self.config([f"--target={url}"]).targets]
            for number in numbers:
                port = targets.told(self.view, number)
                watched.append((port._replace(why="--target"), Asking(url, "--target")))
                self.notes.append(f"watches {number}: --target")
        return watched

    def config(self, words: list[str]) -> Config:
        """As the sidecar will read its arguments. Raises Unsuitable with what is wrong there."""
        try:
            return load("serve", words, {})
        except ConfigError as error:
            raise Unsuitable("; ".join(error.errors)) from None

    def arguments(self, watched: list[tuple[Port, Asking]], serving: list[Container]) -> list[str]:
        words = [asked.word(port.number) for port, asked in watched]
        further = list(self.options.told.further)
        if not any(word.startswith("--evidence-dir") for word in further):
            words.append(f"--evidence-dir={good.EVIDENCE}")
        if not any(word.startswith("--on-stall") for word in further) and self.can_end(serving):
            words.append(f"--on-stall={good.ON_STALL}")
            if self.pod.grace > good.GRACE and not self.ends_soon:
                words.append(f"--terminate-grace={min(self.pod.grace, 3600)}s")
        patient = [asked.probe for _, asked in watched if asked.probe]
        slowest = max((probe.timeout for probe in patient), default=0)
        if slowest > Policy().timeout and not any(
            word.startswith("--round-trip-timeout") for word in further
        ):
            words.append(f"--round-trip-timeout={min(slowest, 60)}s")
            self.notes.append(f"--round-trip-timeout={min(slowest, 60)}s: as its own probe has it")
        return [*words, *further]

    # --- the sidecar

    def sidecar(self, config: Config, serving: list[Container]) -> KeyPath:
        """Put it there; the path that leads to it."""
        names = {container.name for container in self.pod.all_containers}
        ports = {port for one in self.pod.all_containers for port in one.port_names}
        name = free(NAME, IMAGE, names)
        image = self.options.image or f"{IMAGE}:{__version__}"
        mounts = self.volumes(config, serving)
        native = not self.options.classic
        data = good.sidecar(
            name,
            image,
            ["serve", *self.words],
            port=config.listen.port,
            port_name=free(NAME, IMAGE, ports),
            native=native,
            security=self.security(serving),
            mounts=mounts,
            restarts_all="exit" in config.response.on_stall,
        )
        section = "initContainers" if native else "containers"
        before = "containers" if native else ""
        self.changes.append(Put((*SPEC, section, name), data, before))
        if native:
            self.needs.append(NATIVE)
        if "exit" in config.response.on_stall:
            self.needs.append(RESTART_ALL)
        return (*SPEC, section, name)

    def volumes(self, config: Config, serving: list[Container]) -> list[dict[str, Any]]:
        """Put the volumes there; the mounts of the sidecar."""
        taken = {volume.get("name").text for volume in self.pod.spec.get("volumes")}
        evidence = free("evidence", f"{IMAGE}-evidence", taken)
        self.changes.append(Put((*SPEC, "volumes", evidence), good.evidence(evidence)))
        mounts: list[dict[str, Any]] = [{"name": evidence, "mountPath": config.evidence.dir}]
        asks = not set(good.NEEDS_TOKEN).isdisjoint(config.response.on_stall)
        automounted = not self.pod.spec.get("automountServiceAccountToken").is_false
        if (config.kube_events or asks) and not automounted:
            access = free("api-access", f"{IMAGE}-api-access", taken)
            self.changes.append(Put((*SPEC, "volumes", access), good.api_access(access)))
            mounts.append({"name": access, "mountPath": good.TOKEN, "readOnly": True})
            self.notes.append(
                "a token is projected into the sidecar alone: it is to tell the cluster"
            )
        for file in files_of(config):
            if (mount := mount_of(file, serving)) is None:
                self.notes.append(f"{file} is on no volume of the application: mount it by hand")
            elif mount not in mounts:
                mounts.append(mount)
                self.notes.append(f"mounts {mount['name']}, where {file} is")
        return mounts

    def security(self, serving: list[Container]) -> dict[str, Any]:
        """What the sidecar's container has of its own: the pod's is not said again."""
        of_pod = self.pod.spec.get("securityContext")
        own: dict[str, Any] = {}
        context = serving[0].value.get("securityContext") if len(serving) == 1 else None
        user, group = self.identity(serving)
        if user == 0 and of_pod.get("runAsUser").number != 0:
            self.notes.append(
                "the application runs as root, the sidecar does not: no threads are named"
            )
            user = of_pod.get("runAsUser").number
        else:
            for name in ("runAsUser", "runAsGroup"):
                number = context.get(name).number if context else None
                if number is not None and of_pod.get(name).number != number:
                    own[name] = number
        if user and group is not None:
            self.notes.append(f"runs as {user}:{group}, as the application does")
        if user != 0 and not of_pod.get("runAsNonRoot").is_true:
            own["runAsNonRoot"] = True
        if not of_pod.get("seccompProfile"):
            own["seccompProfile"] = {"type": "RuntimeDefault"}
        return own

    def identity(self, serving: list[Container]) -> tuple[int | None, int | None]:
        """User and group of those who take traffic; None: not said, or not the same for all."""
        found = set()
        for container in serving or self.view.applications:
            places = (container.value.get("securityContext"), self.pod.spec.get("securityContext"))
            user, group = (
                next((at.get(name).number for at in places if at.get(name)), None)
                for name in ("runAsUser", "runAsGroup")
            )
            found.add((user, group))
        return found.pop() if len(found) == 1 else (None, None)

    def can_end(self, serving: list[Container]) -> bool:
        """Whether the sidecar can end who stalls: its own user, in its own process namespace."""
        user, group = self.identity(serving)
        shared = not self.pod.spec.get("shareProcessNamespace").is_false
        of_node = self.pod.spec.get("hostPID").is_true
        known = bool(user) and group is not None
        return known and shared and not of_node and not self.options.classic

    @property
    def asks_live(self) -> bool:
        """Whether the application's liveness asks the sidecar."""
        by_liveness = set(good.RESTARTED_BY_LIVENESS)
        return not self.on_stall or not by_liveness.isdisjoint(self.on_stall)

    @property
    def ends_soon(self) -> bool:
        """Whether who stalls has little time to end: where data may be flushed for long, it is left
        to whoever wrote how long.
        """
        return self.pod.owner.kind != "StatefulSet"

    def share_processes(self) -> None:
        """The sidecar sees the application's processes, and can say who stopped accepting."""
        spec = self.pod.spec
        if spec.get("hostPID").is_true or spec.get("shareProcessNamespace").is_true:
            return
        if spec.get("shareProcessNamespace").is_false:
            self.notes.append("shareProcessNamespace is false and stays so: no threads are named")
            return
        self.changes.append(Put((*SPEC, "shareProcessNamespace"), data=True, before="containers"))

    # --- the application

    def application(self, container: Container, watched: list[tuple[Port, Asking]]) -> None:
        path = (*SPEC, container.section, container.name)
        numbers = {port.number for port, _ in watched if port.container == container}
        if readiness := container.probe("readinessProbe"):
            self.readiness(path, readiness, numbers)
        live = good.live(numbers, {port.number for port, _ in watched})
        self.liveness((*path, "livenessProbe"), container, live)
        self.prestop(path, container)

    def liveness(self, path: KeyPath, container: Container, live: str) -> None:
        old = container.probe("livenessProbe")
        if self.asks_live or old is not None:
            left = f"is left to --on-stall={','.join(self.on_stall)}"
            who = f"asks the sidecar, {live}" if self.asks_live else left
            before = f"; before: {shown(old)} ({place(self.view, old.value)})" if old else ""
            self.notes.append(f"liveness of container {container.name} {who}{before}")
        if not self.asks_live:
            if old is not None:
                self.take_out(path)
            return
        short = self.ends_soon and self.pod.grace > good.GRACE
        new = good.liveness(self.port, live, short=short)
        if self.options.live and old is not None:
            new = over(new, data_of(old.value))
        self.changes.append(Put(path, new))

    def readiness(self, path: KeyPath, probe: Probe, numbers: set[int]) -> None:
        name = probe.container.name
        where = f"{shown(probe)} ({place(self.view, probe.value)})"
        if probe.port not in numbers or probe.host or probe.handler == "exec":
            self.notes.append(
                f"readiness of container {name} asks something else, and stays: {where}"
            )
            return
        self.notes.append(f"readiness is the sidecar's; before, of container {name}: {where}")
        self.take_out((*path, "readinessProbe"))

    def take_out(self, path: KeyPath) -> None:
        """Of what is in the cluster and in no file, `kubectl apply` takes out what is null."""
        self.changes.append(Put(path, None) if self.options.live else Drop(path))

    def prestop(self, path: KeyPath, container: Container) -> None:
        """What ends goes on accepting until every node has heard of it."""
        if container.value.get("lifecycle", "preStop") or container.section != "containers":
            return
        routes = [route for route in self.view.for_users if not route.is_headless]
        if (self.view.routes and not routes) or self.pod.owner.group == "batch":
            return
        if self.pod.grace <= good.PRESTOP:
            self.notes.append(
                f"no preStop for container {container.name}: terminationGracePeriodSeconds is "
                f"{self.pod.grace}, and a rollout refuses some connections"
            )
            return
        native = not self.options.classic
        self.changes.append(Put((*path, "lifecycle", "preStop"), good.prestop(native=native)))
        self.notes.append(f"container {container.name} goes on for {good.PRESTOP} s when it ends")
        self.needs.append(SLEEP_ACTION if native else f"`sleep` in the image of {container.name}")


def files_of(config: Config) -> dict[str, None]:
    """What the targets read: authorities, certificates, keys."""
    return {
        file: None
        for target in config.targets
        for file in (target.ca_file, target.cert_file, target.key_file)
        if file
    }


def free(name: str, otherwise: str, taken: set[str]) -> str:
    return otherwise if name in taken else name


def shown(probe: Probe) -> str:
    """`httpGet 8080 /healthz`."""
    port = probe.action.get("port").text
    path = probe.path.partition("?")[0] if probe.handler == "httpGet" else ""
    return " ".join(filter(None, (probe.handler, port, path)))


def mount_of(file: str, serving: list[Container]) -> dict[str, Any] | None:
    """What mounts the volume that an application has this file on."""
    for container in serving:
        for mount in container.value.get("volumeMounts"):
            path = mount.get("mountPath").text.rstrip("/")
            if path and f"{file}/".startswith(f"{path}/"):
                found = {"name": mount.get("name").text, "mountPath": mount.get("mountPath").text}
                if within := mount.get("subPath").text:
                    found["subPath"] = within
                return {**found, "readOnly": True}
    return None


def over(new: Any, old: Any) -> Any:
    """The new data with null for what only the old has: `kubectl apply` merges, and of an object
    that it did not make it takes nothing out by itself.
    """
    if not isinstance(new, dict) or not isinstance(old, dict):
        return new
    absent = {key: None for key in old if key not in new}
    return {**{key: over(of, old.get(key)) for key, of in new.items()}, **absent}
