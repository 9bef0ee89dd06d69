"""What a good manifest has: the one place that says it. examples/k8s is held to it by a test.

Every piece is data, in the order in which it is written. What depends on the pod is an argument.
"""

from typing import Any

from probe import exits

PORT = 9809
EVIDENCE = "/evidence"

ON_STALL = "terminate"
"""What follows a stall, where the sidecar can do it by itself: a sidecar that is away, whatever the
reason, then restarts nobody. Elsewhere the application's liveness asks it."""

RESTARTED_BY_LIVENESS = ("restart", "quarantine")
"""What --on-stall may say where the application's liveness is to ask the sidecar."""

NEEDS_TOKEN = ("quarantine", "evict")
"""What --on-stall may say that is asked of the API server."""

PRESTOP = 4
"""Seconds that a pod goes on accepting: every node has heard of its end after 1 to 2."""

GRACE = 10
"""Seconds from SIGTERM to SIGKILL for a container that has stalled: it serves nobody whom more of
them would help."""

TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - where it is, not what

ENVIRONMENT = {
    "POD_NAME": "metadata.name",
    "POD_NAMESPACE": "metadata.namespace",
    "POD_UID": "metadata.uid",
    "NODE_NAME": "spec.nodeName",
}
"""Which pod this is, for the log and for Events; everything works without them."""


RESTART_ALL = {
    "action": "RestartAllContainers",
    "exitCodes": {"operator": "In", "values": [exits.STALLED]},
}


def sidecar(
    name: str,
    image: str,
    args: list[str],
    *,
    port: int = PORT,
    port_name: str,
    native: bool = True,
    security: dict[str, Any],
    mounts: list[dict[str, Any]],
    restarts_all: bool = False,
) -> dict[str, Any]:
    """The container. `restarts_all`: its end with the status of --on-stall=exit is that of all."""
    return {
        "name": name,
        "image": image,
        # Among the init containers: a native sidecar, which starts before the application and
        # ends after it.
        **({"restartPolicy": "Always"} if native else {}),
        **({"restartPolicyRules": [RESTART_ALL]} if restarts_all else {}),
        "args": args,
        "env": [
            {"name": variable, "valueFrom": {"fieldRef": {"fieldPath": path}}}
            for variable, path in ENVIRONMENT.items()
        ],
        "ports": [{"name": port_name, "containerPort": port}],
        **({"startupProbe": startup(port)} if native else {}),
        "readinessProbe": readiness(port),
        # What it says as it ends, of a wrong flag for one, then stands in `kubectl describe pod`.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        # No limit of CPU: throttled, it would judge late.
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "192Mi"}},
        "securityContext": {
            "capabilities": {"drop": ["ALL"]},
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            **security,
        },
        "volumeMounts": mounts,
    }


def startup(port: int) -> dict[str, Any]:
    """The application starts once the sidecar answers. Never /ready, which waits for the former."""
    return {
        "httpGet": {"path": "/live", "port": port},
        "periodSeconds": 1,
        "failureThreshold": 60,
    }


def readiness(port: int) -> dict[str, Any]:
    """The pod's. By gRPC, of which kubelet shows the reason, and for which it starts no process."""
    return {
        "grpc": {"port": port, "service": "ready"},
        "periodSeconds": 5,
        "timeoutSeconds": 3,
        "failureThreshold": 1,
    }


def live(mine: set[int], watched: set[int]) -> str:
    """What a container's liveness asks: about its own ports, where others have some as well."""
    if mine == watched:
        return "/live"
    if len(mine) == 1:
        return f"/live/{min(mine)}"
    return "/live?" + "&".join(f"exclude={number}" for number in sorted(watched - mine))


def liveness(port: int, path: str, *, short: bool) -> dict[str, Any]:
    """The application's. It outlives a restart of the sidecar, in which nobody answers.

    `short`: whether it ends sooner than the pod would.
    """
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": 5,
        "failureThreshold": 6,
        **({"terminationGracePeriodSeconds": GRACE} if short else {}),
    }


def prestop(*, native: bool) -> dict[str, Any]:
    """For the application. The kubelets of a cluster without native sidecars know no `sleep`."""
    if native:
        return {"sleep": {"seconds": PRESTOP}}
    return {"exec": {"command": ["sleep", str(PRESTOP)]}}


def evidence(name: str) -> dict[str, Any]:
    """The volume: it outlives the restarts of containers."""
    return {"name": name, "emptyDir": {"sizeLimit": "128Mi"}}


def api_access(name: str) -> dict[str, Any]:
    """The volume with a token for the sidecar alone, as kubelet would mount it everywhere."""
    return {
        "name": name,
        "projected": {
            "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
                {
                    "configMap": {
                        "name": "kube-root-ca.crt",
                        "items": [{"key": "ca.crt", "path": "ca.crt"}],
                    }
                },
            ]
        },
    }
