"""Leaving the Services as the floor allows: claimed before it is done, and taken back in time.

`floor` says whether a pod may leave; here is what it is asked with, and what follows. The board
asks `keeps` with each request and is answered from memory. Everything else is done by `run`, which
asks the API server for nothing while the pod is well.

A claim is a Lease, named after the uid of its pod. The only one that may be relied on is one that
this process made, was told of, and has not asked to delete. Any other of our name is of an earlier
life, or its answer was lost: a request to delete it may be on its way, so it is deleted before a
new one is made. Thus nobody is away without a Lease that stays. It is given back once the
EndpointSlices show what we are: until then they tell others too much or too little.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple, NoReturn

from probe.kubernetes.answers import items, look_up
from probe.kubernetes.client import ApiError, Client, Trouble, Troubles, path
from probe.kubernetes.events import Pace
from probe.kubernetes.floor import (
    SERVICE,
    LeaveClaim,
    Services,
    Standing,
    pod_uid,
    services_of,
    stand,
)
from probe.kubernetes.identity import Identity
from probe.kubernetes.leases import Lease, Leases
from probe.kubernetes.patient import PatientClient
from probe.model import Reason, Transition, Verdict
from probe.sidecar.board import Board

log = logging.getLogger(__name__)

LABEL = "accept-probe/floor"
"""The label of every claim, by which all of a namespace are listed."""
CLAIMED = "claim"
LEASE = "accept-probe-floor"
"""What the name of a claim begins with; the uid of the pod follows."""

OVERLOADED: dict[Reason | None, str] = {
    Reason.ACCEPT_QUEUE_SATURATED: "saturated",
    Reason.ROUND_TRIP_FAILED: "round trip failed",
    Reason.STARTING: "recovering",
}
"""What may be kept in service, in words. A target that has had a good round trip is STARTING for as
long as the next good ones are counted."""

WITHIN = 5.0
"""Seconds for all that is asked at a time."""
AT_ONCE = 10.0
"""Seconds that one waits for the first answer, in service, before nothing is known."""
SOONEST = 1.0
"""Seconds from one beginning to the next, however often a verdict changes."""
AGAIN = 2.0
"""Seconds from one look at the others to the next, at the least..."""
A_SECOND = 20
"""...and so that all of a Service together look so often in a second..."""
SELDOM = 30.0
"""...but never less often than this."""
OLD = 3
"""Times that look may fail, beside AT_ONCE, before what it told is too old to go by."""
SPREAD = 0.02
"""Seconds for each endpoint, over which those that want to leave at once make their claims..."""
LONGEST_SPREAD = 2.0
RETURN = 20.0
"""Seconds in which those with younger claims have to be back and seen: kubelet's period, its
time-out, and the EndpointSlice's controller."""
SETTLED = 5.0
"""Seconds that a target has to be no worse than overloaded, after a stall, to be kept in service: a
failed round trip amid a stall is no sign of life."""
UNCLEAR = 60.0
"""Seconds after which no request is carried out any more, if it was not answered: the API server's
own limit (kube-apiserver, --request-timeout)."""
PAGE = "20"
"""EndpointSlices in an answer: of 100 endpoints each, some 600 KiB at most."""
PAGES = 50
"""Answers that are read for all of them."""


class Unknown(StrEnum):
    """What follows where the others are not known: no right, no API server, or for too long."""

    LEAVE = "leave"
    STAY = "stay"


class FloorTerms(NamedTuple):
    """`share`: of the other endpoints, how many have to be ready for this one to leave."""

    share: float
    unknown: Unknown = Unknown.LEAVE
    longest_queued: float = 30.0
    """Seconds that our own connection may be queued: an application that takes none for as long has
    stalled, even where that cannot be proven."""


class DepartureOutcome(StrEnum):
    """What came of a wish to leave. BLIND: the others were not known, and it was as the terms say.
    NONE: nothing yet.
    """

    NONE = "none"
    LEFT = "left"
    KEPT = "kept"
    LEFT_BLIND = "left_unknown"
    KEPT_BLIND = "kept_unknown"


LEAVING = {DepartureOutcome.LEFT, DepartureOutcome.LEFT_BLIND}

HOPELESS = {Trouble.NO_SERVICE_ACCOUNT, Trouble.FORBIDDEN, Trouble.NOT_FOUND}
"""What does not change by itself: there is nothing to wait for."""


