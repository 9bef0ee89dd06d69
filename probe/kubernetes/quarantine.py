"""Set a stalled pod aside instead of restarting it: what one would do by hand, with a limit.

The pod's labels are changed so that its Service and its ReplicaSet let go of it: a replacement
starts, and this pod stays for study until its time is up. Then its activeDeadlineSeconds, which
the same patch sets, makes kubelet end it; nobody needs the right to delete pods.

The limit holds however many pods stall at the same moment, and whatever their clocks say: a place
is taken as in Lamport's bakery ("A new solution of Dijkstra's concurrent programming problem",
1974), with the metadata of each pod as its register.

1. Claim: the mark is CLAIMED, and there is no ticket yet. Whoever sees that waits.
2. Take a ticket: one more than the highest that another pod of our owner has.
3. List the marked pods, until each claim has its ticket. Whoever is HELD, or claims with a lower
   ticket (of equal ones: a lower name), is ahead of us. If they are fewer than the limit: HELD.

Why no more than the limit get through: take the one among them with the highest ticket. When it
lists, each of the others is HELD, or claims with a lower ticket, and is counted; one that has not
claimed by then finds our ticket, and takes a higher one.

A list without a resourceVersion is of the newest state (Kubernetes, "API concepts"). The last patch
carries the resourceVersion of the list that it was decided by: the API server refuses it once the
pod has changed, so a patch that was long on its way undoes nothing. A pod that finds no place is
restarted. It gives its claim back; one that cannot be given back takes a place until it is.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from probe.kubernetes.client import (
    JSON,
    METADATA_LIST,
    ApiError,
    Client,
    Trouble,
    Troubles,
    path,
    quoted,
)
from probe.kubernetes.events import Pace
from probe.kubernetes.identity import Identity

log = logging.getLogger(__name__)

MARK = "accept-probe/quarantine"
"""The label on ourselves: CLAIMED, then HELD. Its annotations begin with the same words."""
CLAIMED = "claimed"
HELD = "held"
TICKET = f"{MARK}-ticket"
UNTIL = f"{MARK}-until"
WHY = f"{MARK}-reason"
OWNER = f"{MARK}-owner"

NO_ANSWER = "the API server had not agreed"

DECIDE_WITHIN = 30.0
"""Seconds that /live is held while the API server is asked; then the pod is restarted."""
SETTLE = 0.5
"""Seconds until the pods are listed again, while one of them has claimed and has no ticket yet."""
WITHDRAW_WITHIN = 3.0
"""Seconds to give a claim back: what has been decided does not wait for it longer than that."""
WITHDRAW_AGAIN = 60.0
"""Seconds until that is tried again, where it could not be done."""


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
        self._awaited = NO_ANSWER
        """What has not happened yet, in words."""
        self.phase = Phase.NONE
        self.owed = False
        """Whether a claim of ours may stand that came to nothing."""

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
            raise
        except ApiError as error:
            raise Declined(str(error)) from error
        except TimeoutError as error:
            raise Declined(f"{self._awaited} after {self._decide_within:g} s") from error
        except Exception as error:
            log.exception("quarantine: a fault of our own")
            raise Declined(f"a fault of our own: {type(error).__name__}") from error
        else:
            self.phase, self.owed = Phase.HELD, False
            return said
        finally:
            if self.phase is not Phase.HELD:
                if self.phase is Phase.DECIDING:
                    self.phase = Phase.DECLINED
                await self.withdraw()

    async def withdraw(self) -> None:
        """Give the claim back, if there is one; if that fails, it is still `owed`."""
        if not self.owed:
            return
        try:
            async with asyncio.timeout(WITHDRAW_WITHIN):
                # Only what is a claim by now: the patch whose answer was lost may have been done.
                while (own := self._find_own(await self._marked())) and _mark(own) == CLAIMED:
                    if await self._patch_unchanged(own, {MARK: None}, {TICKET: None}):
                        break
        except TimeoutError:
            log.warning("quarantine: the claim could not be given back in %g s", WITHDRAW_WITHIN)
        except (ApiError, Declined) as error:
            log.warning("quarantine: the claim could not be given back: %s", error)
        else:
            self.owed = False

    async def _set_aside(self, why: str) -> str:
        if not self._identity.known:
            raise Declined("which pod this is, is not known: set POD_NAME and POD_NAMESPACE")
        own = self._find_own(await self._marked())
        if own is not None and _mark(own) == HELD:
            return self._rest(own, "already")
        self.owed = True
        pod = await self._patch({MARK: CLAIMED}, {TICKET: None})
        if _name(pod) != self._identity.pod:
            raise Declined("the API server's answer is not this pod")
        owner, kind = _owner(pod)
        if kind == "StatefulSet":
            raise Declined("a StatefulSet starts no replacement while a pod has its name")
        others = self._others(await self._marked(), owner)
        ticket = 1 + max((_ticket(other) or 0 for other in others), default=0)
        pod = await self._patch({}, {TICKET: f"{ticket}"})
        return await self._take_place(why, pod, owner, ticket)

    async def _take_place(self, why: str, pod: dict[str, Any], owner: str, ticket: int) -> str:
        while True:
            marked = await self._marked()
            own = self._find_own(marked)
            if own is not None and _mark(own) == HELD:  # the answer that said so was lost
                return self._rest(own, "kept")
            if own is None or (_mark(own), _ticket(own)) != (CLAIMED, ticket):
                raise Declined(f"somebody else has changed this pod's {MARK}")
            others = self._others(marked, owner)
            without_ticket = [
                _name(other) for other in others if _mark(other) != HELD and _ticket(other) is None
            ]
            if without_ticket:
                self._awaited = f"{without_ticket[0]} claimed a place and took no ticket"
                await asyncio.sleep(self._settle)
                continue
            self._awaited = NO_ANSWER
            self._require_place(others, owner, ticket)
            if self.phase is not Phase.DECIDING:
                raise Declined("the stall ended meanwhile")
            until = _date(self._wall() + self._terms.lasts)
            if await self._patch_unchanged(
                own,
                {**dict(self._terms.labels), MARK: HELD},
                {WHY: why, UNTIL: until, OWNER: owner},
                {"activeDeadlineSeconds": self._deadline(pod)},
            ):
                self._until = self._clock() + self._terms.lasts
                return f"kept until {until}"

    def _require_place(self, others: list[dict[str, Any]], owner: str, ticket: int) -> None:
        turn = ticket, self._identity.pod
        ahead = [
            other
            for other in others
            if _mark(other) == HELD or (_ticket(other) or 0, _name(other)) < turn
        ]
        if len(ahead) >= self._terms.limit:
            raise Declined(
                f"{len(ahead)} of at most {self._terms.limit} of {owner} are in quarantine already"
            )

    def _rest(self, own: dict[str, Any], said: str) -> str:
        """Stay held as long as the annotation says, and never longer than the terms do."""
        until = _annotation(own, UNTIL)
        remaining = min(_time(until) - self._wall(), self._terms.lasts)
        self._until = self._clock() + max(remaining, 0.0)
        return f"{said} until {until}"

    def _find_own(self, marked: list[dict[str, Any]]) -> dict[str, Any] | None:
        return next((pod for pod in marked if _name(pod) == self._identity.pod), None)

    def _others(self, marked: list[dict[str, Any]], owner: str) -> list[dict[str, Any]]:
        """The other pods of our owner. A pod that is HELD has lost it, and has it written down."""
        return [
            pod
            for pod in marked
            if _name(pod) != self._identity.pod
            and owner in (_annotation(pod, OWNER), _owner(pod)[0])
        ]

    async def _marked(self) -> list[dict[str, Any]]:
        """The pods of the namespace that bear the mark and have not ended."""
        answer = await self._ask(
            "GET",
            self._pods,
            query={
                "labelSelector": MARK,
                "fieldSelector": "status.phase!=Succeeded,status.phase!=Failed",
            },
            accept=METADATA_LIST,
        )
        # An empty list of metadata is null: Go's nil slice, as Kubernetes 1.36 sends it.
        items = (answer["items"] or []) if "items" in answer else None
        if not isinstance(items, list) or not all(map(_name, items)):
            # Nobody else in quarantine is not what it says.
            raise Declined("the API server's answer is no list of pods")
        return items

    async def _patch(
        self, labels: dict[str, str | None], annotations: dict[str, str | None]
    ) -> dict[str, Any]:
        change = {"metadata": {"labels": labels, "annotations": annotations}}
        return await self._ask("PATCH", self._own, change)

    async def _patch_unchanged(
        self,
        own: dict[str, Any],
        labels: dict[str, str | None],
        annotations: dict[str, str | None],
        spec: dict[str, Any] | None = None,
    ) -> bool:
        """Patch our pod as it was listed; return False where it has changed since."""
        version = _text(_get(own, "metadata", "resourceVersion"))
        metadata = {"labels": labels, "annotations": annotations, "resourceVersion": version}
        change = {"metadata": metadata, **({"spec": spec} if spec else {})}
        try:
            await self._ask("PATCH", self._own, change, conflict_passes=False)
        except ApiError as error:
            if error.trouble is not Trouble.CONFLICT:
                raise
            return False
        return True

    async def _ask(
        self,
        method: str,
        where: str,
        body: dict[str, Any] | None = None,
        *,
        query: dict[str, str] | None = None,
        accept: str = JSON,
        conflict_passes: bool = True,
    ) -> dict[str, Any]:
        """Ask until it is answered, refused for good, or our time is up."""
        attempt = 0
        while True:
            try:
                answer = await self._client.request(method, where, body, query=query, accept=accept)
            except ApiError as error:
                if error.trouble is Trouble.CONFLICT and not conflict_passes:
                    raise
                self._troubles.refused("quarantine", error)
                if not error.passing:
                    raise
                await asyncio.sleep(self._pace.delay(attempt, error))
                attempt += 1
            else:
                self._troubles.succeeded("quarantine")
                return answer

    def _deadline(self, pod: dict[str, Any]) -> int:
        """Seconds from the pod's start to its end. The API lets a deadline only come nearer."""
        started = _time(_text(_get(pod, "status", "startTime")))
        if not started:
            raise Declined("when this pod was started, the API server does not say")
        deadline = int(max(self._wall() - started, 0.0) + self._terms.lasts)
        present = _get(pod, "spec", "activeDeadlineSeconds")
        return min(deadline, present) if type(present) is int and present > 0 else deadline


