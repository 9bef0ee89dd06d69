"""The floor: never below, never stuck out, whatever the order of events; and what it costs."""

import asyncio
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probe.kubernetes.client import ApiError, Trouble
from probe.kubernetes.departure import DepartureOutcome, Unknown
from probe.kubernetes.floor import LeaveClaim, Standing, pod_uid, services_of, stand
from probe.kubernetes.identity import Identity
from tests.kubernetes.fleet import SATURATED, SHOWN, STALLED, WELL, Fleet, Pod, run

LATE = SHOWN + 10 + 3 * 2 + 20 + 5 + 3
"""Seconds until a failure is known and answered at the latest: it is shown; the last look at the
EndpointSlices is too old to go by; those that are behind have had their time; a look at the claims.
"""


def allowed(size: int, share: float) -> int:
    """How many of so many may leave."""
    return max(0, size - max(1, math.ceil(round(share * (size - 1), 9))))


# --- the rule


@pytest.mark.parametrize(
    ("endpoints", "share", "may"),
    [
        *((1, 0.01, 0), (1, 1.0, 0), (2, 0.5, 1), (2, 1.0, 1), (3, 0.5, 2), (3, 0.51, 1)),
        *((10, 0.01, 9), (10, 0.5, 5), (10, 0.9, 1), (101, 0.07, 94), (101, 1.0, 1)),
    ],
)
def test_a_share_of_the_others_and_one_at_least(endpoints: int, share: float, may: int) -> None:
    """One after the other leaves until the next may not."""
    services = {"web": {f"{number}": True for number in range(endpoints)}}
    claims: list[LeaveClaim] = []
    for number in range(endpoints):
        mine = LeaveClaim(f"{number}", number)
        if not stand(services, [*claims, mine], mine.pod, share).may_leave:
            break
        claims.append(mine)
    assert len(claims) == may
    if may < endpoints:
        last = stand(services, claims, f"{may}", share)
        assert (last.may_leave, last.ready, last.endpoints) == (False, endpoints - may, endpoints)


@given(
    ready=st.lists(st.booleans(), min_size=1, max_size=12),
    order=st.permutations(range(12)),
    claimed=st.integers(0, 12),
    share=st.floats(0.01, 1.0),
)
def test_all_that_may_leave_at_once_can_be_spared(
    ready: list[bool], order: list[int], claimed: int, share: float
) -> None:
    """Whoever may leave by one and the same sight of things leaves enough to each other."""
    endpoints = {f"{number}": is_ready for number, is_ready in enumerate(ready)}
    claims = [LeaveClaim(f"{pod}", rank) for rank, pod in enumerate(order[:claimed])]
    left = {
        claim.pod
        for claim in claims
        if claim.pod in endpoints and stand({"web": endpoints}, claims, claim.pod, share).may_leave
    }
    others = {claim.pod for claim in claims} - left
    needed = max(1, math.ceil(round(share * (len(ready) - 1), 9)))
    back = sum(is_ready or pod in others for pod, is_ready in endpoints.items() if pod not in left)
    assert not left or back >= needed


def test_every_service_has_to_spare_it() -> None:
    services = {"all": {"a": True, "b": True, "c": True, "d": True}, "few": {"a": True, "b": False}}
    standing = stand(services, [], "a", 0.5)
    assert standing == Standing(may_leave=False, service="few", ready=1, endpoints=2, needed=1)
    assert standing.figures == "1 of 2 endpoints are ready"
    assert stand(services, [], "c", 0.5).may_leave
    assert stand(services, [], "nobody", 0.5).figures == "no Service sends traffic to this pod"


def test_those_behind_come_back_first_and_are_trusted_for_a_while() -> None:
    services = {"web": {"a": False, "b": False, "c": False, "d": True, "e": False}}
    claims = [LeaveClaim("a", 1), LeaveClaim("b", 2), LeaveClaim("c", 3)]
    assert [stand(services, claims, pod, 0.5).may_leave for pod in "abc"] == [True, True, False]
    assert not any(stand(services, claims, pod, 0.5, trusting=False).may_leave for pod in "abc")