class FloorActivity(NamedTuple):
    """What came of it so far, for /metrics."""

    outcomes: dict[DepartureOutcome, int]
    keeping: bool
    """Whether the pod is kept in service now."""


class Departure:
    """One pod's leave of its Services, for as long as a target is overloaded."""

    def __init__(
        self,
        client: Client,
        identity: Identity,
        terms: FloorTerms,
        board: Board,
        troubles: Troubles,
        *,
        pace: Pace | None = None,
        told: Callable[[str], None] = lambda text: None,
        answered: Callable[[], None] = lambda: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`told` hears once of each time that the pod is kept in service, `answered` whenever what
        `keeps` says may have changed. `chance`: from 0 to 1.
        """
        self._client = PatientClient(client, "floor", troubles, pace)
        self._leases = Leases(self._client, identity)
        self._slices = path(
            *("apis", "discovery.k8s.io", "v1", "namespaces", identity.namespace, "endpointslices")
        )
        self._identity = identity
        self._terms = terms
        self._board = board
        self._clock = board.clock
        self._told = told
        self._answered = answered
        self._chance = chance
        self._changed = asyncio.Event()
        self._stalled_at: dict[str, float] = {}
        """By target that is not ready, when it was last seen to be worse than overloaded."""
        self._since: float | None = None
        """Since when the pod wants to leave."""
        self._standing: Standing | None = None
        self._seen_at = 0.0
        """When that was asked for."""
        self._short_since: float | None = None
        """Since when too few are ready, if those that have to be back first are not counted."""
        self._trouble = "" if identity.known else "which pod this is, is not known"
        """Why the others are not known; "" while nothing is wrong."""
        self._hopeless = not identity.known
        """Whether that will not change by itself."""
        self._services: tuple[str, ...] = ()
        """The Services that were found to send traffic here; asked for anew with each wish."""
        self._endpoints = 0
        self._pod = identity.uid
        self._claim = ""
        """The uid of the Lease that may be relied on."""
        self._used = False
        """Whether we have left with it."""
        self._back_at = self._clock()
        """When we were last away."""
        self._owes = True
        """Whether a Lease of ours may be there: at first, one of an earlier life."""
        self._owes_until = self._clock() + UNCLEAR
        """Until when one may turn up that nobody has told us of."""
        self._outcome = DepartureOutcome.NONE
        self._counts = dict.fromkeys(DepartureOutcome, 0)

    # --- what the board asks, from memory

    def keeps(self, verdict: Verdict) -> str:
        """Why a target stays in service although it is not ready; "" where it does not."""
        entry = self._board.entries[verdict.target]
        if verdict.ready or entry.target.discovered or not _is_overloaded(verdict):
            return ""
        stalled_at = self._stalled_at.get(verdict.target)
        if stalled_at is not None and self._clock() - stalled_at < SETTLED:
            return ""
        queued_for = entry.own_queued_for
        if queued_for is not None and queued_for >= self._terms.longest_queued:
            return ""
        outcome, why = self._answer()
        if outcome in LEAVING:
            return ""
        return f"{OVERLOADED.get(verdict.reason, '')}, kept in service: {why}"

    def on_transition(self, transition: Transition) -> None:
        """Hear of a transition, from the board."""
        before, after = transition.before, transition.after
        if after.ready:
            self._stalled_at.pop(after.target, None)
        elif not (_is_overloaded(after) and (before.ready or _is_overloaded(before))):
            self._stalled_at[after.target] = self._clock()
        wishes = self._wishes()
        if bool(wishes) != (self._since is not None):
            now = self._clock()
            if self._outcome in LEAVING:
                self._back_at = now
            self._since = now if wishes else None
            self._standing = self._short_since = None
            self._services = ()
            self._outcome = DepartureOutcome.NONE
            self._changed.set()

    @property
    def activity(self) -> FloorActivity:
        return FloorActivity(
            {
                outcome: self._counts[outcome]
                for outcome in DepartureOutcome
                if outcome is not DepartureOutcome.NONE
            },
            any(self.keeps(entry.verdict) for entry in self._board.deciding),
        )

    def _wishes(self) -> list[Verdict]:
        """The verdicts for which the pod would leave, and may have to stay."""
        verdicts = (entry.verdict for entry in self._board.deciding)
        return [each for each in verdicts if not each.ready and _is_overloaded(each)]

    def _answer(self) -> tuple[DepartureOutcome, str]:
        """What to do about a wish to leave, and why; NONE: stay until that is known."""
        now = self._clock()
        fresh = AT_ONCE + OLD * self._period
        if self._standing is not None and now - self._seen_at < fresh:
            outcome = DepartureOutcome.LEFT if self._standing.may_leave else DepartureOutcome.KEPT
            return outcome, self._standing.figures
        if self._since is not None and now - self._since < AT_ONCE and not self._hopeless:
            return DepartureOutcome.NONE, "the other endpoints are being asked for"
        why = f"the other endpoints are not known: {self._trouble or 'no answer yet'}"
        leaves = self._terms.unknown is Unknown.LEAVE
        return DepartureOutcome.LEFT_BLIND if leaves else DepartureOutcome.KEPT_BLIND, why

    # --- what is asked of the API server

    async def run(self) -> NoReturn:
        """Claim what is wanted, look again, and give back what is not; until cancelled.

        Then the claim stays: the pod ends, and the claim with it, or our next life gives it back.
        """
        while True:
            began = self._clock()
            self._changed.clear()
            pause = await self._turn()
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                pass
            # However often a verdict changes.
            await asyncio.sleep(max(began + SOONEST - self._clock(), 0.0))

    @property
    def _period(self) -> float:
        """Seconds from one look at the others to the next."""
        return min(max(AGAIN, self._endpoints / A_SECOND), SELDOM)

    async def _turn(self) -> float | None:
        """Ask for what is wanted now; return after how many seconds to ask again."""
        since = self._since
        if not self._identity.known or (since is None and not self._owes):
            self._tell()
            return None
        try:
            async with asyncio.timeout(WITHIN):
                if since is None:
                    await self._settle_up()
                else:
                    await self._ask_to_leave(since)
        except ApiError as error:
            self._trouble, self._hopeless = str(error), error.trouble in HOPELESS
        except TimeoutError:
            self._trouble = f"no answer within {WITHIN:g} s"
        except Exception:
            log.exception("floor: a defect of the sidecar")
            self._trouble = "a defect of the sidecar"
        else:
            self._trouble, self._hopeless = "", False
        self._tell()
        if self._hopeless or self._since is None:
            return SELDOM if self._hopeless or not self._claim else AT_ONCE
        return self._period * (0.75 + self._chance() / 2)

    async def _ask_to_leave(self, since: float) -> None:
        """Look at the others, claim our leave if they can spare us, and look again."""
        seen_at = self._clock()
        services = await self._read_services()
        if not services or not (self._claim or stand(services, (), *self._wish).may_leave):
            # Nobody is there to be spared, or the EndpointSlices alone forbid it.
            self._conclude(since, seen_at, stand(services, (), *self._wish))
            return
        if not self._claim:
            await asyncio.sleep(self._chance() * min(SPREAD * self._endpoints, LONGEST_SPREAD))
        leases = await self._leases.list(LABEL)
        own = self._own_of(leases)
        if own is not None and own.uid != self._claim:
            await self._give_back(own)
            leases = tuple(lease for lease in leases if lease is not own)
            own = None
        standing = self._stand(services, leases)
        if own is None:
            if self._claim:
                # It was deleted by somebody else: back, until there is another.
                self._claim = ""
                self._conclude(since, seen_at, standing._replace(may_leave=False))
            if standing.may_leave:
                own, leases = await self._make_claim()
                standing = self._stand(services, leases)
        self._conclude(since, seen_at, standing)
        if (
            not standing.may_leave
            and own is not None
            and (not self._used or self._is_shown(services))
        ):
            await self._give_back(own)

    @property
    def _wish(self) -> tuple[str, float]:
        return self._pod, self._terms.share

    def _conclude(self, since: float, seen_at: float, standing: Standing) -> None:
        if self._since != since:
            return  # That wish is over.
        if standing.may_leave:
            self._used = True
        elif self._outcome in LEAVING:
            self._back_at = self._clock()
        self._standing, self._seen_at = standing, seen_at
        self._answered()

    def _stand(self, services: Services, leases: tuple[Lease, ...]) -> Standing:
        """Where we stand, trusting those behind us only for as long as they may need."""
        if not all(lease.order for lease in leases):
            raise ApiError(Trouble.SERVER_ERROR, "the resourceVersion of a Lease is no number")
        claims = [LeaveClaim(lease.pod, lease.order) for lease in leases]
        strict = stand(services, claims, *self._wish, trusting=False)
        now = self._clock()
        if strict.may_leave:
            self._short_since = None
        elif self._short_since is None:
            self._short_since = now
        elif now - self._short_since >= RETURN:
            return strict
        return stand(services, claims, *self._wish)

    async def _make_claim(self) -> tuple[Lease, tuple[Lease, ...]]:
        """Claim our leave; return the claim, and all claims as they are then. Raises ApiError."""
        # However it ends: what was asked for may be tried more than once, and come late.
        self._owes, self._owes_until = True, self._clock() + WITHIN + UNCLEAR
        made = await self._leases.create(f"{LEASE}-{self._pod}", self._pod, {LABEL: CLAIMED})
        if made is None:
            raise ApiError(Trouble.CONFLICT, "a Lease of ours is there that we were not told of")
        self._claim, self._used = made.uid, False
        leases = await self._leases.list(LABEL)
        own = self._own_of(leases)
        if own is None or own.uid != made.uid:
            raise ApiError(Trouble.CONFLICT, "our Lease is not there any more")
        return own, leases

    async def _settle_up(self) -> None:
        """Give our claim back once the EndpointSlices show what we are: till then it says more."""
        services = await self._read_services()
        own = self._own_of(await self._leases.list(LABEL))
        if own is None:
            self._claim = ""
            self._owes = self._clock() < self._owes_until
        elif self._is_shown(services):
            await self._give_back(own)

    def _is_shown(self, services: Services) -> bool:
        """Whether the EndpointSlices show what we are by now, and not what we were."""
        shown = (endpoints[self._pod] == self._board.ready for endpoints in services.values())
        return self._clock() - self._back_at >= AT_ONCE and all(shown)

    async def _give_back(self, lease: Lease) -> None:
        if lease.uid == self._claim:
            self._claim = ""
        await self._leases.delete(lease)

    def _own_of(self, leases: tuple[Lease, ...]) -> Lease | None:
        return next((lease for lease in leases if lease.pod == self._pod), None)

    async def _read_services(self) -> dict[str, dict[str, bool]]:
        """The Services that send traffic to this pod, and whether each endpoint is ready.

        All of the namespace are read to find them, and they alone after that.
        """
        query = {"limit": PAGE}
        if self._services:
            query["labelSelector"] = f"{SERVICE} in ({','.join(self._services)})"
        slices: list[object] = []
        for _ in range(PAGES):
            answer = await self._client.ask("GET", self._slices, query=query)
            found = items(answer)
            if found is None:
                raise ApiError(Trouble.SERVER_ERROR, "the answer is no list of EndpointSlices")
            slices += found
            token = look_up(answer, "metadata", "continue")
            if not isinstance(token, str) or not token:
                break
            query["continue"] = token
        else:
            raise ApiError(Trouble.SERVER_ERROR, "there are more EndpointSlices than can be read")
        self._pod = pod_uid(slices, self._identity.pod) or self._pod
        services = {
            name: endpoints
            for name, endpoints in services_of(slices).items()
            if self._pod in endpoints
        }
        self._services = tuple(services)
        self._endpoints = max(map(len, services.values()), default=0)
        return services

    # --- what is told

    def _tell(self) -> None:
        """Count what has come of a wish, and say it, once."""
        if self._since is None:
            return
        outcome, why = self._answer()
        if outcome in (DepartureOutcome.NONE, self._outcome):
            return
        self._outcome = outcome
        self._counts[outcome] += 1
        wishes = self._wishes()
        message = wishes[0].message if wishes else ""
        if outcome in LEAVING:
            log.info("%s; out of service: %s", message, why)
        else:
            log.warning("%s; kept in service: %s", message, why)
            self._told(f"{message}; kept in service: {why}")
        self._answered()


def _is_overloaded(verdict: Verdict) -> bool:
    """Whether it is no worse than that: it has worked, and may be serving somebody."""
    return verdict.started and verdict.reason in OVERLOADED
