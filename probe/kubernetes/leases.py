"""Leases as claims: each is owned by the pod that made it, and one that is made once is had.

The API server creates a name once, and in one order for all: nothing else settles who is first
among pods that want something at the same moment. A Lease goes with the pod that owns it
(Kubernetes, "Owners and dependents"): the garbage collector deletes it, so nobody reads another pod
to learn whether it is still there, nobody changes another's Lease, and no clock is compared with
another machine's.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from probe.kubernetes.answers import items, look_up, look_up_text, name_of, uid_of, version_of
from probe.kubernetes.client import ApiError, Trouble, path
from probe.kubernetes.identity import Identity
from probe.kubernetes.patient import PatientClient


class Lease(NamedTuple):
    """One that is there. The pod that owns it is empty where somebody has made it for no pod."""

    name: str
    uid: str
    pod: str
    """The uid of its owner."""
    pod_name: str
    order: int
    """The resourceVersion that it was made with: of two Leases that nobody has changed since, the
    one that was made first has the lesser. 0 where that is no number.

    An API server counts up with each write; that clients may compare these numbers is promised
    since Kubernetes 1.35 (KEP-5504), and has been so before.
    """


class Leases:
    """The Leases of one namespace, as far as one pod has to do with them."""

    def __init__(self, client: PatientClient, identity: Identity) -> None:
        self._client = client
        self._identity = identity
        self._leases = path(
            *("apis", "coordination.k8s.io", "v1", "namespaces", identity.namespace, "leases")
        )

    async def create(
        self, name: str, uid: str, labels: Mapping[str, str] | None = None
    ) -> Lease | None:
        """Create ours; None where the name is taken, which it may be by us: an answer was lost.

        `uid` is our pod's, as the API server says it: a Lease of another goes at once.
        """
        owner = {"apiVersion": "v1", "kind": "Pod", "name": self._identity.pod, "uid": uid}
        metadata: dict[str, Any] = {"name": name, "ownerReferences": [owner]}
        if labels:
            metadata["labels"] = dict(labels)
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {"holderIdentity": self._identity.pod},
        }
        answer = await self._client.ask("POST", self._leases, lease, expected={Trouble.CONFLICT})
        return None if answer is None else lease_of(answer)

    async def get(self, name: str) -> Lease | None:
        """The Lease of that name, whosever it is; None where there is none."""
        where = self._leases + path(name)
        answer = await self._client.ask("GET", where, expected={Trouble.NOT_FOUND})
        return None if answer is None else lease_of(answer)

    async def list(self, label: str) -> tuple[Lease, ...]:
        """Those with that label. Raises ApiError for what is no list."""
        answer = await self._client.ask("GET", self._leases, query={"labelSelector": label})
        found = items(answer)
        if found is None:
            raise ApiError(Trouble.SERVER_ERROR, "the API server's answer is no list of Leases")
        return tuple(map(lease_of, found))

    async def delete(self, lease: Lease) -> None:
        """Delete this very one; another of its name stays.

        The request may be carried out long after it was given up: nobody may rely on this Lease
        from now on.
        """
        only_this = {"preconditions": {"uid": lease.uid}}
        await self._client.ask(
            "DELETE",
            self._leases + path(lease.name),
            only_this,
            expected={Trouble.NOT_FOUND, Trouble.CONFLICT},
        )


def lease_of(answer: object) -> Lease:
    references = look_up(answer, "metadata", "ownerReferences")
    owner = references[0] if isinstance(references, list) and references else None
    version = version_of(answer)
    return Lease(
        name_of(answer),
        uid_of(answer),
        look_up_text(owner, "uid"),
        look_up_text(owner, "name"),
        int(version) if version.isascii() and version.isdecimal() else 0,
    )
