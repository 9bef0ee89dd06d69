"""The incident in a real cluster, from the examples as they are: python -m tests.e2e

Takes the current kubectl context and a namespace of its own there, which it removes at the end.
Without a cluster it says so and ends well.

  E2E_IMAGE       the sidecar's image, which the nodes have or can pull: accept-probe:VERSION
  E2E_JAVA_IMAGE  an image with a JDK: the incident in Java instead of the embedded one
  E2E_KEEP=1      leave the namespace as it is
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from probe import __version__
from tests.e2e.cluster import Cluster, Unexpected, restarts, wait
from tests.e2e.floor import floor, gate
from tests.kubernetes.manifests import Manifest, build, sidecar, without_sidecar

IMAGE = os.environ.get("E2E_IMAGE", f"accept-probe:{__version__}")
JAVA = os.environ.get("E2E_JAVA_IMAGE", "")
START = 180.0
"""Seconds for a pod to become ready, pulling its image included."""
UNREADY = 4.75 + 5 + 1 + 2
"""Until a stalled pod has left its Service: the sidecar, kubelet's period, its question, and the
controller that keeps the endpoints. See docs/kubernetes.md."""
REPORT = 30
"""Lines of the report that are shown."""
GONE = "the thread that accepted connections has exited"
KUBELET = 6 * 5 + 10
"""Until kubelet has restarted what is not live: six failures in a row, and a little more."""
RESTARTED = 31.5 + 6 * 5 + 10 + 30
"""Until the application was restarted: the stall, /live's six failures in a row, the evidence at
most, and the application's own time to end."""
TERMINATED = 31.5 + 10 + 5
"""The same where the sidecar ends it: the stall, the time to end, and kubelet, which starts it."""
EXITS_FROM = 36
"""The Kubernetes, 1.36, in which all containers can be restarted by the exit of one."""
ABSENT = 90.0
"""Seconds without a sidecar: three times what a liveness probe would have borne."""


def say(line: str) -> None:
    print(f"{time.monotonic() - BEGAN:7.1f} s  {line}", flush=True)


BEGAN = time.monotonic()


def arranged(example: str) -> list[Manifest]:
    """The example, with one replica, our image, and an application that can be broken."""
    manifests = list(build(example))
    for manifest in manifests:
        if manifest["kind"] != "Deployment":
            continue
        manifest["spec"]["replicas"] = 1
        spec = manifest["spec"]["template"]["spec"]
        for container in [*spec["initContainers"], *spec["containers"]]:
            container["imagePullPolicy"] = "IfNotPresent"
            if container["name"] == "probe":
                container["image"] = IMAGE
            elif example == "java":
                container["image"] = JAVA
            else:
                container["image"] = IMAGE
                container["command"] = ["/probe/bin/python3", "-u", "/source/application.py"]
                mounts = container.setdefault("volumeMounts", [])
                mounts += [{"name": "source", "mountPath": "/source"}]
                spec["volumes"] += [{"name": "source", "configMap": {"name": "application"}}]
    return manifests


def with_events(manifests: list[Manifest]) -> list[Manifest]:
    """Let the sidecar write Events: the Role of the quarantine example, without its pods."""
    allowed = [
        one
        for one in build("quarantine")
        if one["kind"] in ("ServiceAccount", "Role", "RoleBinding")
    ]
    for manifest in allowed:
        if manifest["kind"] == "Role":
            manifest["rules"] = manifest["rules"][:1]
    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            spec = manifest["spec"]["template"]["spec"]
            spec["initContainers"][-1]["args"] += ["--kube-events"]
            spec["serviceAccountName"] = "web-quarantine"
            spec["automountServiceAccountToken"] = True
    return [*allowed, *manifests]


def program() -> Manifest:
    text = Path(__file__).with_name("application.py").read_text()
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "application"},
        "data": {"application.py": text},
    }