def test_endpoint_slices_as_they_come() -> None:
    def endpoint(uid: str, address: str = "10.0.0.1", **conditions: bool) -> dict[str, object]:
        target = {"kind": "Pod", "name": f"web-{uid}", "uid": uid}
        return {"addresses": [address], "targetRef": target, "conditions": conditions}

    def slice_of(service: str | None, *endpoints: object) -> dict[str, object]:
        labels = {"kubernetes.io/service-name": service} if service else {}
        return {"metadata": {"labels": labels}, "endpoints": [*endpoints]}

    slices = [
        slice_of("web", endpoint("a", ready=True), endpoint("b", ready=False)),
        slice_of("web", endpoint("a", "fd00::1", ready=True), endpoint("c")),
        # Publishes what is not ready: `serving` tells.
        slice_of("peers", endpoint("a", ready=True, serving=False)),
        slice_of("web", endpoint("ends", ready=False, serving=True, terminating=True)),
        slice_of("hand", {"addresses": ["192.0.2.1"]}, {"addresses": []}, {}, "nonsense"),
        slice_of(None, endpoint("a", ready=True)),
        {"metadata": {"labels": {"kubernetes.io/service-name": "none"}}, "endpoints": None},
        "nonsense",
    ]
    assert services_of(slices) == {
        "web": {"a": True, "b": False, "c": True},
        "peers": {"a": False},
        "hand": {"192.0.2.1": True},
        "none": {},
    }
    assert pod_uid(slices, "web-c") == "c"
    assert pod_uid(slices, "web-d") == ""


# --- all at once


@pytest.mark.parametrize("faults", [0.0, 0.3], ids=["well", "faulty"])
@pytest.mark.parametrize("size", [1, 2, 3, 10, 100])
def test_pods_that_saturate_in_the_same_second_leave_in_order(size: int, faults: float) -> None:
    async def storm() -> None:
        fleet = Fleet(size, faults=faults, seed=size)
        await fleet.begin()
        fleet.all_become(SATURATED)
        await fleet.watch(10.0, every=0.2)
        requests = len(fleet.server.asked)
        for _ in range(40 if faults else 2):
            await fleet.watch(5.0, every=0.5)
            if len(fleet.left) == allowed(size, 0.5):
                break
        assert len(fleet.left) == allowed(size, 0.5)
        # What it costs: a claim of each, and a look from time to time of all together.
        assert requests <= 6 * size + 10 * 2 * 25
        fleet.server.faults = 0.0
        fleet.all_become(WELL)
        assert fleet.serving == size  # at once: nobody is asked
        await asyncio.sleep(120.0)
        assert not fleet.server.leases
        fleet.server.asked.clear()
        await asyncio.sleep(100.0)
        assert not fleet.server.asked  # whoever is well asks for nothing

    run(storm())


# --- whatever happens

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["saturate", "recover", "stall", "restart", "cut off", "join", "crash", "replace"]
        ),
        st.integers(0, 9),
        st.floats(0.0, 12.0),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 1 << 16),
    size=st.integers(1, 6),
    share=st.sampled_from([0.1, 0.5, 0.8, 1.0]),
    faults=st.sampled_from([0.0, 0.1, 0.4]),
    events=EVENTS,
)
def test_never_below_the_floor_and_never_stuck_out(
    seed: int, size: int, share: float, faults: float, events: list[tuple[str, int, float]]
) -> None:
    async def live() -> None:
        fleet = Fleet(size, share=share, faults=faults, seed=seed)
        await fleet.begin()
        fleet.all_become(SATURATED)
        for number, (what, which, pause) in enumerate(events):
            happen(fleet, what, fleet.pods[which % len(fleet.pods)], f"new-{number}")
            await fleet.watch(pause, LATE, every=0.25)
        fleet.server.faults = 0.0
        fleet.server.cut_off.clear()
        await fleet.watch(LATE, LATE, every=0.5)
        for pod in [pod for pod in fleet.pods if pod.sidecar.cancelled()]:
            fleet.end(pod)
        fleet.all_become(WELL)
        assert fleet.serving == len(fleet.pods)
        await asyncio.sleep(150.0)
        assert not fleet.server.leases
        assert fleet.serving == len(fleet.pods)

    run(live())


def happen(fleet: Fleet, what: str, pod: Pod, name: str) -> None:
    match what:
        case "saturate":
            pod.becomes(SATURATED)
        case "recover":
            pod.becomes(WELL)
        case "stall":
            pod.becomes(STALLED)
        case "restart":
            pod.restart()
        case "cut off":
            fleet.server.cut_off ^= {pod.name}
        case "join":
            fleet.pods.append(Pod(fleet, name, pod.services))
        case "crash":
            pod.becomes(STALLED)  # it serves nobody, and its claim stays where it is
            pod.sidecar.cancel()
        case "replace":
            fleet.pods.append(Pod(fleet, name, pod.services))
            fleet.pods[-1].becomes(WELL)
            fleet.end(pod)


# --- one by one


