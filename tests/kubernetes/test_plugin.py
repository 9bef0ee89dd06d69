"""`kubectl accept-probe`, run by the real kubectl against a server that has a pod and no kubelet.

What kubelet does with it is seen by tests/e2e.
"""

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from probe import __version__
from tests.kubernetes.manifests import Manifest, kubectl

PLUGIN = Path(__file__).parents[2] / "kubectl" / "kubectl-accept_probe"
PODS = "/api/v1/namespaces/shop/pods"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"
FINDING = "8080: the thread that accepted connections has exited\n"


def resources(version: str, *names: str) -> Manifest:
    kinds = {"pods": "Pod", "endpointslices": "EndpointSlice"}
    return {
        "kind": "APIResourceList",
        "groupVersion": version,
        "resources": [
            {"name": name, "kind": kinds[name], "namespaced": True, "verbs": ["get", "list"]}
            for name in names
        ],
    }


class Api:
    """One pod, and the slices of its Services. What is added to it ends at once."""

    def __init__(self) -> None:
        self.pod: Manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "web-1", "namespace": "shop", "uid": "u1", "annotations": {}},
            "spec": {
                "securityContext": {},
                "containers": [
                    {"name": "helper", "image": "h"},
                    {"name": "web", "image": "w", "ports": [port(8080)]},
                ],
            },
            "status": {"phase": "Running"},
        }
        self.slices: list[Manifest] = []
        self.debuggers: list[Manifest] = []
        self.ends: Manifest = {"terminated": {"exitCode": 1}}
        """The state of a debugging container."""
        self.refusal = ""
        self.url = ""

    def get(self, path: str) -> Manifest | str | None:
        pages: dict[str, Any] = {
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/api/v1": resources("v1", "pods"),
            "/apis": {
                "kind": "APIGroupList",
                "groups": [
                    {
                        "name": "discovery.k8s.io",
                        "versions": [{"groupVersion": "discovery.k8s.io/v1", "version": "v1"}],
                    }
                ],
            },
            "/apis/discovery.k8s.io/v1": resources("discovery.k8s.io/v1", "endpointslices"),
            f"{PODS}/web-1": self.pod,
            f"{PODS}/web-1/log": FINDING,
            SLICES: {
                "kind": "EndpointSliceList",
                "apiVersion": "discovery.k8s.io/v1",
                "items": self.slices,
            },
        }
        return pages.get(path)

    def add(self, patch: Manifest) -> Manifest:
        """What PATCH pods/ephemeralcontainers does, and kubelet after it."""
        self.debuggers += patch["spec"]["ephemeralContainers"]
        self.pod["spec"]["ephemeralContainers"] = self.debuggers
        self.pod["status"]["ephemeralContainerStatuses"] = [
            {"name": one["name"], "state": self.ends} for one in self.debuggers
        ]
        return self.pod

    def serve(self, number: int, *endpoints: str) -> None:
        """Have a Service send to `number` of these pods, none of which is ready."""
        self.slices.append(
            {
                "metadata": {"name": f"slice-{number}", "namespace": "shop"},
                "ports": [{"port": number, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}],
                "endpoints": [
                    {"conditions": {"ready": False}, "targetRef": {"kind": "Pod", "name": name}}
                    for name in endpoints
                ],
            }
        )


def port(number: int) -> Manifest:
    return {"containerPort": number, "protocol": "TCP"}


@pytest.fixture
def api() -> Iterator[Api]:
    api = Api()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            self.answer(api.get(self.path.partition("?")[0]))

        def do_PATCH(self) -> None:
            patch = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path.startswith(f"{PODS}/web-1/ephemeralcontainers")
            if api.refusal:
                refused = {"kind": "Status", "status": "Failure", "reason": "Forbidden"}
                self.answer({**refused, "message": api.refusal}, 403)
            else:
                self.answer(api.add(patch))

        def answer(self, said: Manifest | str | None, status: int = 200) -> None:
            if said is None:
                status, said = 404, {"kind": "Status", "reason": "NotFound", "message": self.path}
            body = (said if isinstance(said, str) else json.dumps(said)).encode()
            self.send_response(status)
            kind = "text/plain" if isinstance(said, str) and status == 200 else "application/json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield api
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


