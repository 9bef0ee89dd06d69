"""`--on-stall evict`: ask for the eviction of our own pod, as `kubectl drain` does.

The Eviction API deletes the pod unless a PodDisruptionBudget forbids it for now. Then it answers
429 (kubernetes, pkg/registry/core/pod/storage/eviction.go) and is asked again for as long as the
stall lasts: a budget's no is an order of the operator's. Silence is none: where the API server does
not answer for a while, or will never agree, the stall is answered otherwise.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from probe.kubernetes.client import ApiError, Client, Trouble, Troubles, path
from probe.kubernetes.events import Pace
from probe.kubernetes.identity import Identity
from probe.model import OnStall
from probe.response.stalls import OVER, Declined, Response, Stall, Tell

log = logging.getLogger(__name__)


class Eviction(Response):
    """Asks until it is granted, refused for good, or the stall is over."""

    kind = OnStall.EVICT
    events = ("EvictionGranted", "NotEvicted")
    action = "Evict"
    refusal = "not evicted"

    def __init__(
        self,
        client: Client,
        identity: Identity,
        troubles: Troubles,
        *,
        tell: Tell,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(clock)
        self._client = client
        self._identity = identity
        self._troubles = troubles
        self._tell = tell
        self._pace = pace or Pace()
        self._granted = False
        self._over = asyncio.Event()

    @property
    def holds(self) -> bool:
        """Whether /live is to stay good: the pod goes, or may once its budget allows."""
        return self._granted or super().holds

    @property
    def settled(self) -> bool:
        return self._granted

    def begin(self) -> None:
        super().begin()
        self._over.clear()

    def forget(self) -> None:
        super().forget()
        self._over.set()

    async def give(self, stall: Stall) -> str:
        """Have the pod deleted, as soon as its budget allows."""
        if not self._identity.known:
            raise Declined("which pod this is, is not known: set POD_NAME and POD_NAMESPACE")
        attempt = 0
        waits = False
        while not self._over.is_set():
            try:
                await self._request()
            except ApiError as error:
                self._troubles.refused("eviction", error)
                if not error.passing:
                    raise Declined(str(error)) from error
                delay = self._pace.delay(attempt, error)
                attempt += 1
                if error.trouble is Trouble.DISRUPTION_BUDGET:
                    self._until = self._clock() + delay + self.within
                    if not waits:
                        waits = True
                        self._say_waits(stall, error)
                elif self._clock() + delay > self._until:
                    raise Declined(f"{error}, for {self.within:g} s") from error
                await self._pause(delay)
            else:
                self._troubles.succeeded("eviction")
                self._granted = True
                return f"the eviction of {self._identity} is granted"
        raise Declined(OVER)

    async def _request(self) -> None:
        """Ask once; of a pod of our name that is not ours nothing is asked. Raises ApiError."""
        where = path("api", "v1", "namespaces", self._identity.namespace, "pods")
        metadata = {"name": self._identity.pod, "namespace": self._identity.namespace}
        eviction: dict[str, Any] = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": metadata,
        }
        if self._identity.uid:
            eviction["deleteOptions"] = {"preconditions": {"uid": self._identity.uid}}
        await self._client.request("POST", where + path(self._identity.pod, "eviction"), eviction)

    def _say_waits(self, stall: Stall, error: ApiError) -> None:
        log.warning("evict: %s waits: %s", self._identity, error)
        self._tell("EvictionWaits", self.action, f"{stall.why}; not evicted yet: {error}")

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()
