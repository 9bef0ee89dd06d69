"""Who we are in the cluster: the downward API's environment, else what our own token says.

Nothing here is required. Without it there are no Events and no quarantine, and everything else
works as it does outside Kubernetes.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

MOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where kubelet mounts a pod's token, its namespace and the cluster's CA."""


class Identity(NamedTuple):
    """The pod we run in; an empty field is not known.

    `uid` is what `kubectl describe pod` finds the pod's Events by.
    """

    pod: str = ""
    namespace: str = ""
    uid: str = ""
    node: str = ""

    @property
    def known(self) -> bool:
        """Whether the API server can be told which pod is meant."""
        return bool(self.pod and self.namespace)

    def __str__(self) -> str:
        if not self.known:
            return "no pod"
        return f"pod {self.namespace}/{self.pod}" + (f" on node {self.node}" if self.node else "")


def identify(environment: Mapping[str, str], mount: Path = MOUNT) -> Identity:
    """Read POD_NAME, POD_NAMESPACE, POD_UID and NODE_NAME; the token fills the gaps.

    The token that kubelet projects into a pod is bound to it and names the pod and its uid; its
    node since Kubernetes 1.30. It is our own and is only read, so its signature is of no matter.
    """
    claims = _claims(mount / "token")

    def claim(kind: str, field: str) -> str:
        subject = claims.get(kind)
        value = subject.get(field) if isinstance(subject, dict) else None
        return value if isinstance(value, str) else ""

    namespace = claims.get("namespace")
    return Identity(
        pod=environment.get("POD_NAME") or claim("pod", "name"),
        namespace=environment.get("POD_NAMESPACE")
        or (namespace if isinstance(namespace, str) else ""),
        uid=environment.get("POD_UID") or claim("pod", "uid"),
        node=environment.get("NODE_NAME") or claim("node", "name"),
    )


def _claims(token: Path) -> dict[str, Any]:
    """The `kubernetes.io` claim of a service account token; empty for anything else."""
    try:
        _, payload, _ = token.read_text().strip().split(".")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (OSError, binascii.Error, ValueError, RecursionError):
        return {}
    ours = claims.get("kubernetes.io") if isinstance(claims, dict) else None
    return ours if isinstance(ours, dict) else {}