class Plugin:
    """Runs `kubectl accept-probe`, as a user of the server would."""

    def __init__(self, api: Api, home: Path) -> None:
        self.api = api
        self.home = home
        self.temporary = home / "tmp"
        self.temporary.mkdir()

    def command(self, *words: str) -> list[str]:
        return [kubectl(), "accept-probe", *words, f"--server={self.api.url}", "--namespace=shop"]

    @property
    def environment(self) -> dict[str, str]:
        path = f"{PLUGIN.parent}:{Path(kubectl()).parent}:{os.environ['PATH']}"
        return {"PATH": path, "HOME": str(self.home), "TMPDIR": str(self.temporary)}

    def run(self, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Also sees that no file is left behind."""
        own, dashes, others = (list(words), [], [])
        if "--" in words:
            at = words.index("--")
            own, dashes, others = list(words[:at]), ["--"], list(words[at + 1 :])
        ran = subprocess.run(
            [*self.command(*own), *dashes, *others],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == status, ran.stderr
        assert not list(self.temporary.iterdir())
        return ran

    @property
    def debugger(self) -> Manifest:
        """The one container that was added."""
        (one,) = self.api.debuggers
        return one


@pytest.fixture
def plugin(api: Api, tmp_path: Path) -> Plugin:
    return Plugin(api, tmp_path)


def test_a_pod_without_a_sidecar_is_diagnosed_from_a_container_of_its_own(plugin: Plugin) -> None:
    """It sees the application's processes as its user, and its finding and exit status come out."""
    plugin.api.pod["spec"]["securityContext"] = {"runAsUser": 1234, "runAsGroup": 1235}
    ran = plugin.run("diagnose", "web-1", "--", "--jvm-attach", status=1)
    assert ran.stdout == FINDING
    added = plugin.debugger
    assert added["image"] == f"accept-probe:{__version__}"
    assert added["command"] == ["probe", "diagnose", "--jvm-attach", "--port", "8080"]
    assert added["targetContainerName"] == "web"
    context = added["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (1234, 1235)
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert f"container {added['name']} " in ran.stderr


@pytest.mark.parametrize(
    ("pods_own", "containers_own", "running", "told"),
    [
        ({"runAsUser": 1, "runAsGroup": 2}, {}, None, (1, 2)),
        ({"runAsUser": 1, "runAsGroup": 2}, {"runAsUser": 3}, None, (3, 2)),
        ({"runAsUser": 1}, {}, None, (1, 0)),
        ({"runAsUser": 1, "runAsGroup": 2}, {"runAsUser": 3}, (5, 6), (5, 6)),
        ({}, {}, (5, 6), (5, 6)),
    ],
)
def test_it_runs_as_the_user_that_the_pod_tells(
    plugin: Plugin,
    pods_own: Manifest,
    containers_own: Manifest,
    running: tuple[int, int] | None,
    told: tuple[int, int],
) -> None:
    pod = plugin.api.pod
    pod["spec"]["securityContext"] = pods_own
    pod["spec"]["containers"][1]["securityContext"] = containers_own
    if running:
        user = {"linux": {"uid": running[0], "gid": running[1]}}
        pod["status"]["containerStatuses"] = [{"name": "web", "user": user}]
    plugin.run("diagnose", "web-1", status=1)
    context = plugin.debugger["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == told
    assert context["runAsNonRoot"]


@pytest.mark.parametrize("words", [(), ("--run-as", "0:0")])
def test_where_the_user_is_not_known_it_is_root_with_the_right_to_trace(
    plugin: Plugin, words: tuple[str, ...]
) -> None:
    plugin.api.pod["spec"]["securityContext"] = {"runAsNonRoot": True}
    ran = plugin.run("diagnose", "web-1", *words, status=1)
    context = plugin.debugger["securityContext"]
    assert (context["runAsUser"], context["runAsNonRoot"]) == (0, False)
    assert context["capabilities"]["add"] == ["SYS_PTRACE"]
    assert ("does not tell the user" in ran.stderr) is not bool(words)


def test_the_ports_are_those_that_services_send_to_though_the_pod_is_not_ready(
    plugin: Plugin,
) -> None:
    plugin.api.serve(8443, "web-2", "web-1")
    plugin.api.serve(9000, "web-2")
    plugin.api.serve(8444, "web-1")
    plugin.run("diagnose", "web-1", status=1)
    assert plugin.debugger["command"][2:] == ["--port", "8443", "--port", "8444"]
    assert plugin.debugger["targetContainerName"] == "helper", "nobody declares them: the first"


def test_the_port_that_is_given_is_the_one_and_finds_its_container(plugin: Plugin) -> None:
    plugin.api.serve(8443, "web-1")
    plugin.api.pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] = "helper"
    plugin.run("diagnose", "pod/web-1", "--port=8080", status=1)
    assert plugin.debugger["command"][2:] == ["--port", "8080"]
    assert plugin.debugger["targetContainerName"] == "web"


def test_a_sidecar_is_asked_instead(plugin: Plugin) -> None:
    plugin.api.pod["spec"]["initContainers"] = [
        {"name": "setup", "image": "accept-probe:1", "command": ["cp"]},
        {
            "name": "probe",
            "image": "registry.example/accept-probe:1",
            "args": ["serve", "--port=8080"],
            "ports": [port(9809)],
        },
    ]
    plugin.api.serve(9809, "web-1")
    plugin.api.serve(8080, "web-1")
    ran = plugin.run("diagnose", "web-1", "--dry-run")
    assert "debug web-1" in ran.stdout, "it does not run"
    plugin.api.pod["status"]["initContainerStatuses"] = [
        {"name": "probe", "state": {"running": {"startedAt": "2026-11-26T02:00:00Z"}}}
    ]
    ran = plugin.run("diagnose", "web-1", "--dry-run", "--", "--json")
    assert ran.stdout.rstrip().endswith("exec web-1 -c probe -- probe diagnose --json --port 8080")
    assert not plugin.api.debuggers


def test_what_it_would_do_is_shown_and_not_done(plugin: Plugin) -> None:
    ran = plugin.run("diagnose", "web-1", "--dry-run", "--as", "it's me")
    assert re.search(r"^kubectl '--as' 'it'\\''s me' .*debug web-1 ", ran.stdout)
    assert '"runAsUser": 0' in ran.stderr
    assert not plugin.api.debuggers


def test_what_hinders_it_is_told(plugin: Plugin) -> None:
    """An image that cannot be had, and a right that is missing: no waiting, and nothing left."""
    plugin.api.ends = {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
    ran = plugin.run("diagnose", "web-1", status=3)
    assert "cannot start: ErrImagePull: no such image" in ran.stderr
    plugin.api.refusal = "pods/ephemeralcontainers is forbidden"
    ran = plugin.run("diagnose", "web-1", status=3)
    assert "pods/ephemeralcontainers is forbidden" in ran.stderr
    plugin.run("diagnose", "web-2", status=3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "usage: kubectl accept-probe diagnose POD"),
        (("cure",), "cure: no such command"),
        (("diagnose",), "name the pod"),
        (("diagnose", "deploy/web"), "of a Deployment it is not known"),
        (("diagnose", "web-1", "web-2"), "one word too many"),
        (("diagnose", "web-1", "--port", "http"), "'http' is not a port"),
        (("diagnose", "web-1", "--run-as", "me"), "'me' is not UID:GID"),
        (("diagnose", "web-1", "--jvm-attach=1"), "--jvm-attach: no such flag"),
        (("diagnose", "web-1", "-c", "nginx"), "no container nginx; it has helper web"),
    ],
)
def test_wrong_usage_is_told_in_a_line(plugin: Plugin, words: tuple[str, ...], said: str) -> None:
    command = plugin.command(*words)[:-2] if not words else plugin.command(*words)
    ran = subprocess.run(
        command, env=plugin.environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert said in ran.stderr


def test_a_pod_of_no_port_asks_for_one(plugin: Plugin) -> None:
    del plugin.api.pod["spec"]["containers"][1]["ports"]
    assert "give --port" in plugin.run("diagnose", "web-1", status=2).stderr


def test_an_interrupt_leaves_no_file_behind(plugin: Plugin) -> None:
    plugin.api.ends = {"running": {"startedAt": "2026-11-26T02:00:00Z"}}
    with subprocess.Popen(
        plugin.command("diagnose", "web-1"),
        env=plugin.environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        assert running.stderr
        while "joins" not in running.stderr.readline():
            assert running.poll() is None
        os.killpg(running.pid, 2)
        assert running.wait() in (130, 1)
    assert not list(plugin.temporary.iterdir())
