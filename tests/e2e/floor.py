"""Three replicas that are all overloaded, without the floor and with it; and the readiness gate."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.e2e.cluster import Cluster, Unexpected, wait
from tests.kubernetes.manifests import Manifest

Arrange = Callable[[str], list[Manifest]]
Say = Callable[[str], None]

REPLICAS = 3
LOAD = 75.0
"""Seconds."""
START = 180.0
SATURATED = 5 + 5 + 3 + 2 + 15
"""Until a saturated pod has left its Service, at most: the judge's time, kubelet's period, the exec
probe's time-out, the controller, and the load's own start."""

CLIENTS = """
import random, socket, threading, time
end = time.monotonic() + {seconds}
def client():
    while time.monotonic() < end:
        try:
            with socket.create_connection(('127.0.0.1', 8080), 0.5) as connection:
                connection.settimeout(10)
                connection.recv(1)
            time.sleep(random.uniform(0, 1))
        except OSError:
            time.sleep(0.05)
for _ in range(9):
    threading.Thread(target=client).start()
"""
"""Clients that say nothing: the application gives each of them a second, and its queue of five is
full. It accepts all the same. Who was served comes again after a while, and not just when the next
place is free: else nobody else would ever get one."""

REQUEST = """
import os, socket
with socket.create_connection((os.environ['WEB_SERVICE_HOST'], 80), 5) as connection:
    connection.settimeout(30)
    connection.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
    print(connection.recv(64).decode().split('\\r')[0])
"""
PYTHON = ("/probe/bin/python3", "-IS", "-c")


def floor(cluster: Cluster, program: Manifest, arranged: Arrange, say: Say) -> None:
    """Without the floor the Service loses all of its endpoints; with it, it serves."""
    say("--- floor: three replicas, each of them saturated")
    cluster.run("delete", "deployment", "web", "--ignore-not-found", "--wait=true")
    manifests = [program, *arranged("floor")]
    args = _args(manifests)
    flags = [word for word in args if word.startswith("--floor")]
    for word in flags:
        args.remove(word)
    cluster.apply(manifests)
    pods = _three(cluster)
    say("without --floor: " + ", ".join(sorted(pods)))
    with _load(cluster, pods):
        _, took = wait("a Service without endpoints", lambda: not cluster.endpoints(), SATURATED)
        say(f"all are overloaded, and after {took:.1f} s the Service has no endpoint")
    wait("all back", lambda: cluster.endpoints() == pods, 90)

    args += flags
    cluster.apply(manifests)
    cluster.run("rollout", "status", "deployment/web", "--timeout=180s")
    pods = _three(cluster)
    say(f"with {flags[0]}: " + ", ".join(sorted(pods)))
    with _load(cluster, pods):
        _, took = wait("two that leave", lambda: len(cluster.endpoints()) == 1, SATURATED)
        (stays,) = cluster.endpoints()
        say(f"after {took:.1f} s two have left, and {stays} stays")
        say(f"    {cluster.probe(stays, 'probe', 'check', '--sidecar').strip()}")
        say(f"    through the Service: {_request(cluster, stays)}")
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if not cluster.endpoints():
                raise Unexpected("the Service has no endpoint")
            time.sleep(0.5)
        for line in cluster.run("get", "leases").splitlines():
            say(f"    {line}")
    wait("all back", lambda: cluster.endpoints() == pods, 90)
    say("the load is over, and all are back")
    cluster.run("delete", "deployment", "web", "--wait=true")


def gate(cluster: Cluster, program: Manifest, arranged: Arrange, say: Say) -> None:
    """The Service follows the condition."""
    say("--- gate: the Service follows the verdict itself")
    cluster.apply([program, *arranged("gate")])
    (name,), _ = wait("a ready endpoint", cluster.endpoints, START)
    cluster.break_it(name)
    _, took = wait("out of the Service", lambda: not cluster.endpoints(), 15)
    say(f"its accept thread is dead; {took:.1f} s later it has left the Service")
    why = '{.status.conditions[?(@.type=="accept-probe/Accepting")].message}'
    say(f"    {cluster.run('get', 'pod', name, f'--output=jsonpath={why}').strip()}")
    cluster.run("delete", "deployment", "web", "--wait=true")


def _args(manifests: list[Manifest]) -> list[str]:
    """The sidecar's arguments, to be changed; and as many replicas as are wanted."""
    (deployment,) = (each for each in manifests if each["kind"] == "Deployment")
    deployment["spec"]["replicas"] = REPLICAS
    args: list[str] = deployment["spec"]["template"]["spec"]["initContainers"][-1]["args"]
    return args


def _three(cluster: Cluster) -> set[str]:
    def all_ready() -> set[str] | None:
        names = {pod["metadata"]["name"] for pod in cluster.pods()}
        return names if len(names) == REPLICAS and cluster.endpoints() == names else None

    return wait("three ready endpoints", all_ready, START)[0]


@contextlib.contextmanager
def _load(cluster: Cluster, pods: set[str]) -> Iterator[None]:
    """Clients in every pod, for LOAD seconds."""
    script = CLIENTS.format(seconds=LOAD)
    with ThreadPoolExecutor(len(pods)) as pool:
        for pod in pods:
            pool.submit(cluster.probe, pod, *PYTHON, script)
        yield


def _request(cluster: Cluster, pod: str) -> str:
    """What the Service answers, within some tries: its queue is full."""
    for _ in range(10):
        with contextlib.suppress(Unexpected, subprocess.SubprocessError):
            said = cluster.probe(pod, *PYTHON, REQUEST).strip()
            if said:
                return said
    raise Unexpected("nobody answers through the Service")