def restart(cluster: Cluster) -> None:
    """Quickstart: out of the Service, evidence, the application ended by the sidecar and started by
    kubelet, back, and the evidence still there."""
    example, app = ("java", "shop") if JAVA else ("quickstart", "web")
    say(f"--- {example}: a stall is told of, kept as evidence, and the application is ended")
    cluster.apply([program(), *with_events(arranged(example))])
    (name,), _ = wait("a ready endpoint", lambda: cluster.endpoints(app), START)
    say(f"{name} is ready, and in its Service")
    cluster.break_it(name)
    say("its accept thread is dead")

    _, took = wait("out of the Service", lambda: not cluster.endpoints(app), UNREADY + 15)
    say(f"it left the Service after {took:.1f} s (bound: {UNREADY:.1f} s)")
    if took > UNREADY:
        raise Unexpected("that was too late")

    def named() -> str | None:
        lines = cluster.describe(name).splitlines()
        return next((line for line in lines if "not ready: accept_queue_stalled" in line), None)

    line, _ = wait("the reason in kubectl describe", named, 30)
    say(f"kubectl describe: {' '.join(line.split())}")
    (event,), _ = wait("the Event", lambda: cluster.events(name, "AcceptQueueStalled"), 30)
    say(f"Event AcceptQueueStalled: {event['note']}")

    kept, _ = wait("evidence", lambda: incidents(cluster, name), 30)
    (pod,) = cluster.pods(f"app={app}")
    if restarts(pod, app):
        raise Unexpected("the container was restarted before its evidence was saved")
    say("evidence before the restart:")
    report = cluster.probe(name, "probe", "evidence", "show", min(kept), "--evidence-dir=/evidence")
    for line in report.splitlines()[:REPORT]:
        say(f"    {line}")
    if GONE not in report:
        raise Unexpected("the report does not say that the accept thread has gone")

    def restarted() -> Manifest | None:
        (pod,) = cluster.pods(f"app={app}")
        return pod if restarts(pod, app) else None

    pod, took = wait("the restart", restarted, TERMINATED)
    ended, _ = wait("the Event", lambda: cluster.events(name, "Terminated"), 30)
    say(f"Event Terminated: {ended[0]['note']}")
    wait("ready again", lambda: cluster.endpoints(app) == {name}, 60)
    say("it is ready again, and back in the Service")
    (pod,) = cluster.pods(f"app={app}")
    if restarts(pod, "probe"):
        raise Unexpected("the sidecar was restarted")
    if not kept <= incidents(cluster, name):
        raise Unexpected("the evidence is gone")
    say("the evidence is still there")
    wait("the Event of recovery", lambda: cluster.events(name, "Recovered"), 30)
    wait("the Event of the evidence", lambda: cluster.events(name, "EvidenceSaved"), 5)
    for line in cluster.describe(name).partition("\nEvents:")[2].splitlines():
        say(f"    {line.strip()}")
    cluster.run("delete", "deployment", app, "--cascade=foreground", "--wait=true")


def hold(cluster: Cluster) -> None:
    """Quickstart: a stalled pod is held, so it is not restarted; released, it is."""
    say("--- hold: a stalled pod stays as it is while somebody looks, and is restarted after that")
    cluster.apply([program(), *with_events(arranged("quickstart"))])
    (name,), _ = wait("a ready endpoint", cluster.endpoints, START)
    say(f"{name} is ready; probe hold: {cluster.probe(name, 'probe', 'hold', '--for=15m').strip()}")
    (event,), _ = wait("the Event", lambda: cluster.events(name, "HoldBegun"), 30)
    say(f"Event HoldBegun: {event['note']}")
    cluster.break_it(name)
    say("its accept thread is dead")

    def spared() -> str | None:
        line = cluster.probe(name, "probe", "check", "--sidecar", "--live").strip()
        return line if "without that not live" in line else None

    line, took = wait("a liveness that would fail", spared, RESTARTED)
    say(f"after {took:.1f} s it would not be live: {line}")
    if cluster.endpoints():
        raise Unexpected("it is in its Service, and serves nobody")
    stays = time.monotonic() + KUBELET
    while time.monotonic() < stays:
        (pod,) = cluster.pods()
        if restarts(pod, "web"):
            raise Unexpected("it was restarted while it was held")
        time.sleep(1)
    say(f"{KUBELET:g} s later it has not been restarted")
    say(f"probe release: {cluster.probe(name, 'probe', 'release').strip()}")

    def restarted() -> bool:
        return any(restarts(pod, "web") for pod in cluster.pods())

    _, took = wait("the restart", restarted, KUBELET + 30)
    say(f"it was restarted after {took:.1f} s")
    wait("the Event of the end", lambda: cluster.events(name, "HoldEnded"), 5)
    wait("ready again", lambda: cluster.endpoints() == {name}, 60)
    cluster.run("delete", "deployment", "web", "--cascade=foreground", "--wait=true")


