"""Pods with our own sidecar: whether it is put there as it is meant to be."""

from collections.abc import Iterator

from probe import __version__
from probe.api.questions import Asked, Question
from probe.lint import sidecar
from probe.lint.records import Found, Level, Rule
from probe.lint.sidecar import Sidecar
from probe.lint.view import View
from probe.manifests import Container, Pod, Value

TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - where it is, not what
OUTLIVED = 30
"""Seconds that the application's liveness must be patient for, while the sidecar is restarted."""


def arguments(view: View) -> Iterator[Found]:
    if (ours := view.sidecar) is not None:
        at = ours.container.value.get("args") or ours.container.value
        for message in ours.reading.errors:
            yield wrong(at, f"The sidecar's arguments: {message}. It ends at once with status 2.")
        for message in ours.reading.notices:
            told = wrong(ours.container.value.get("env") or at, f"The sidecar ignores {message}.")
            yield told._replace(level=Level.WARNING)
        if sidecar.decides_nothing(ours):
            asked = any(
                map(view.asks_sidecar, (*view.readiness, *view.pod.probes("livenessProbe")))
            )
            yield Found(
                at,
                "The sidecar has no target: it watches the queues of whatever listens, and says "
                "ready and live whatever it sees.",
                "Name the port that takes traffic, if something is to follow from it:",
                ("args: [serve, --port=8080, --evidence-dir=/evidence]",),
                (),
                Level.WARNING if asked else Level.NOTE,
            )
    for container in view.pod.all_containers:
        for role in ("readinessProbe", "livenessProbe", "startupProbe"):
            probe = container.probe(role)
            words = sidecar.after("check", probe.command) if probe else None
            if probe is None or words is None:
                continue
            for message in sidecar.read("check", words, view.pod, container).errors:
                yield wrong(
                    probe.action.get("command"),
                    f"The {role} of container {container.name}, probe check: {message}. It fails "
                    "every time with status 2.",
                )


def wrong(at: Value, what: str) -> Found:
    return Found(
        at,
        what,
        "Give it what it accepts; `probe serve --help` has all of it:",
        ("args: [serve, --port=8080, --evidence-dir=/evidence]",),
    )


def identity(pod: Pod, container: Container, name: str) -> str:
    """`runAsUser` or `runAsGroup` of a container, as it is or as the pod has it; empty: neither."""
    own = container.value.get("securityContext", name)
    return (own or pod.spec.get("securityContext", name)).text


def user(view: View) -> Iterator[Found]:
    application = view.serving
    if view.sidecar is None or application is None:
        return
    ours = view.sidecar.container
    names = ("runAsUser", "runAsGroup")
    mine = [identity(view.pod, ours, name) for name in names]
    theirs = [identity(view.pod, application, name) for name in names]
    if mine == theirs and all(mine):
        return
    if "0" in mine[:1] and "0" in theirs[:1]:
        return
    yield Found(
        ours.value,
        f"The sidecar runs as {shown(mine)}, and container {application.name} as {shown(theirs)}. "
        "It may not read the threads of another user: the verdict is the same, and the evidence "
        f"does not name who stopped accepting.{ENDS_NOBODY if terminates(view) else ''}",
        "Give both the same user and group, in the pod's securityContext:",
        ("securityContext:", "  runAsUser: 10001   # the application's", "  runAsGroup: 10001"),
        (),
        Level.ERROR if terminates(view) else None,
    )


ENDS_NOBODY = " Nor can --on-stall=terminate end it: it is not restarted."


def terminates(view: View) -> bool:
    """Whether the sidecar is to end what has stalled, and nothing else restarts it."""
    if (ours := view.sidecar) is None or (config := ours.reading.config) is None:
        return False
    asked = any(sidecar.asks_live(probe, ours) for probe in view.pod.probes("livenessProbe"))
    return config.response.on_stall == ("terminate",) and not asked


def shown(ids: list[str]) -> str:
    """`101:101`, with what only the image knows told so."""
    return ":".join(number or "(its image's)" for number in ids)


