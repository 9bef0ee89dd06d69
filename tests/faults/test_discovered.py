"""`probe serve` without any target: useful, and harmless."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.faults.harness import App, Sidecar, application, sidecar
from tests.test_commands import probe

FAST = (
    *("--interval", "200ms", "--stalled-for", "600ms", "--live-after", "600ms"),
    "--discover-ephemeral",  # The applications of these tests listen on such ports.
)
LISTEN = ("--listen", "127.0.0.1:9809")


@contextmanager
def clients(port: int, count: int) -> Iterator[None]:
    """Connections from elsewhere, which wait for an answer."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        yield


@contextmanager
def stalled(app: App, watching: Sidecar) -> Iterator[None]:
    app.stop()
    with clients(app.port, 2):
        watching.until(
            20, target=str(app.port), reason="accept_queue_stalled", condition="unhealthy"
        )
        yield
        app.resume()
    watching.until(20, target=str(app.port), condition="healthy")


def found(beside: Sidecar, *apps: App) -> None:
    """Wait until each is discovered, and healthy."""
    names = {str(app.port) for app in apps}
    while names:
        event = beside.until(10, event="transition", condition="healthy")
        names.discard(event["target"])


def test_a_stall_is_told_and_kept_and_decides_nothing(tmp_path: Path) -> None:
    evidence = ("--evidence-dir", str(tmp_path))
    with (
        application() as app,
        application() as other,
        sidecar(*FAST, *evidence) as beside,
    ):
        name = str(app.port)
        found(beside, app, other)
        with stalled(app, beside):
            for question in ("ready", "live", "started"):
                assert beside.get(f"/{question}") == (200, f"{question}\n")
            code, told = beside.get(f"/ready/{name}")
            assert code == 503
            assert told.startswith(
                f"not ready: accept_queue_stalled: {name} accept queue stalled: 2"
            )
            kept = beside.until(20, event="evidence", target=name)
            assert (tmp_path / str(kept["id"])).is_dir()
            beside.throughout(1.5, live=True)
            assert beside.get(f"/live/{name}")[0] == 200, "it is restarted for nobody"
            metrics = beside.get("/metrics")[1]
            assert f'reason="accept_queue_stalled",target="{name}"}} 1.0' in metrics
            assert f'acceptprobe_ready{{target="{name}"}}' not in metrics
            targets = {target["name"]: target for target in beside.status()["targets"]}
            assert {told["discovered"] for told in targets.values()} == {True}
            assert beside.status()["ready"] is True
        app.end()
        beside.until(10, event="forgotten", target=name)
        assert beside.get(f"/ready/{name}")[0] == 404
        assert beside.get(f"/ready/{other.port}")[0] == 200


def test_told_to_decide_a_stall_makes_the_pod_not_ready_and_no_more() -> None:
    with (
        application() as main,
        application() as app,
        sidecar("--port", str(main.port), "--discover", "decide", *FAST) as beside,
    ):
        found(beside, main, app)
        assert beside.get("/ready") == (200, "ready\n")
        with stalled(app, beside):
            code, told = beside.get("/ready")
            assert code == 503
            assert told.startswith(f"not ready: accept_queue_stalled: {app.port} accept queue")
            assert beside.get("/live") == (200, "live\n")
            assert beside.get(f"/ready?exclude={app.port}")[0] == 200
        assert beside.get("/ready") == (200, "ready\n")
        app.stop()
        with clients(app.port, 2):
            beside.until(20, target=str(app.port), ready=False)
            app.end()
            beside.until(10, event="forgotten", target=str(app.port))
            assert beside.get("/ready")[0] == 200, "who has gone holds nobody up"


def test_audit_names_what_is_discovered_and_not_probed() -> None:
    with application() as main, application() as app, application() as aside:
        options = ("--discover", "--exclude-port", str(aside.port), *FAST, *LISTEN)
        with sidecar("--port", str(main.port), *options) as beside:
            found(beside, app)
            told = probe("audit").stdout.splitlines()
            rows = [json.loads(line) for line in probe("audit", "--json").stdout.splitlines()]
    column = {line.split()[0]: line.split()[6] for line in told[1:4]}
    assert column == {str(main.port): "yes", str(app.port): "queue", str(aside.port): "no"}
    assert told[-2:] == [
        f"Watched by the queue alone: {app.port}. --port for each would ask it, too.",
        f"Nothing probes {aside.port}: a sidecar would with --port for each.",
    ]
    seen = {row["port"]: (row["probed"], row["discovered"]) for row in rows}
    assert seen == {
        main.port: (True, False),
        app.port: (False, True),
        aside.port: (False, False),
    }


def test_our_own_ports_are_not_among_them() -> None:
    with application() as app:
        agent = ("--agent-listen", "127.0.0.1:0")
        with sidecar(*FAST, *agent) as beside:
            found(beside, app)
            for _ in range(3):
                beside.get("/live")
            beside.throughout(1.0)
            assert [told["port"] for told in beside.status()["targets"]] == [app.port]


def test_a_namespace_without_any_listener_is_ready() -> None:
    with sidecar() as beside:
        beside.throughout(1.5)
        assert beside.get("/ready") == (200, "ready\n")
        assert beside.status()["targets"] == []