def bare(cluster: Cluster) -> None:
    """A pod that never had a sidecar stalls: the plugin says what there is to be said."""
    say("--- kubectl accept-probe: the finding about a pod without a sidecar")
    manifests = arranged("quickstart")
    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            spec = manifest["spec"]["template"]["spec"]
            spec["shareProcessNamespace"] = False
            del spec["initContainers"]
            spec["containers"][0].pop("livenessProbe", None)
    cluster.apply([program(), *manifests])
    (name,), _ = wait("a ready endpoint", cluster.endpoints, START)
    status, finding, said = cluster.plugin("diagnose", name, image=IMAGE)
    if status != 0:
        raise Unexpected(f"healthy, and the plugin ends with {status}: {said}{finding}")
    say(f"{name} is healthy, says kubectl accept-probe")
    cluster.break_it(name, "web")
    say("its accept thread is dead")
    began = time.monotonic()
    status, finding, said = cluster.plugin("diagnose", name, image=IMAGE)
    say(f"kubectl accept-probe diagnose {name}: {status}, after {time.monotonic() - began:.1f} s")
    for line in [*said.splitlines(), *finding.splitlines()[:REPORT]]:
        say(f"    {line}")
    if status != 1 or "nothing is accepted and no thread waits to accept" not in finding:
        raise Unexpected("the finding is another one")
    cluster.run("delete", "deployment", "web", "--cascade=foreground", "--wait=true")


def quarantine(cluster: Cluster) -> None:
    """The first stalled pod is kept and replaced; the second, beyond the limit, is restarted."""
    say("--- quarantine: a stalled pod is set aside, a second one is restarted")
    cluster.apply([program(), *arranged("quarantine")])
    (first,), _ = wait("a ready endpoint", lambda: cluster.endpoints(), START)
    say(f"{first} is ready")
    cluster.break_it(first)
    say("its accept thread is dead")

    def replacement() -> str | None:
        return next(iter(cluster.endpoints() - {first}), None)

    second, took = wait("a replacement", replacement, RESTARTED + START)
    say(f"after {took:.1f} s {second} is ready in its place")
    (pod,) = cluster.pods("app=web-quarantined")
    if pod["metadata"]["name"] != first or pod["metadata"].get("ownerReferences"):
        raise Unexpected("the ReplicaSet did not let go of the first")
    if restarts(pod, "web"):
        raise Unexpected("the first was restarted")
    for key, value in sorted(pod["metadata"]["annotations"].items()):
        if key.startswith("accept-probe/"):
            say(f"    {key}: {value}")
    (event,), _ = wait("the Event", lambda: cluster.events(first, "Quarantined"), 30)
    say(f"Event Quarantined: {event['note']}")
    cluster.break_it(second)
    say(f"the accept thread of {second} is dead, too: that is one more than may be set aside")

    def restarted() -> bool:
        return any(restarts(pod, "web") for pod in cluster.pods())

    _, took = wait("the restart", restarted, RESTARTED)
    say(f"it was restarted after {took:.1f} s")
    (pod,) = cluster.pods("app=web-quarantined")
    if restarts(pod, "web"):
        raise Unexpected("the pod in quarantine was restarted")
    wait("ready again", lambda: cluster.endpoints() == {second}, 60)
    say(f"it is ready again; {first} is still there, as it was")
    for line in cluster.run("get", "pods", "--show-labels").splitlines():
        say(f"    {line}")


