"""The eviction of our own pod: granted, forbidden for now, refused, and not answered at all."""

import asyncio
from pathlib import Path

import pytest
import trustme

from probe.kubernetes.client import Account
from probe.kubernetes.identity import Identity
from tests.kubernetes.apiserver import ApiServer, cut, hang, lose_answer, over_budget, status
from tests.kubernetes.scene import DEAD, HEALTHY, POD, Scene, events, running
from tests.support import eventually

OWN = POD._replace(uid=f"uid-of-{POD.pod}")
EVICTION = ("POST", f"/api/v1/namespaces/shop/pods/{POD.pod}/eviction")
BUDGET = "The disruption budget web needs 2 healthy pods and has 1 currently"


async def refused_again(scene: Scene) -> None:
    """Until the API server has refused once more, or has not answered."""
    before = sum(scene.reporter.activity.troubles.values())
    await eventually(lambda: sum(scene.reporter.activity.troubles.values()) > before)


async def test_a_stalled_pod_is_evicted(mount: Path, authority: trustme.CA) -> None:
    server = ApiServer()
    server.pod(POD.pod)
    async with server.serve(mount, authority) as account:
        scene = Scene(account, OWN, events=True, evict=True)
        async with running(scene):
            scene.becomes(DEAD)
            assert scene.board.live
            await server.until(lambda: len(server.events) == 2)
            assert scene.board.live  # it is about to go
            # What else stalls goes with it.
            scene.becomes(DEAD._replace(target="9090"))
            await asyncio.sleep(0)
        assert not server.pods
        assert server.seen.count(EVICTION) == 1
        kind, reason, note, _ = events(server)[-1]
        assert (kind, reason) == ("Warning", "EvictionGranted")
        assert note.startswith(f"{DEAD.message}; the eviction of pod shop/{POD.pod}")


async def test_a_budget_that_forbids_it_is_waited_for(
    mount: Path, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    """However long that lasts: the time to be answered in begins anew with each no."""
    now = 0.0
    server = ApiServer()
    server.pod(POD.pod)
    server.budget = BUDGET
    async with server.serve(mount, authority) as account:
        scene = Scene(account, OWN, events=True, evict=True, clock=lambda: now)
        async with running(scene):
            scene.becomes(DEAD)
            for _ in range(5):
                await refused_again(scene)
                now += 20.0
                assert scene.board.live
            server.budget = None
            await server.until(lambda: not server.pods)
            await server.until(lambda: len(server.events) == 3)
        waits, granted = (note for _, reason, note, _ in events(server)[1:])
        assert waits == f"{DEAD.message}; not evicted yet: HTTP 429: {BUDGET}"
        assert "is granted" in granted
    (said,) = (one.getMessage() for one in caplog.records if " waits: " in one.getMessage())
    assert said.endswith(BUDGET)


async def test_a_stall_that_ends_while_a_budget_is_waited_for(
    mount: Path, authority: trustme.CA
) -> None:
    server = ApiServer()
    server.pod(POD.pod)
    server.always = over_budget(BUDGET, {"Retry-After": "300"})
    async with server.serve(mount, authority) as account:
        scene = Scene(account, OWN, evict=True)
        async with running(scene):
            scene.becomes(DEAD)
            await server.until(lambda: server.seen == [EVICTION])
            await eventually(lambda: bool(scene.reporter.activity.troubles))
            scene.becomes(HEALTHY)
            await asyncio.sleep(0.05)
            assert not scene.responder.counts
            # The next one is asked for at once.
            scene.becomes(DEAD)
            await server.until(lambda: server.seen == [EVICTION] * 2)
        assert server.pods


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (403, "cannot create resource pods/eviction"),
        (404, "not found"),
        (422, "a sidecar may evict no pod but its own"),
    ],
)
async def test_a_refusal_for_good_makes_live_fail(
    mount: Path, authority: trustme.CA, caplog: pytest.LogCaptureFixture, code: int, said: str
) -> None:
    server = ApiServer()
    server.pod(POD.pod)
    server.always = status(code, said)
    async with server.serve(mount, authority) as account:
        scene = Scene(account, OWN, evict=True)
        async with running(scene):
            scene.becomes(DEAD)
            await eventually(lambda: not scene.board.live)
        assert server.seen == [EVICTION]
    assert f"evict: not evicted, so /live fails: HTTP {code}: {said}" in caplog.text


@pytest.mark.parametrize("fault", [cut, hang, status(500), status(503), status(409)])
async def test_what_passes_is_tried_again_and_silence_not_for_ever(
    mount: Path, authority: trustme.CA, caplog: pytest.LogCaptureFixture, fault: object
) -> None:
    now = 0.0
    server = ApiServer()
    server.pod(POD.pod)
    async with server.serve(mount, authority) as account:
        scene = Scene(account, OWN, evict=True, timeout=0.2, clock=lambda: now)
        server.always = fault  # type: ignore[assignment]
        async with running(scene):
            scene.becomes(DEAD)
            await refused_again(scene)
            await refused_again(scene)
            assert scene.board.live
            now = 30.0
            await eventually(lambda: not scene.board.live and bool(scene.responder.counts))
        assert server.pods
    assert "evict: not evicted, so /live fails: " in caplog.text


async def test_a_lost_answer_is_the_end_of_the_pod_all_the_same(
    mount: Path, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    """What is asked again is told that there is no such pod."""
    server = ApiServer()
    server.pod(POD.pod)
    server.faults.append(lose_answer)
    async with server.serve(mount, authority) as account:
        scene = Scene(account, OWN, evict=True)
        async with running(scene):
            scene.becomes(DEAD)
            await eventually(lambda: not scene.board.live)
        assert not server.pods
    assert "HTTP 404" in caplog.text


async def test_another_pod_of_our_name_is_not_evicted(mount: Path, authority: trustme.CA) -> None:
    now = 0.0
    server = ApiServer()
    server.pod(POD.pod)
    async with server.serve(mount, authority) as account:
        scene = Scene(account, POD, evict=True, clock=lambda: now)
        async with running(scene):
            scene.becomes(DEAD)
            await server.until(lambda: len(server.seen) > 2)
            now = 30.0
            await eventually(lambda: not scene.board.live and bool(scene.responder.counts))
        assert server.pods


async def test_without_an_identity_nothing_is_asked(
    mount: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(Account("127.0.0.1", "1", mount), Identity(), evict=True)
    async with running(scene):
        scene.becomes(DEAD)
        await eventually(lambda: not scene.board.live)
    assert "set POD_NAME and POD_NAMESPACE" in caplog.text
