"""How a pod starts and ends."""

from collections.abc import Iterator

from probe.lint import sidecar
from probe.lint.records import Found, Level, Rule
from probe.lint.rules.ports import described
from probe.lint.view import View
from probe.manifests import Container


def startup_deadlock(view: View) -> Iterator[Found]:
    ordinary = [container for container in view.pod.containers if container.section == "containers"]
    for container in view.pod.all_containers:
        if container.is_native_sidecar:
            yield from waits_for_application(view, container, ordinary)
        elif container.section == "initContainers":
            yield from waits_before_it_starts(view, container, ordinary)


def waits_for_application(
    view: View, container: Container, ordinary: list[Container]
) -> Iterator[Found]:
    """Yield the startup probe of a native sidecar that is good only once the application is."""
    probe = container.probe("startupProbe")
    if probe is None:
        return
    if ours := view.sidecar:
        waits = sidecar.asks_ready(probe, ours) or sidecar.asks_started(probe, ours)
    else:
        waits = False
    ports = view.ports_of(probe) or set()
    theirs = {
        port
        for port in ports
        for other in ordinary
        if other.declares(port) and not container.declares(port)
    }
    if not waits and not theirs:
        return
    yield Found(
        probe.value,
        f"The startup probe of the native sidecar {container.name} asks {described(probe, view)}, "
        "which is good only once the application runs; and the application's container is started "
        "only once that probe is good. The pod stays in Init for ever.",
        "Let it ask what the sidecar itself answers:",
        (
            "startupProbe:",
            f"  httpGet: {{path: /live, port: {view.sidecar.port if view.sidecar else 9809}}}",
            "  periodSeconds: 1",
            "  failureThreshold: 60",
        ),
    )


def waits_before_it_starts(
    view: View, container: Container, ordinary: list[Container]
) -> Iterator[Found]:
    """Yield an init container that runs `probe wait` for a port of this very pod."""
    words = sidecar.after("wait", container.command)
    if words is None and sidecar.OURS in sidecar.image_name(container.image):
        words = container.command[1:] if container.command[:1] == ("wait",) else None
    if words is None:
        return
    config = sidecar.read("wait", words, view.pod, container).config
    for target in config.targets if config else ():
        here = not target.host or target.host in ("localhost", "127.0.0.1", "::1")
        if here and (
            target.port in view.ports or any(other.declares(target.port) for other in ordinary)
        ):
            yield Found(
                container.value,
                f"The init container {container.name} waits for port {target.port} of the "
                "application, whose container is started only after it has ended. The pod stays in "
                "Init for ever.",
                "Wait in the application's own entrypoint, or for another host's port:",
                ("args: [wait, '--target=tcp://db:5432']",),
            )


def no_prestop(view: View) -> Iterator[Found]:
    container = view.serving
    proxied = [route for route in view.for_users if not route.is_headless]
    if container is None or not proxied or container.value.get("lifecycle", "preStop"):
        return
    yield Found(
        container.value,
        f"{proxied[0].service.title} goes on sending connections to a pod that ends, for 1 to 2 s, "
        f"until every node has heard of it; container {container.name} has no preStop, so a server "
        "that closes its listener at SIGTERM refuses them: measured, 3 to 7 of 280 requests a "
        "rollout with the sidecar, 10 to 21 without, none with preStop.",
        "Let it go on until then:",
        ("lifecycle:", "  preStop:", "    sleep: {seconds: 4}"),
    )


RULES = (
    Rule(
        "startup-deadlock",
        Level.ERROR,
        "Something that starts first waits for what starts after it",
        "The pod stays in Init for ever.",
        "Let the startup probe of a native sidecar ask what the sidecar itself answers.",
        """\
startupProbe:
  httpGet: {path: /live, port: 9809}
  periodSeconds: 1
  failureThreshold: 60
""",
        startup_deadlock,
    ),
    Rule(
        "no-prestop",
        Level.NOTE,
        "A pod that takes traffic closes its door before the news is out",
        "Each rollout refuses some connections.",
        "Let the container go on for some seconds before SIGTERM.",
        """\
lifecycle:
  preStop:
    sleep: {seconds: 4}
""",
        no_prestop,
    ),
)