def by_liveness(cluster: Cluster) -> None:
    """The component: /live fails, and kubelet restarts the application."""
    say("--- component: a stall is restarted by the application's liveness probe")
    cluster.apply([program(), *arranged("component")])
    (name,), _ = wait("a ready endpoint", lambda: cluster.endpoints(), START)
    cluster.break_it(name)

    def restarted() -> bool:
        return any(restarts(pod, "web") for pod in cluster.pods())

    _, took = wait("the restart", restarted, RESTARTED)
    say(f"its container was restarted after {took:.1f} s")
    wait("ready again", lambda: cluster.endpoints() == {name}, 60)
    cluster.run("delete", "deployment", "web", "--wait=true")


def exits(cluster: Cluster) -> None:
    """The sidecar ends with its status, and kubelet restarts every container of the pod."""
    say("--- exit: the sidecar ends, and all containers of the pod are restarted")
    if (minor := cluster.minor()) < EXITS_FROM:
        say(f"skipped: RestartAllContainers is there from 1.{EXITS_FROM} on, and this is 1.{minor}")
        return
    cluster.apply([program(), *arranged("exit")])
    (name,), _ = wait("a ready endpoint", lambda: cluster.endpoints(), START)
    cluster.break_it(name)
    kept, _ = wait("evidence", lambda: incidents(cluster, name), 30)

    def restarted() -> bool:
        (pod,) = cluster.pods()
        return all(restarts(pod, container) for container in ("web", "probe"))

    _, took = wait("the restart of both", restarted, TERMINATED)
    say(f"both containers were restarted after {took:.1f} s")
    wait("ready again", lambda: cluster.endpoints() == {name}, 60)
    if not kept <= incidents(cluster, name):
        raise Unexpected("the evidence is gone")
    say("it is the same pod, back in its Service, with its evidence")
    cluster.run("delete", "deployment", "web", "--wait=true")


def evict(cluster: Cluster) -> None:
    """The eviction waits for the pod's budget, and then another pod takes its place."""
    say("--- evict: a stalled pod is evicted as soon as its budget allows")
    manifests = arranged("evict")
    (budget,) = (one for one in manifests if one["kind"] == "PodDisruptionBudget")
    budget["spec"]["unhealthyPodEvictionPolicy"] = "IfHealthyBudget"
    cluster.apply([program(), *manifests])
    (first,), _ = wait("a ready endpoint", lambda: cluster.endpoints(), START)
    cluster.break_it(first)
    waits, took = wait("the Event", lambda: cluster.events(first, "EvictionWaits"), TERMINATED)
    say(f"after {took:.1f} s Event EvictionWaits: {waits[0]['note']}")
    if restarts(cluster.pods()[0], "web"):
        raise Unexpected("it was restarted")
    allow = '{"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}}'
    cluster.run("patch", "poddisruptionbudget", "web", "--type=merge", f"--patch={allow}")
    say("the budget allows it now")

    def replacement() -> str | None:
        return next(iter(cluster.endpoints() - {first}), None)

    second, took = wait("a replacement", replacement, 60 + START)
    say(f"after {took:.1f} s {second} is ready in its place")
    granted, _ = wait("the Event", lambda: cluster.events(first, "EvictionGranted"), 30)
    say(f"Event EvictionGranted: {granted[0]['note']}")
    cluster.run("delete", "deployment,poddisruptionbudget", "web", "--wait=true")


WRONG = "evidence_dirr: /evidence\n"