def processes(view: View) -> Iterator[Found]:
    spec = view.pod.spec
    if view.sidecar is None or spec.get("shareProcessNamespace").is_true:
        return
    if spec.get("hostPID").is_true:
        return
    yield Found(
        spec.get("shareProcessNamespace") or view.sidecar.container.value,
        "The pod does not share its process namespace, so the sidecar does not see the "
        "application's processes: the verdict is the same, and the evidence does not name who "
        f"stopped accepting.{ENDS_NOBODY if terminates(view) else ''}",
        'Share it; the price is in docs/kubernetes.md, "Evidence":',
        ("spec:", "  shareProcessNamespace: true"),
        (),
        Level.ERROR if terminates(view) else None,
    )


def evidence(view: View) -> Iterator[Found]:
    if view.sidecar is None or (config := view.sidecar.reading.config) is None:
        return
    container = view.sidecar.container
    if not config.evidence.dir:
        if view.sidecar.reading.knows_all:
            yield no_volume(
                container.value.get("args") or container.value,
                "The sidecar keeps evidence in memory, since it has no --evidence-dir: what it "
                "saved is lost when it is restarted, and so is what it remembers of who has "
                "accepted.",
            )
        return
    for mount in container.value.get("volumeMounts"):
        path = mount.get("mountPath").text.rstrip("/")
        if f"{config.evidence.dir}/".startswith(f"{path}/"):
            if mount.get("readOnly").is_true:
                yield no_volume(mount, f"The sidecar may not write to {config.evidence.dir}.")
            return
    yield no_volume(
        container.value.get("args") or container.value,
        f"No volume is mounted at {config.evidence.dir}, where the sidecar is to keep evidence: "
        "with a read-only root file system nothing can be written there, and without one it is "
        "lost when the sidecar is restarted.",
    )


def no_volume(at: Value, what: str) -> Found:
    return Found(
        at,
        what,
        "Mount an emptyDir, which outlives restarts of containers:",
        (
            "args: [serve, --port=8080, --evidence-dir=/evidence]",
            "volumeMounts: [{name: evidence, mountPath: /evidence}]",
            "# and in the pod",
            "volumes: [{name: evidence, emptyDir: {sizeLimit: 128Mi}}]",
        ),
    )


def probes(view: View) -> Iterator[Found]:
    if (ours := view.sidecar) is None or sidecar.decides_nothing(ours):
        return
    if not (view.is_gated or any(sidecar.asks_ready(probe, ours) for probe in view.readiness)):
        yield Found(
            ours.container.value,
            "No readiness probe asks the sidecar: the pod stays in its Service, whatever the "
            "sidecar finds.",
            "Let the readiness of the sidecar's own container ask it:",
            (
                "readinessProbe:",
                f"  grpc: {{port: {ours.port}, service: ready}}",
                "  periodSeconds: 5",
                "  timeoutSeconds: 3",
                "  failureThreshold: 1",
            ),
            (),
            Level.ERROR,
        )
    for container in view.pod.containers:
        yield from misplaced(view, ours, container)
        yield from astray(ours, container)
    yield from shared(view, ours)
    config = ours.reading.config
    restarts = config is None or config.response.on_stall in ((), ("restart",))
    if restarts and not any(
        sidecar.asks_live(probe, ours) for probe in view.pod.probes("livenessProbe")
    ):
        yield Found(
            (view.serving or ours.container).value,
            "No liveness probe asks the sidecar: an application that has stopped accepting is "
            "taken out of service, and never restarted.",
            "Let the application's liveness ask it, or say --on-stall=hold if that is meant:",
            LIVE,
        )


LIVE = (
    "livenessProbe:",
    f"  httpGet: {{path: /live, port: {sidecar.LISTEN}}}",
    "  periodSeconds: 5",
    "  failureThreshold: 6",
)


