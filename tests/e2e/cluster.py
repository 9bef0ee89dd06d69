"""A namespace of our own in the cluster of the current kubectl context, through kubectl alone."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tests.kubernetes.manifests import Manifest, kubectl

Seen = TypeVar("Seen")

PLUGIN = Path(__file__).parents[2] / "kubectl"


BREAK = """
import socket
socket.create_connection(("127.0.0.1", 8082))
answered = b"?"
while answered:
    with socket.create_connection(("127.0.0.1", 8080), 1) as last:
        try:
            last.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            answered = last.recv(1)
        except OSError:
            break
"""
"""Tell the application to die, and be the connection that it dies of; unless another is."""


class Unexpected(Exception):
    """What was to be seen was not."""


class Cluster:
    """`namespace` is made by us, and goes with all that is in it."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._kubectl = os.environ.get("KUBECTL") or shutil.which("kubectl") or kubectl()
        self._beyond: list[Manifest] = []
        """What we made outside of our namespace."""

    def run(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """What kubectl printed; raises Unexpected with its error."""
        command = [self._kubectl, f"--namespace={self.namespace}", *arguments]
        ran = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        if check and ran.returncode:
            raise Unexpected(f"kubectl {' '.join(arguments[:3])}: {ran.stderr.strip()}")
        return ran.stdout

    def missing(self) -> str:
        """Why there is no cluster to be had; empty when there is one."""
        try:
            self.run("version", "--request-timeout=10s")
        except Unexpected as error:
            return str(error).splitlines()[-1]
        return ""

    def minor(self) -> int:
        """36 of Kubernetes 1.36; some say `36+`."""
        told = json.loads(self.run("version", "--output=json"))
        return int(re.sub(r"\D", "", told["serverVersion"]["minor"]))

    def items(self, kind: str, selector: str = "") -> list[Manifest]:
        found = json.loads(self.run("get", kind, f"--selector={selector}", "--output=json"))
        return list(found["items"])

    def apply(self, manifests: list[Manifest]) -> None:
        for manifest in manifests:
            if manifest["kind"].startswith("ValidatingAdmissionPolicy"):
                # Of the whole cluster: nobody else's is to be overwritten.
                manifest["metadata"]["name"] += f"-{self.namespace}"
                if "policyName" in manifest["spec"]:
                    manifest["spec"]["policyName"] += f"-{self.namespace}"
                self._beyond.append(manifest)
        everything = {"apiVersion": "v1", "kind": "List", "items": manifests}
        self.run("apply", "--filename=-", stdin=json.dumps(everything))

    def clean(self) -> None:
        for manifest in self._beyond:
            self.run("delete", manifest["kind"], manifest["metadata"]["name"], check=False)
        self.run("delete", "namespace", self.namespace, "--timeout=120s", check=False)

    # --- what the story asks for

    def pods(self, selector: str = "app=web") -> list[Manifest]:
        return [
            pod
            for pod in self.items("pods", selector)
            if "deletionTimestamp" not in pod["metadata"]
        ]

    def endpoints(self, service: str = "web") -> set[str]:
        """The pods that the Service sends to."""
        return {
            endpoint["targetRef"]["name"]
            for one in self.items("endpointslices", f"kubernetes.io/service-name={service}")
            for endpoint in one.get("endpoints") or ()
            if endpoint["conditions"].get("ready")
        }

    def events(self, pod: str, reason: str) -> list[Manifest]:
        return [
            event
            for event in self.items("events.events.k8s.io")
            if event["regarding"]["name"] == pod
            and event["reason"] == reason
            and event.get("reportingController") == "accept-probe"
        ]

    def follow(self, pod: str) -> Callable[[], list[str]]:
        """Read a sidecar's log from now on; what is returned waits for its end, and gives it."""
        command = [self._kubectl, f"--namespace={self.namespace}", "logs", "--follow", "--tail=0"]
        reading = subprocess.Popen(
            [*command, pod, "--container=probe"], stdout=subprocess.PIPE, text=True
        )
        return lambda: reading.communicate(timeout=120)[0].splitlines()

    def describe(self, pod: str) -> str:
        return self.run("describe", "pod", pod)

    def probe(self, pod: str, *command: str) -> str:
        """A command in the sidecar's container, which shares the application's network."""
        return self.run("exec", pod, "--container=probe", "--", *command)

    def break_it(self, pod: str, container: str = "probe") -> None:
        """Let the accept thread of the application die."""
        python = ("/probe/bin/python3", "-IS", "-c", BREAK)
        self.run("exec", pod, f"--container={container}", "--", *python)

    def plugin(self, *words: str, image: str) -> tuple[int, str, str]:
        """The exit status of `kubectl accept-probe`, its output and its errors."""
        path = f"{PLUGIN}:{Path(self._kubectl).parent}:{os.environ['PATH']}"
        ran = subprocess.run(
            [self._kubectl, "accept-probe", *words, f"--namespace={self.namespace}"],
            env={**os.environ, "PATH": path, "ACCEPT_PROBE_IMAGE": image},
            capture_output=True,
            text=True,
            check=False,
        )
        return ran.returncode, ran.stdout, ran.stderr


def restarts(pod: Manifest, container: str) -> int:
    status: dict[str, Any] = pod["status"]
    every = [*status.get("containerStatuses", ()), *status.get("initContainerStatuses", ())]
    return next((one["restartCount"] for one in every if one["name"] == container), 0)


def wait(what: str, look: Callable[[], Seen | None], within: float) -> tuple[Seen, float]:
    """Look again and again; what was seen at last, and after how many seconds."""
    began = time.monotonic()
    while True:
        seen = look()
        took = time.monotonic() - began
        if seen:
            return seen, took
        if took > within:
            raise Unexpected(f"{what}: not within {within:g} s")
        time.sleep(0.5)