def test_a_stall_always_leaves_and_a_flicker_amid_it_does_not_come_back() -> None:
    async def stall() -> None:
        fleet = Fleet(2)
        await fleet.begin()
        fleet.all_become(STALLED)
        assert fleet.serving == 0
        fleet.all_become(SATURATED)
        assert fleet.serving == 0
        await asyncio.sleep(4.0)
        fleet.all_become(STALLED)
        await asyncio.sleep(60.0)
        assert fleet.serving == 0
        fleet.all_become(SATURATED)
        await asyncio.sleep(5.0)
        assert fleet.serving == 2  # nobody else does

    run(stall())


def test_what_never_worked_is_not_kept_in_service() -> None:
    async def start() -> None:
        fleet = Fleet(1)
        await asyncio.sleep(10.0)
        fleet.all_become(SATURATED._replace(started=False))
        await asyncio.sleep(10.0)
        assert fleet.serving == 0

    run(start())


def test_a_connection_of_ours_that_nobody_takes_is_a_stall() -> None:
    async def queue() -> None:
        fleet = Fleet(1)
        await fleet.begin()
        (pod,) = fleet.pods
        pod.becomes(SATURATED)
        entry = pod.board.entries["8080"]
        entry.own_queued_for = 29.0
        assert pod.serves
        entry.own_queued_for = 30.0
        assert not pod.serves

    run(queue())


def test_it_says_why_it_stays_and_how_often() -> None:
    async def stay() -> None:
        fleet = Fleet(10)
        await fleet.begin()
        for pod in fleet.pods[:8]:
            pod.becomes(STALLED)
        await asyncio.sleep(2 * SHOWN)
        pod = fleet.pods[9]
        pod.becomes(SATURATED)
        said = pod.board.kept(pod.board.entries["8080"])
        assert said == "saturated, kept in service: the other endpoints are being asked for"
        await asyncio.sleep(1.0)
        said = pod.board.kept(pod.board.entries["8080"])
        assert said == "saturated, kept in service: 2 of 10 endpoints are ready"
        activity = pod.departure.activity
        assert activity.keeping
        assert activity.outcomes[DepartureOutcome.KEPT] == 1
        assert pod.told == [f"{SATURATED.message}; kept in service: 2 of 10 endpoints are ready"]
        assert not fleet.server.leases  # the EndpointSlices alone forbid it

    run(stay())


def test_the_youngest_comes_back_where_another_fails() -> None:
    async def fail() -> None:
        fleet = Fleet(10)
        await fleet.begin()
        fleet.all_become(SATURATED)
        await asyncio.sleep(20.0)
        assert len(fleet.left) == 5
        youngest = max(
            fleet.server.leases.values(), key=lambda one: int(one["metadata"]["resourceVersion"])
        )
        next(pod for pod in fleet.pods if pod.serves).becomes(STALLED)
        await asyncio.sleep(10.0)
        assert len(fleet.left) == 4
        assert youngest["spec"]["holderIdentity"] not in {pod.name for pod in fleet.left}
        await asyncio.sleep(120.0)
        assert len(fleet.left) == 4  # and nobody else does, then or later

    run(fail())


def test_a_claim_that_somebody_deleted_is_made_anew() -> None:
    """And until it is, the pod is back."""

    async def delete() -> None:
        fleet = Fleet(2)
        await fleet.begin()
        fleet.pods[0].becomes(SATURATED)
        await asyncio.sleep(10.0)
        assert len(fleet.left) == 1
        fleet.server.leases.clear()
        served = set()
        for _ in range(1000):
            await asyncio.sleep(0.01)
            served.add(fleet.serving)
        assert served == {1, 2}
        assert len(fleet.left) == len(fleet.server.leases) == 1

    run(delete())


@pytest.mark.parametrize("restarts", [False, True])
def test_a_claim_whose_end_was_asked_for_is_not_relied_on(restarts: bool) -> None:
    """However late the request to delete it is carried out, of this life or of an earlier one."""

    async def late() -> None:
        fleet = Fleet(2)
        await fleet.begin()
        (pod, _) = fleet.pods
        pod.becomes(SATURATED)
        await fleet.watch(10.0)
        assert fleet.left == [pod]
        fleet.server.delayed = [25.0] * 9
        pod.becomes(WELL)
        while len(fleet.server.delayed) == 9:  # noqa: ASYNC110 - in virtual time
            await asyncio.sleep(0.1)
        await asyncio.sleep(6.0)
        fleet.server.delayed.clear()
        if restarts:
            pod.restart()
            await asyncio.sleep(3.0)
        pod.becomes(SATURATED)
        await fleet.watch(30.0)
        assert fleet.left == [pod]

    run(late())