def misplaced(view: View, ours: Sidecar, container: Container) -> Iterator[Found]:
    """Yield the probes that ask the sidecar the wrong question, or restart the wrong container."""
    liveness, readiness = container.probe("livenessProbe"), container.probe("readinessProbe")
    if liveness and view.is_ours(container) and view.asks_sidecar(liveness):
        yield Found(
            liveness.value,
            "The liveness probe that asks the sidecar stands on the sidecar's own container: a "
            "dead application restarts the sidecar, and stays dead.",
            "Put it on the application's container; the sidecar needs none:",
            LIVE,
            (),
            Level.ERROR,
        )
    if liveness and (sidecar.asks_ready(liveness, ours) or sidecar.asks_started(liveness, ours)):
        yield Found(
            liveness.action.get("path") or liveness.value,
            f"The liveness probe of container {container.name} asks whether the sidecar is ready: "
            "it is restarted for being busy, for one bad status, and while it starts.",
            "Ask /live, which fails for a proven stall alone:",
            LIVE,
            (),
            Level.ERROR,
        )
    if readiness and sidecar.asks_live(readiness, ours):
        yield Found(
            readiness.action.get("path") or readiness.value,
            f"The readiness probe of container {container.name} asks whether the application is "
            "live: the pod keeps its traffic until a stall has lasted 30 s.",
            "Ask /ready:",
            ("readinessProbe:", f"  httpGet: {{path: /ready, port: {ours.port}}}"),
            (),
            Level.ERROR,
        )


def astray(ours: Sidecar, container: Container) -> Iterator[Found]:
    """Yield the probes that ask about a target that the sidecar does not have."""
    targets = ours.reading.targets
    for role in ("startupProbe", "livenessProbe", "readinessProbe"):
        probe = container.probe(role)
        asked = sidecar.question(probe, ours) if probe else None
        if probe is None or asked is None or asked.target is None or targets is None:
            continue
        if asked.target not in {target.name for target in targets}:
            names = ", ".join(target.name for target in targets)
            yield Found(
                probe.action.get("path"),
                f"The {role} of container {container.name} asks the sidecar about "
                f"{asked.target}, and its targets are {names}: the answer is 404, every time.",
                "Let the sidecar watch that port as well, or ask about one that it watches:",
                (f"path: /{asked.question}/{targets[0].name}",),
                (),
                Level.ERROR,
            )


def shared(view: View, ours: Sidecar) -> Iterator[Found]:
    """Yield liveness probes of several containers that each are restarted for the others' ports."""
    targets = ours.reading.targets or ()
    asking = [
        probe
        for container in view.applications
        if (probe := container.probe("livenessProbe")) is not None
        and (asked := sidecar.question(probe, ours)) is not None
        and asked == Asked(Question.LIVE)
    ]
    if len(asking) < 2 or len(targets) < 2:
        return
    names = ", ".join(target.name for target in targets)
    for probe in asking:
        own = [target.name for target in targets if probe.container.declares(target.port)]
        name = own[0] if len(own) == 1 else "PORT"
        yield Found(
            probe.action.get("path"),
            f"The liveness probes of {len(asking)} containers, {probe.container.name} among them, "
            f"ask the sidecar about all of its targets, {names}: a stall of one restarts them all.",
            "Let each ask about the port that its own container serves:",
            ("livenessProbe:", f"  httpGet: {{path: /live/{name}, port: {ours.port}}}"),
        )