def absent(cluster: Cluster) -> None:
    """A sidecar that cannot start any more, for a wrong setting, beside a healthy application."""
    say("--- quickstart: a sidecar with a wrong setting does no harm")
    manifests = arranged("quickstart")
    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            spec = manifest["spec"]["template"]["spec"]
            (probe,) = spec["initContainers"]
            probe["args"] += ["--config=/evidence/probe.yaml"]
            settings = {key: probe[key] for key in ("image", "imagePullPolicy", "volumeMounts")}
            write = "import pathlib; pathlib.Path('/evidence/probe.yaml').write_text('drain: 1s')"
            command = ["/probe/bin/python3", "-IS", "-c", write]
            spec["initContainers"] = [settings | {"name": "settings", "command": command}, probe]
    cluster.apply([program(), *manifests])
    (name,), _ = wait("a ready endpoint", lambda: cluster.endpoints(), START)
    cluster.run(
        *("exec", name, "--container=probe", "--", "/probe/bin/python3", "-IS", "-c"),
        SPOIL.format(WRONG),
        check=False,  # what it was executed in ends under it
    )

    def crashed() -> str | None:
        (pod,) = cluster.pods()
        statuses = pod["status"]["initContainerStatuses"]
        (status,) = (one for one in statuses if one["name"] == "probe")
        ended = status.get("lastState", {}).get("terminated", {})
        return str(ended.get("message", "")) if status["restartCount"] > 2 else None

    said, took = wait("a sidecar that fails again and again", crashed, 120)
    say(f"after {took:.1f} s it has failed three times; kubectl describe: {said.strip()}")
    if "evidence_dirr" not in said:
        raise Unexpected("describe does not say which setting is wrong")
    began = time.monotonic()
    while time.monotonic() - began < ABSENT:
        (pod,) = cluster.pods()
        if restarts(pod, "web"):
            raise Unexpected(f"the application was restarted, {time.monotonic() - began:.0f} s on")
        time.sleep(5)
    say(f"{ABSENT:g} s later the application still runs as it did")
    cluster.run("delete", "deployment", "web", "--wait=true")


SPOIL = """
import os, pathlib, signal
pathlib.Path("/evidence/probe.yaml").write_text({!r})
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        words = (folder / "cmdline").read_bytes().split(bytes(1))
    except FileNotFoundError:
        continue
    if b"serve" in words:
        os.kill(int(folder.name), signal.SIGKILL)
"""


