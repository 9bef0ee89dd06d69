"""Set a stalled pod aside instead of restarting it: what one would do by hand, with a limit.

The pod's labels are changed so that its Service and its ReplicaSet let go of it: a replacement
starts, and this pod stays for study until its time is up. Then its activeDeadlineSeconds, which
the same patch sets, makes kubelet end it; nobody needs the right to delete pods.

The limit holds however many pods stall at the same moment, and whatever their clocks say. There
are as many places as it allows, and each is the name of a Lease (`leases`): who creates that has
the place, and it goes with the pod.

1. Read our own pod, by an empty patch: the right to get a pod is the right to read every pod.
2. Create the first Lease that is free.
3. Patch the pod to HELD, with the resourceVersion that it was read with.

Why no more than the limit are HELD: a pod is so only while it has its Lease. Before it gives that
back, the pod is changed once more, so that the API server refuses a patch to HELD that was long on
its way: the pod is no longer what it was when that was sent.

A pod that somebody has labelled HELD by hand has no Lease. It takes a place where the account may
list pods, which it need not.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple

from probe.display import utc
from probe.kubernetes.answers import (
    items,
    look_up,
    look_up_text,
    name_of,
    seconds_of,
    uid_of,
    version_of,
)
from probe.kubernetes.client import (
    METADATA_LIST,
    ApiError,
    Client,
    Trouble,
    Troubles,
    path,
)
from probe.kubernetes.events import Pace
from probe.kubernetes.identity import Identity
from probe.kubernetes.leases import Lease, Leases
from probe.kubernetes.patient import PatientClient
from probe.model import OnStall
from probe.response.stalls import OVER, Declined, Response, Stall

log = logging.getLogger(__name__)

MARK = "accept-probe/quarantine"
"""The label on ourselves: HELD, or there is none. Its annotations begin with the same words."""
HELD = "held"
UNTIL = f"{MARK}-until"
WHY = f"{MARK}-reason"
OWNER = f"{MARK}-owner"
LEASE = f"{MARK}-lease"
WITHDRAWN = f"{MARK}-withdrawn"
"""The resourceVersion from which a place was given back: never the same twice."""

LEASES = "accept-probe-quarantine"
"""What the name of every place begins with: LEASES-KIND-NAME-NUMBER, of the owner."""

DECIDE_WITHIN = 30.0
"""Seconds that /live is held while the API server is asked; then the pod is restarted."""
SETTLE = 0.5
"""Seconds until it is tried again, where the pod or a Lease has changed in between."""
WITHDRAW_WITHIN = 3.0
"""Seconds to give a place back: what has been decided does not wait for it longer than that."""


class Terms(NamedTuple):
    """How a pod is set aside. `labels`: what to set, or with None to remove; `lasts`: seconds."""

    labels: tuple[tuple[str, str | None], ...]
    lasts: float = 3600.0
    limit: int = 1
    """Pods of one owner that may be in quarantine at once."""


class Phase(StrEnum):
    """Where the pod is on its way into quarantine. DECLINED: it is to be restarted after all."""

    NONE = "none"
    DECIDING = "deciding"
    HELD = "held"
    DECLINED = "declined"


class Quarantine(Response):
    """One pod's way into quarantine; there is none back but a new pod."""

    kind = OnStall.QUARANTINE
    events = ("Quarantined", "NotQuarantined")
    action = "Quarantine"
    refusal = "not set aside"

    def __init__(
        self,
        client: Client,
        identity: Identity,
        terms: Terms,
        troubles: Troubles,
        *,
        pace: Pace | None = None,
        settle: float = SETTLE,
        decide_within: float = DECIDE_WITHIN,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(clock)
        self.within = decide_within
        self._client = PatientClient(client, "quarantine", troubles, pace)
        self._leases = Leases(self._client, identity)
        self._identity = identity
        self._pods = path("api", "v1", "namespaces", identity.namespace, "pods")
        self._own = self._pods + path(identity.pod)
        self._terms = terms
        self._settle = settle
        self._wall = wall
        self._uid = ""
        """The pod's, as the API server says it."""
        self._lease = ""
        """The name of the Lease that is ours, or may be."""
        self.phase = Phase.NONE

    @property
    def holds(self) -> bool:
        """Whether /live is to stay good: the pod is set aside, or that is being decided."""
        return self.phase in (Phase.DECIDING, Phase.HELD) and super().holds

    @property
    def settled(self) -> bool:
        return self.phase is Phase.HELD

    @property
    def owed(self) -> bool:
        """Whether a place may be ours although the pod is not set aside."""
        return bool(self._lease) and self.phase is not Phase.HELD

    def begin(self) -> None:
        """Hold /live from this moment on, until it is decided or our time is up."""
        self.phase = Phase.DECIDING
        super().begin()

    def forget(self) -> None:
        """The stall is over: the next one may be decided anew. What is held stays held."""
        if self.phase is not Phase.HELD:
            self.phase = Phase.NONE

    async def give(self, stall: Stall) -> str:
        """Set the pod aside."""
        return f"{self._identity} is set aside, {await self.decide(stall.why)}"

    async def decide(self, why: str) -> str:
        """Set the pod aside; return for how long, in words. Raises Declined, with the reason."""
        try:
            async with asyncio.timeout(self.within):
                said = await self._set_aside(why)
        except Declined:
            raise
        except ApiError as error:
            raise Declined(str(error)) from error
        except TimeoutError as error:
            said = f"the API server had not agreed after {self.within:g} s"
            raise Declined(said) from error
        else:
            self.phase = Phase.HELD
            return said
        finally:
            if self.phase is not Phase.HELD:
                if self.phase is Phase.DECIDING:
                    self.phase = Phase.DECLINED
                await self.withdraw()

    async def withdraw(self) -> None:
        """Give the place back, if one may be ours; if that fails, it is still `owed`."""
        if self.owed:
            await self._give_back()

    async def end(self) -> None:
        """To be called when the sidecar is told to end.

        If our time is up, it is the pod's end. The pod is still there until somebody deletes it,
        and is not to take a place until then.
        """
        if self.phase is Phase.HELD and self._clock() >= self._until:
            await self._give_back()

    async def _give_back(self) -> None:
        try:
            async with asyncio.timeout(WITHDRAW_WITHIN):
                if self.phase is Phase.HELD or await self._bar():
                    await self._delete_lease()
        except TimeoutError:
            log.warning("quarantine: the place could not be given back in %g s", WITHDRAW_WITHIN)
        except (ApiError, Declined) as error:
            log.warning("quarantine: the place could not be given back: %s", error)
        else:
            self._lease = ""

    async def _bar(self) -> bool:
        """Change the pod, so that no patch on its way sets it aside. False where one has."""
        while _mark(own := await self._read_own()) != HELD:
            if await self._patch_unchanged(own, annotations={WITHDRAWN: version_of(own)}):
                return True
        return False

    async def _delete_lease(self) -> None:
        lease = await self._leases.get(self._lease)
        if lease is not None and lease.pod == self._uid:
            await self._leases.delete(lease)

    async def _set_aside(self, why: str) -> str:
        if not self._identity.known:
            raise Declined("which pod this is, is not known: set POD_NAME and POD_NAMESPACE")
        await self.withdraw()
        if self.owed:  # a request to delete it may be on its way: it is no place to rely on
            raise Declined("the place of an earlier stall could not be given back yet")
        own = await self._read_own()
        if _mark(own) == HELD:
            return self._rest(own, "already")
        owner = _owner(own)
        if owner.kind == "StatefulSet":
            raise Declined("a StatefulSet starts no replacement while a pod has its name")
        await self._take_place(owner)
        while True:
            if self.phase is not Phase.DECIDING:
                raise Declined(OVER)
            ends, until = self._clock() + self._terms.lasts, self._wall() + self._terms.lasts
            if await self._patch_unchanged(
                own,
                labels={**dict(self._terms.labels), MARK: HELD},
                annotations={WHY: why, UNTIL: utc(until), OWNER: f"{owner}", LEASE: self._lease},
                spec={"activeDeadlineSeconds": self._deadline(own)},
            ):
                self._until = ends
                return f"kept until {utc(until)}"
            own = await self._read_own()
            if _mark(own) == HELD:  # the answer that said so was lost
                return self._rest(own, "kept")
            await asyncio.sleep(self._settle)

    async def _take_place(self, owner: "Controller") -> None:
        """Take the first free place; raises Declined where there is none.

        Pods that are HELD without a place below ours count too, and the places above are theirs.
        So whoever has the highest place has counted all others.
        """
        others = await self._held_pods(owner)
        place = 0
        while place + len(others) < self._terms.limit:
            self._lease = f"{LEASES}-{owner.kind}-{owner.name}-{place}".lower()
            lease = await self._create_lease()
            if lease.pod == self._uid:
                return
            others.discard(lease.pod_name)
            place += 1
        self._lease = ""
        raise Declined(
            f"{place + len(others)} of at most {self._terms.limit} of {owner} "
            "are in quarantine already"
        )

    async def _create_lease(self) -> Lease:
        """Create our Lease; return who has it, which is us where an earlier answer was lost."""
        while True:
            lease = await self._leases.create(self._lease, self._uid)
            if lease is None:
                lease = await self._leases.get(self._lease)
            if lease is not None:
                return lease
            await asyncio.sleep(self._settle)

    def _rest(self, own: dict[str, Any], said: str) -> str:
        """Stay held as long as the annotation says, and never longer than the terms do."""
        until = _annotation(own, UNTIL)
        remaining = min(seconds_of(until) - self._wall(), self._terms.lasts)
        self._until = self._clock() + max(remaining, 0.0)
        self._lease = _annotation(own, LEASE)
        return f"{said} until {until}"

    async def _read_own(self) -> dict[str, Any]:
        own = await self._client.ask("PATCH", self._own, {})
        if (
            own is None
            or name_of(own) != self._identity.pod
            or not (uid_of(own) and version_of(own))
        ):
            raise Declined("the API server's answer is not this pod")
        self._uid = uid_of(own)
        return own

    async def _held_pods(self, owner: "Controller") -> set[str]:
        """The pods of this owner that are HELD and have not ended; none where we may not list.

        A pod that is HELD has lost its owner, and has it written down.
        """
        answer = await self._client.ask(
            "GET",
            self._pods,
            query={
                "labelSelector": f"{MARK}={HELD}",
                "fieldSelector": "status.phase!=Succeeded,status.phase!=Failed",
            },
            accept=METADATA_LIST,
            expected={Trouble.FORBIDDEN},
        )
        if answer is None:
            return set()
        pods = items(answer)
        if pods is None or not all(map(name_of, pods)):
            # Nobody else in quarantine is not what it says.
            raise Declined("the API server's answer is no list of pods")
        return {
            name_of(pod)
            for pod in pods
            if name_of(pod) != self._identity.pod
            and f"{owner}" in (_annotation(pod, OWNER), f"{_owner(pod)}")
        }

    async def _patch_unchanged(
        self,
        own: dict[str, Any],
        *,
        labels: dict[str, str | None] | None = None,
        annotations: dict[str, str],
        spec: dict[str, int] | None = None,
    ) -> bool:
        """Patch our pod as it was read; return False where it has changed since."""
        change: dict[str, Any] = {
            "metadata": {"annotations": annotations, "resourceVersion": version_of(own)}
        }
        if labels:
            change["metadata"]["labels"] = labels
        if spec:
            change["spec"] = spec
        answer = await self._client.ask("PATCH", self._own, change, expected={Trouble.CONFLICT})
        return answer is not None

    def _deadline(self, pod: dict[str, Any]) -> int:
        """Seconds from the pod's start to its end. The API lets a deadline only come nearer."""
        started = seconds_of(look_up_text(pod, "status", "startTime"))
        if not started:
            raise Declined("when this pod was started, the API server does not say")
        deadline = math.ceil(max(self._wall() - started, 0.0) + self._terms.lasts)
        present = look_up(pod, "spec", "activeDeadlineSeconds")
        return min(deadline, present) if type(present) is int and present > 0 else deadline


class Controller(NamedTuple):
    """The controller that started the pod; else the pod itself."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


def _owner(pod: object) -> Controller:
    references = look_up(pod, "metadata", "ownerReferences")
    for reference in references if isinstance(references, list) else ():
        if look_up(reference, "controller") is True:
            return Controller(look_up_text(reference, "kind"), look_up_text(reference, "name"))
    return Controller("Pod", name_of(pod))


def _mark(pod: object) -> str:
    return look_up_text(pod, "metadata", "labels", MARK)


def _annotation(pod: object, key: str) -> str:
    return look_up_text(pod, "metadata", "annotations", key)