def thresholds(view: View) -> Iterator[Found]:
    if (ours := view.sidecar) is None:
        return
    for probe in view.readiness:
        if not sidecar.asks_ready(probe, ours):
            continue
        if probe.threshold > 1:
            yield Found(
                probe.value.get("failureThreshold") or probe.value,
                f"kubelet counts {probe.threshold} failures before it believes the sidecar, which "
                f"has counted already: a bad pod keeps its traffic for up to "
                f"{probe.period * (probe.threshold - 1)} s more.",
                "Believe the first:",
                ("readinessProbe:", "  failureThreshold: 1"),
            )
        if probe.handler == "exec" and probe.timeout < 3:
            yield Found(
                probe.value.get("timeoutSeconds") or probe.value,
                f"The readiness probe by exec has {probe.timeout} s: on a busy node a process "
                "takes longer to start in a container, and a time-out takes a ready pod out of its "
                "Service.",
                "Ask by gRPC, which starts no process and tells the reason; or give it 3 s:",
                ("readinessProbe:", f"  grpc: {{port: {ours.port}, service: ready}}"),
            )
    for probe in view.pod.probes("livenessProbe"):
        lasts = probe.period * probe.threshold
        if sidecar.asks_live(probe, ours) and lasts < OUTLIVED:
            yield Found(
                probe.value,
                f"The liveness probe of container {probe.container.name} waits {lasts} s for the "
                "sidecar to answer: while the sidecar itself is restarted nobody does, and a "
                "healthy application is restarted for it.",
                "Wait 30 s; the sidecar has waited for the application already:",
                LIVE,
            )


def startup(view: View) -> Iterator[Found]:
    ours = view.sidecar
    if ours is None or not ours.container.is_native_sidecar:
        return
    if ours.container.probe("startupProbe") is not None:
        return
    if not any(sidecar.asks_live(probe, ours) for probe in view.pod.probes("livenessProbe")):
        return
    yield Found(
        ours.container.value,
        "The sidecar has no startup probe, so the application starts before anybody answers its "
        "liveness: a sidecar that is slow to start, or has a wrong flag, restarts a healthy "
        "application.",
        "Let the application start once the sidecar answers:",
        (
            "startupProbe:",
            f"  httpGet: {{path: /live, port: {ours.port}}}",
            "  periodSeconds: 1",
            "  failureThreshold: 60",
        ),
    )


def account(view: View) -> Iterator[Found]:
    ours = view.sidecar
    config = ours.reading.config if ours else None
    if ours is None or config is None:
        return
    responses = config.response.on_stall
    wants = {
        name: example
        for name, on, example in (
            ("--on-stall=evict", "evict" in responses, "evict"),
            ("--kube-events", config.kube_events, "quarantine"),
            ("--on-stall=quarantine", "quarantine" in responses, "quarantine"),
            ("--kube-condition", config.kube_condition, "gate"),
            ("--floor", config.response.floor is not None, "floor"),
        )
        if on
    }
    if not wants:
        return
    at = ours.container.value.get("args") or ours.container.value
    flags = " and ".join(wants)
    example = f"examples/k8s/{next(iter(wants.values()))}"
    spec = view.pod.spec
    if spec.get("serviceAccountName").text in ("", "default"):
        yield Found(
            at,
            f"{flags} writes to the API server, and the pod runs as the service account default, "
            "which has no right to: nothing of it is done.",
            f"Give it an account of its own, with the Role in {example}/rbac.yaml:",
            ("spec:", f"  serviceAccountName: web-{example.rpartition('/')[2]}"),
        )
    mounted = any(
        mount.get("mountPath").text.rstrip("/") == TOKEN
        for mount in ours.container.value.get("volumeMounts")
    )
    if spec.get("automountServiceAccountToken").is_false and not mounted:
        yield Found(
            spec.get("automountServiceAccountToken"),
            f"{flags} needs a token, and none is mounted into the sidecar: nothing of it is done.",
            f"Project one into the sidecar's container, as {example} does:",
            ("volumeMounts:", f"  - {{name: api-access, mountPath: {TOKEN}, readOnly: true}}"),
            (),
            Level.ERROR,
        )