@pytest.mark.parametrize("seed", range(8))
def test_a_claim_stands_until_the_endpoint_slices_show_what_is(seed: int) -> None:
    """Who leaves and stalls at once is taken for ready by them, but not by its claim."""

    async def stall() -> None:
        fleet = Fleet(2, seed=seed)
        await fleet.begin()
        first, second = fleet.pods
        first.becomes(SATURATED)
        while not fleet.left:  # noqa: ASYNC110 - in virtual time
            await asyncio.sleep(0.01)
        first.becomes(STALLED)
        await asyncio.sleep(0.2)
        second.becomes(SATURATED)
        for _ in range(200):
            await asyncio.sleep(0.1)
            assert second.serves
        await asyncio.sleep(60.0)
        assert second.serves
        assert not fleet.server.leases

    run(stall())


def test_leases_without_an_order_are_no_claims() -> None:
    async def disorder() -> None:
        fleet = Fleet(3)
        fleet.server.versions = "of another kind {}"
        await fleet.begin()
        fleet.all_become(SATURATED)
        await asyncio.sleep(30.0)
        assert fleet.serving == 3

    run(disorder())


def test_a_pod_of_two_services_leaves_where_both_can_spare_it() -> None:
    async def two() -> None:
        few = ("web-0", "web-1")
        fleet = Fleet(
            10, services=lambda number: ("all", "few") if f"web-{number}" in few else ("all",)
        )
        await fleet.begin()
        fleet.all_become(SATURATED)
        await fleet.watch(60.0)
        assert len(fleet.left) == 5
        assert sum(pod.name in few for pod in fleet.left) <= 1

    run(two())


@pytest.mark.parametrize("unknown", Unknown)
def test_without_an_api_server_it_is_as_the_terms_say(unknown: Unknown) -> None:
    async def cut() -> None:
        fleet = Fleet(3, unknown=unknown)
        await fleet.begin()
        fleet.server.cut_off |= {pod.name for pod in fleet.pods}
        fleet.all_become(SATURATED)
        await asyncio.sleep(9.0)
        assert fleet.serving == 3
        await asyncio.sleep(2.0)
        stays = unknown is Unknown.STAY
        assert fleet.serving == (3 if stays else 0)
        if stays:
            pod = fleet.pods[0]
            said = pod.board.kept(pod.board.entries["8080"])
            assert said.endswith("the other endpoints are not known: no answer within 5 s")
        fleet.server.cut_off.clear()
        await asyncio.sleep(60.0)
        assert fleet.serving == 1  # the floor holds again, either way

    run(cut())


@pytest.mark.parametrize("unknown", Unknown)
def test_without_the_right_it_is_so_at_once(unknown: Unknown) -> None:
    async def forbid() -> None:
        fleet = Fleet(3, unknown=unknown)
        fleet.server.refusal = ApiError(Trouble.FORBIDDEN, "HTTP 403")
        await fleet.begin()
        fleet.all_become(SATURATED)
        assert fleet.serving == (3 if unknown is Unknown.STAY else 0)
        await asyncio.sleep(1.0)
        outcome = (
            DepartureOutcome.KEPT_BLIND if unknown is Unknown.STAY else DepartureOutcome.LEFT_BLIND
        )
        assert fleet.pods[0].departure.activity.outcomes[outcome] == 1

    run(forbid())


@pytest.mark.parametrize(
    "answer",
    [
        {"kind": "EndpointSliceList", "items": "many"},
        {"kind": "Status"},
        {"items": None, "metadata": {"continue": "for ever"}},
    ],
)
def test_what_is_no_answer_of_an_api_server_is_unknown(answer: dict[str, object]) -> None:
    async def nonsense() -> None:
        fleet = Fleet(2)
        await fleet.begin()
        fleet.server.answer = answer
        fleet.all_become(SATURATED)
        await asyncio.sleep(60.0)
        assert fleet.serving == 2
        assert not fleet.server.leases

    run(nonsense())


def test_a_pod_that_does_not_know_which_it_is_knows_nobody() -> None:
    async def lost() -> None:
        fleet = Fleet(1, unknown=Unknown.STAY, identity=Identity())
        await fleet.begin()
        fleet.all_become(SATURATED)
        pod = fleet.pods[0]
        assert pod.board.kept(pod.board.entries["8080"]) == (
            "saturated, kept in service: the other endpoints are not known: which pod this is, is "
            "not known"
        )
        await asyncio.sleep(1.0)
        assert pod.departure.activity.outcomes[DepartureOutcome.KEPT_BLIND] == 1
        assert not fleet.server.asked

    run(lost())
