"""Set a stalled pod aside instead of restarting it: what one would do by hand, with a limit.

The pod's labels are changed so that its Service and its ReplicaSet let go of it: a replacement
starts, and this pod stays for study until its time is up. Then its activeDeadlineSeconds, which
the same patch sets, makes kubelet end it; nobody needs the right to delete pods.

The limit holds when many pods stall at the same moment: each first claims a place (a label on
itself), waits until every claim made at the same time can be seen, and goes on only when its
claim is among the first. Two claims either see each other, and then both see the same order; or
the later one sees that the earlier is held by now. A pod that finds no place is restarted.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from probe.kubernetes.client import ApiError, Client, Troubles, path
from probe.kubernetes.events import Pace
from probe.kubernetes.identity import Identity

log = logging.getLogger(__name__)

MARK = "accept-probe/quarantine"
"""The label on ourselves: CLAIMED, then HELD. Its annotations begin with the same words."""
CLAIMED = "claimed"
HELD = "held"
SINCE = f"{MARK}-since"
UNTIL = f"{MARK}-until"
WHY = f"{MARK}-reason"
OWNER = f"{MARK}-owner"

DECIDE_WITHIN = 30.0
"""Seconds that /live is held while the API server is asked; then the pod is restarted."""
SETTLE = 2.0
"""Seconds between a claim and the look at all the others."""
WITHDRAW_WITHIN = 3.0
"""Seconds to give a claim back: nobody waits for it longer than that."""
CLAIM_LASTS = 2 * DECIDE_WITHIN
"""Seconds after which a claim that came to nothing no longer takes a place."""


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


class Declined(Exception):
    """Why this pod is not set aside."""


class Quarantine:
    """One pod's way into quarantine; there is none back but a new pod."""

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
        self._client = client
        self._identity = identity
        self._pods = path("api", "v1", "namespaces", identity.namespace, "pods")
        self._own = self._pods + path(identity.pod)
        self._terms = terms
        self._troubles = troubles
        self._pace = pace or Pace()
        self._settle = settle
        self._decide_within = decide_within
        self._clock = clock
        self._wall = wall
        self._until = 0.0
        """On the clock: until when /live may be held."""
        self.phase = Phase.NONE

    @property
    def holds(self) -> bool:
        """Whether /live is to stay good: the pod is set aside, or that is being decided."""
        return self.phase in (Phase.DECIDING, Phase.HELD) and self._clock() < self._until

    def begin(self) -> None:
        """Hold /live from this moment on, until `decide` comes to an end or runs out of time."""
        self.phase = Phase.DECIDING
        self._until = self._clock() + self._decide_within

    def forget(self) -> None:
        """The stall is over: the next one may be decided anew. What is held stays held."""
        if self.phase is not Phase.HELD:
            self.phase = Phase.NONE

    async def decide(self, why: str) -> str:
        """Set the pod aside; return what was done, in words. Raises Declined, with the reason."""
        try:
            async with asyncio.timeout(self._decide_within):
                said = await self._set_aside(why)
        except Declined:
            self._decline()
            raise
        except ApiError as error:
            self._decline()
            raise Declined(str(error)) from error
        except TimeoutError as error:
            self._decline()
            detail = f"the API server had not agreed after {self._decide_within:g} s"
            raise Declined(detail) from error
        self.phase = Phase.HELD
        return said

    def _decline(self) -> None:
        if self.phase is Phase.DECIDING:
            self.phase = Phase.DECLINED

    def _wanted(self) -> None:
        if self.phase is not Phase.DECIDING:
            raise Declined("the stall ended meanwhile")

    async def _set_aside(self, why: str) -> str:
        if not self._identity.known:
            raise Declined("which pod this is, is not known: set POD_NAME and POD_NAMESPACE")
        for pod in await self._marked():
            if _name(pod) == self._identity.pod and _mark(pod) == HELD:
                return self._rest(_time(_annotation(pod, UNTIL)) - self._wall(), "already")
        since = self._wall()
        pod = await self._patch(_metadata({MARK: CLAIMED}, {SINCE: _stamp(since)}))
        try:
            owner, kind = _owner(pod)
            if kind == "StatefulSet":
                raise Declined("a StatefulSet starts no replacement while a pod has its name")
            await asyncio.sleep(self._settle)
            places = self._terms.limit
            ahead = sum(self._ahead(other, owner, since) for other in await self._marked())
            if ahead >= places:
                raise Declined(f"{ahead} of at most {places} of {owner} are in quarantine already")
            self._wanted()
        except BaseException:
            await self._withdraw()
            raise
        until = since + self._terms.lasts
        release = _metadata(
            {**dict(self._terms.labels), MARK: HELD},
            {WHY: why, UNTIL: _date(until), OWNER: owner},
        )
        try:
            await self._patch(release | {"spec": {"activeDeadlineSeconds": _deadline(pod, until)}})
        except ApiError:
            # Refused for good. After a mere time-out it may have been done, so the claim stays.
            await self._withdraw()
            raise
        return self._rest(until - self._wall(), f"kept until {_date(until)}")

    def _rest(self, remaining: float, said: str) -> str:
        self._until = self._clock() + max(remaining, 0.0)
        return said

    def _ahead(self, other: dict[str, Any], owner: str, since: float) -> bool:
        """Whether another pod of our owner has its place before us."""
        if _name(other) == self._identity.pod or owner not in (
            _annotation(other, OWNER),
            _owner(other)[0],
        ):
            return False
        if _mark(other) == HELD:
            return True
        claimed = _time(_annotation(other, SINCE))
        fresh = abs(self._wall() - claimed) < CLAIM_LASTS
        return fresh and (claimed, _name(other)) < (_rounded(since), self._identity.pod)

    async def _marked(self) -> list[dict[str, Any]]:
        """The pods of the namespace that bear the mark and have not ended."""
        answer = await self._ask(
            "GET",
            self._pods,
            query={
                "labelSelector": MARK,
                "fieldSelector": "status.phase!=Succeeded,status.phase!=Failed",
            },
        )
        items = answer.get("items")
        return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []

    async def _patch(self, change: dict[str, Any]) -> dict[str, Any]:
        return await self._ask("PATCH", self._own, change)

    async def _withdraw(self) -> None:
        """Give the claim back; one that could not be given back runs out by itself."""
        change = _metadata({MARK: None}, {SINCE: None})
        try:
            async with asyncio.timeout(WITHDRAW_WITHIN):
                await self._client.request("PATCH", self._own, change)
        except TimeoutError:
            log.warning("quarantine: the claim could not be given back in %g s", WITHDRAW_WITHIN)
        except ApiError as error:
            self._troubles.refused("quarantine", error)

    async def _ask(
        self,
        method: str,
        where: str,
        body: dict[str, Any] | None = None,
        *,
        query: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """Ask until it is answered, refused for good, or our time is up."""
        attempt = 0
        while True:
            try:
                answer = await self._client.request(method, where, body, query=query)
            except ApiError as error:
                self._troubles.refused("quarantine", error)
                if not error.passing:
                    raise
                await asyncio.sleep(self._pace.delay(attempt, error))
                attempt += 1
            else:
                self._troubles.succeeded("quarantine")
                return answer


def _metadata(labels: dict[str, str | None], annotations: dict[str, str | None]) -> dict[str, Any]:
    return {"metadata": {"labels": labels, "annotations": annotations}}


def _deadline(pod: dict[str, Any], until: float) -> int:
    """Seconds from the pod's start to `until`. The API lets a deadline only come nearer."""
    started = _time(str(pod.get("status", {}).get("startTime", "")))
    deadline = max(int(until - started), 1)
    present = pod.get("spec", {}).get("activeDeadlineSeconds")
    return min(deadline, present) if isinstance(present, int) else deadline


def _owner(pod: dict[str, Any]) -> tuple[str, str]:
    """The controller that started the pod, as `Kind/name`, and its kind; else the pod itself."""
    for reference in pod.get("metadata", {}).get("ownerReferences") or ():
        if reference.get("controller"):
            return f"{reference.get('kind')}/{reference.get('name')}", str(reference.get("kind"))
    return f"Pod/{_name(pod)}", "Pod"


def _name(pod: dict[str, Any]) -> str:
    return str(pod.get("metadata", {}).get("name", ""))


def _mark(pod: dict[str, Any]) -> str:
    return str((pod.get("metadata", {}).get("labels") or {}).get(MARK, ""))


def _annotation(pod: dict[str, Any], key: str) -> str:
    return str((pod.get("metadata", {}).get("annotations") or {}).get(key, ""))


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _stamp(at: float) -> str:
    """Fine enough to put claims of the same second in order."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _rounded(at: float) -> float:
    """The time as the others read it."""
    return _time(_stamp(at))


def _time(stamp: str) -> float:
    try:
        return datetime.fromisoformat(stamp).timestamp()
    except ValueError:
        return 0.0