def image(view: View) -> Iterator[Found]:
    if (ours := view.sidecar) is None or sidecar.OURS not in sidecar.image_name(
        ours.container.image
    ):
        return
    named = ours.container.image
    tag = sidecar.image_tag(named) or view.tags.get(named, "")
    if tag.removeprefix("v").startswith(__version__) or (not tag and "@" in named):
        return
    at = ours.container.value.get("image")
    if tag in ("", "latest"):
        yield Found(
            at,
            f"The image {named} has no version: which one runs depends on when the node pulled it.",
            "Name the version:",
            (f"image: {named.removesuffix(':latest')}:{__version__}",),
        )
    elif tag[:1].isdigit() or tag[:2].strip("v").isdigit():
        yield Found(
            at,
            f"The image is of version {tag}, and this is probe {__version__}: the arguments were "
            "read as this version reads them.",
            "Name this version, or lint with the probe of that one:",
            (f"image: {named.rpartition(':')[0]}:{__version__}",),
            (),
            Level.NOTE,
        )


RULES = (
    Rule(
        "sidecar-arguments",
        Level.ERROR,
        "The sidecar would not start with these arguments",
        "It ends with status 2 and is restarted for ever; the application's liveness, which asks "
        "it, fails.",
        "Give it what it accepts.",
        """\
args: [serve, --port=8080, --evidence-dir=/evidence]
""",
        arguments,
    ),
    Rule(
        "sidecar-user",
        Level.WARNING,
        "The sidecar and the application run as different users, or as whom is not said",
        "The verdict is the same; the evidence does not name who stopped accepting.",
        "Give both the same user and group.",
        """\
securityContext:
  runAsUser: 10001
  runAsGroup: 10001
""",
        user,
    ),
    Rule(
        "sidecar-processes",
        Level.WARNING,
        "The pod does not share its process namespace",
        "The verdict is the same; the evidence does not name who stopped accepting.",
        "Share it.",
        """\
spec:
  shareProcessNamespace: true
""",
        processes,
    ),
    Rule(
        "sidecar-evidence",
        Level.WARNING,
        "The evidence has no place that lasts",
        "It is lost when the sidecar is restarted, or is not written at all.",
        "Mount an emptyDir at --evidence-dir.",
        """\
volumeMounts: [{name: evidence, mountPath: /evidence}]
# and in the pod
volumes: [{name: evidence, emptyDir: {sizeLimit: 128Mi}}]
""",
        evidence,
    ),
    Rule(
        "sidecar-probes",
        Level.WARNING,
        "The probes do not ask the sidecar, or ask it the wrong thing",
        "The pod stays in its Service, or the wrong container is restarted, or for the wrong "
        "reason.",
        "Readiness on the sidecar's container, liveness on the application's, asked at /live.",
        """\
readinessProbe:      # the sidecar's
  grpc: {port: 9809, service: ready}
livenessProbe:       # the application's
  httpGet: {path: /live, port: 9809}
""",
        probes,
    ),
    Rule(
        "sidecar-thresholds",
        Level.WARNING,
        "kubelet's periods and thresholds do not go with the sidecar's",
        "A bad pod keeps its traffic for longer, or a restart of the sidecar restarts the "
        "application.",
        "Believe the first failure of readiness, within 3 s by exec; wait 30 s for liveness.",
        """\
readinessProbe:      # the sidecar's
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 1
livenessProbe:       # the application's
  periodSeconds: 5
  failureThreshold: 6
""",
        thresholds,
    ),
    Rule(
        "sidecar-startup",
        Level.WARNING,
        "The native sidecar has no startup probe",
        "A sidecar that is slow to start restarts a healthy application.",
        "Let it have one, on /live.",
        """\
startupProbe:
  httpGet: {path: /live, port: 9809}
  periodSeconds: 1
  failureThreshold: 60
""",
        startup,
    ),
    Rule(
        "sidecar-account",
        Level.WARNING,
        "The sidecar is to tell the cluster, and may not",
        "No Event is written, and no pod set aside or evicted.",
        "Give it an account with the Role it needs, and a token.",
        """\
spec:
  serviceAccountName: web-quarantine
""",
        account,
    ),
    Rule(
        "sidecar-image",
        Level.WARNING,
        "The sidecar's image has no version, or another than this one",
        "Which one runs depends on when the node pulled it; or the arguments mean something else "
        "there.",
        "Name the version.",
        f"""\
image: accept-probe:{__version__}
""",
        image,
    ),
)