def _get(answer: object, *keys: str) -> object:
    """What stands there in an answer of the API server; None where it has another shape."""
    for key in keys:
        answer = answer.get(key) if isinstance(answer, dict) else None
    return answer


def _text(value: object) -> str:
    return quoted(value) if isinstance(value, str) else ""


def _owner(pod: object) -> tuple[str, str]:
    """The controller that started the pod, as `Kind/name`, and its kind; else the pod itself."""
    references = _get(pod, "metadata", "ownerReferences")
    for reference in references if isinstance(references, list) else ():
        if _get(reference, "controller") is True:
            kind = _text(_get(reference, "kind"))
            return f"{kind}/{_text(_get(reference, 'name'))}", kind
    return f"Pod/{_name(pod)}", "Pod"


def _name(pod: object) -> str:
    return _text(_get(pod, "metadata", "name"))


def _mark(pod: object) -> str:
    return _text(_get(pod, "metadata", "labels", MARK))


def _annotation(pod: object, key: str) -> str:
    return _text(_get(pod, "metadata", "annotations", key))


def _ticket(pod: object) -> int | None:
    """The pod's place in the row; None while it has not taken its ticket."""
    text = _annotation(pod, TICKET)
    ticket = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
    return ticket or None


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _time(stamp: str) -> float:
    """Seconds since the epoch; 0 for what is no date with its zone."""
    try:
        at = datetime.fromisoformat(stamp)
        return at.timestamp() if at.tzinfo else 0.0
    except (ValueError, OverflowError):
        return 0.0