def rollout(cluster: Cluster) -> None:
    """Rolling updates under load, without a request that fails, and without an incident."""
    say("--- quickstart: rolling updates under load")
    client = Path(__file__).with_name("load.py").read_text()
    load = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "load"},
        "spec": {
            "restartPolicy": "Never",
            "containers": [
                {
                    "name": "load",
                    "image": IMAGE,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["/probe/bin/python3", "-u", "-c", client],
                }
            ],
        },
    }
    manifests = arranged("quickstart")
    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            manifest["spec"]["replicas"] = 2
    cluster.apply([program(), *manifests])
    wait("two ready endpoints", lambda: len(cluster.endpoints()) == 2, START)
    cluster.apply([load])
    wait("load", lambda: "began" in cluster.run("logs", "load", check=False), START)
    logs: dict[str, Callable[[], list[str]]] = {}
    for _ in range(ROLLOUTS):
        leaving = [pod["metadata"]["name"] for pod in cluster.pods()]
        logs |= {name: cluster.follow(name) for name in leaving}
        cluster.run("rollout", "restart", "deployment/web")
        cluster.run("rollout", "status", "deployment/web", "--timeout=120s")
    told = {name: log() for name, log in logs.items()}
    end = "import os, signal; os.kill(1, signal.SIGTERM)"
    cluster.run("exec", "load", "--", "/probe/bin/python3", "-IS", "-c", end)
    cluster.run("wait", "pod/load", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
    *_, line = cluster.run("logs", "load").splitlines()
    say(f"{ROLLOUTS} rollouts: {line}")
    if ", 0 failed" not in line:
        raise Unexpected("requests failed")
    for name, lines in told.items():
        for line in lines:
            if " WARNING " in line or " ERROR " in line:
                raise Unexpected(f"the log of {name}, which was deleted, has: {line}")
    say(f"{len(told)} pods were deleted, and none has a warning in its log")
    cluster.run("delete", "deployment/web", "pod/load", "--wait=true")


ROLLOUTS = 3


def overloaded(cluster: Cluster) -> None:
    floor(cluster, program(), arranged, say)


def gated(cluster: Cluster) -> None:
    gate(cluster, program(), arranged, say)


def incidents(cluster: Cluster, pod: str) -> set[str]:
    """The incidents whose evidence the pod keeps."""
    listed = cluster.probe(pod, "probe", "evidence", "list", "--evidence-dir=/evidence")
    return set(re.findall(r"\d{8}T\d{6}Z-\S+", listed))


def injected(cluster: Cluster) -> None:
    """The one command on a Deployment that was created and never applied, and back."""
    say("--- quickstart without the sidecar: probe inject, and probe uninject")
    cluster.apply([program()])
    plain = {"apiVersion": "v1", "kind": "List", "items": without_sidecar(arranged("quickstart"))}
    cluster.run("create", "--filename=-", stdin=json.dumps(plain))
    wait("a ready endpoint", cluster.endpoints, START)

    def change(command: str, *flags: str) -> None:
        live = cluster.run("get", "deployment/web", "service/web", "--output=yaml")
        words = [sys.executable, "-m", "probe", command, *flags, "-"]
        ran = subprocess.run(words, input=live, capture_output=True, text=True, check=False)
        for line in ran.stderr.splitlines():
            say(f"    {line}")
        if ran.returncode:
            raise Unexpected(f"probe {command} ended with {ran.returncode}")
        cluster.run("apply", "--filename=-", stdin=ran.stdout)

    def ready(*, with_sidecar: bool) -> str | None:
        """The only pod, once the earlier ones have gone."""
        pods = [pod for pod in cluster.pods() if pod["metadata"]["name"] in cluster.endpoints()]
        names = [
            pod["metadata"]["name"]
            for pod in pods
            if (sidecar(pod["spec"]) is not None) is with_sidecar
        ]
        return names[0] if len(names) == len(cluster.pods()) == 1 else None

    change("inject", f"--image={IMAGE}")
    name, took = wait("a ready pod with the sidecar", lambda: ready(with_sidecar=True), START)
    say(f"{name} is ready with the sidecar {took:.1f} s after kubectl apply")
    cluster.break_it(name)
    _, took = wait("out of the Service", lambda: not cluster.endpoints(), UNREADY + 15)
    say(f"its accept thread is dead: out of the Service after {took:.1f} s")
    change("uninject")
    name, _ = wait("a ready pod without", lambda: ready(with_sidecar=False), START)
    say(f"{name} is ready without the sidecar")
    cluster.run("delete", "deployment/web", "service/web", "--wait=true")


def main() -> int:
    cluster = Cluster(f"accept-probe-e2e-{os.getpid()}")
    if why := cluster.missing():
        print(f"e2e skipped: no cluster answers kubectl ({why})")
        return 0
    context = cluster.run("config", "current-context", check=False).strip()
    say(f"context {context or 'of the environment'}, namespace {cluster.namespace}, image {IMAGE}")
    cluster.run("create", "namespace", cluster.namespace)
    try:
        stories = (injected, restart, hold, bare, by_liveness, exits, evict, absent)
        for story in (*stories, rollout, quarantine, overloaded, gated):
            story(cluster)
    except Unexpected as error:
        say(f"FAILED: {error}")
        print(cluster.run("get", "pods,events", "--output=wide", check=False))
        for pod in cluster.pods(""):
            name = pod["metadata"]["name"]
            print(f"--- logs of {name}")
            print(cluster.run("logs", name, "--container=probe", "--tail=40", check=False))
        return 1
    finally:
        if not os.environ.get("E2E_KEEP"):
            cluster.clean()
    say("all as it should be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
