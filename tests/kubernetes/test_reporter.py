import asyncio
import contextlib
import logging
import time
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from probe.kubernetes.client import Account, ApiError, Trouble
from probe.kubernetes.events import QUEUE, Pace
from probe.kubernetes.identity import Identity
from probe.kubernetes.quarantine import HELD, MARK, Phase, Terms
from probe.model import Condition, Hold, OnStall, Reason
from tests.kubernetes.apiserver import ApiServer, carry_out, cut, hang, status
from tests.kubernetes.scene import (
    DEAD,
    HEALTHY,
    LEASES,
    PLACE,
    POD,
    STALLED,
    Scene,
    events,
    marks,
    running,
)
from tests.support import eventually

# --- Events


async def test_an_incident_from_stall_to_recovery(mount: Path, authority: trustme.CA) -> None:
    server = ApiServer()
    async with server.serve(mount, authority) as account:
        scene = Scene(account, events=True)
        async with running(scene):
            scene.becomes(HEALTHY._replace(condition=Condition.SUSPECT, incident=100.0), 101.0)
            scene.becomes(STALLED, 103.0)
            scene.reporter.evidence_saved("8080", "nobody waits to accept", "/evidence/1")
            scene.becomes(DEAD, 130.0)
            assert not scene.board.live  # restart: the board's answer is left as it is
            # The application's container is restarted: a new listener, a clean slate.
            scene.becomes(HEALTHY._replace(condition=Condition.UNKNOWN, ready=False), 134.0)
            scene.becomes(HEALTHY, 136.0)
            await eventually(lambda: sum(scene.reporter.activity.written.values()) == 4)
        assert events(server) == [
            ("Warning", "AcceptQueueStalled", STALLED.message, 2),
            ("Normal", "EvidenceSaved", "nobody waits to accept (evidence: /evidence/1)", 1),
            (
                "Normal",
                "Recovered",
                "8080 healthy; recovered 36 s after the first sign",
                1,
            ),
        ]
        event = next(iter(server.events.values()))
        assert event["regarding"]["uid"] == POD.uid
        assert event["reportingController"] == "accept-probe"
        assert scene.reporter.activity.written == {
            "AcceptQueueStalled": 2,
            "EvidenceSaved": 1,
            "Recovered": 1,
        }


@pytest.mark.parametrize(
    ("reason", "event"),
    [
        (Reason.ACCEPT_QUEUE_SATURATED, "AcceptQueueSaturated"),
        (Reason.ROUND_TRIP_FAILED, "RoundTripFailed"),
    ],
)
async def test_each_reason_has_its_event(
    mount: Path, authority: trustme.CA, reason: Reason, event: str
) -> None:
    server = ApiServer()
    async with server.serve(mount, authority) as account:
        scene = Scene(account, events=True)
        async with running(scene):
            scene.becomes(STALLED._replace(reason=reason, message="m" * 2000 + "\u00e9"))
            await server.until(lambda: bool(server.events))
    assert events(server) == [("Warning", event, "m" * 1024, 1)]


async def test_what_is_not_worth_an_event(mount: Path) -> None:
    scene = Scene(Account("127.0.0.1", "1", mount), events=True)
    starting = HEALTHY._replace(condition=Condition.UNKNOWN, started=False, ready=False)
    scene.becomes(starting)
    scene.becomes(starting._replace(condition=Condition.UNHEALTHY, reason=Reason.NOT_LISTENING))
    scene.becomes(HEALTHY)
    scene.becomes(HEALTHY._replace(condition=Condition.SUSPECT, incident=1.0))
    scene.becomes(HEALTHY)
    async with running(scene):
        await asyncio.sleep(0)
    assert scene.reporter.activity == ({}, 0, {}, Phase.NONE, None)


def test_evidence_is_told_of_once_its_incident_is(mount: Path, authority: trustme.CA) -> None:
    """A capture begins at the first suspicion, and is done before there is a verdict."""
    suspect = HEALTHY._replace(condition=Condition.SUSPECT, incident=100.0)

    async def suspicions() -> None:
        server = ApiServer()
        async with server.serve(mount, authority) as account:
            scene = Scene(account, events=True)
            async with running(scene):
                scene.becomes(suspect)
                scene.reporter.evidence_saved("8080", "came to nothing", "/evidence/1")
                scene.becomes(HEALTHY)
                # A rollout: the listener is closed, and what is captured is no news.
                scene.becomes(STALLED._replace(reason=Reason.NOT_LISTENING))
                scene.reporter.evidence_saved("8080", "nothing listens", "/evidence/2")
                scene.becomes(HEALTHY)
                scene.becomes(suspect)
                scene.reporter.evidence_saved("8080", "nobody waits to accept", "/evidence/3")
                scene.becomes(STALLED)
                await server.until(lambda: len(server.events) == 2)
        assert [note for _, _, note, _ in events(server)] == [
            STALLED.message,
            "nobody waits to accept (evidence: /evidence/3)",
        ]

    asyncio.run(suspicions())


async def test_another_incident_is_another_event(mount: Path, authority: trustme.CA) -> None:
    server = ApiServer()
    async with server.serve(mount, authority) as account:
        scene = Scene(account, events=True)
        async with running(scene):
            scene.becomes(STALLED)
            scene.becomes(STALLED._replace(incident=200.0))
            await server.until(lambda: len(server.events) == 2)
    assert [count for *_, count in events(server)] == [1, 1]


async def test_an_event_that_expired_is_written_anew(mount: Path, authority: trustme.CA) -> None:
    server = ApiServer()
    async with server.serve(mount, authority) as account:
        scene = Scene(account, events=True)
        async with running(scene):
            scene.becomes(STALLED)
            await server.until(lambda: bool(server.events))
            server.events.clear()
            scene.becomes(DEAD)
            await server.until(lambda: bool(server.events))
    assert events(server) == [("Warning", "AcceptQueueStalled", DEAD.message, 1)]


async def test_an_event_whose_answer_was_lost_is_not_written_twice(
    mount: Path, authority: trustme.CA
) -> None:
    server = ApiServer()

    async def do_it_and_cut(request: Any) -> Any:
        await server._create_event(request)
        return await cut(request)

    async with server.serve(mount, authority) as account:
        server.faults.append(do_it_and_cut)
        scene = Scene(account, events=True)
        async with running(scene):
            scene.becomes(STALLED)
            scene.becomes(DEAD)
            await server.until(lambda: "PATCH" in {method for method, _ in server.seen})
    assert [count for *_, count in events(server)] == [2]


def test_misbehaviour_is_counted_and_outlived(
    mount: Path, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    """401, 429, 500 and a cut connection: the event is written at last; each is logged once."""
    caplog.set_level(logging.INFO, "probe.kubernetes")
    faults = [status(401), status(429, headers={"Retry-After": "0"}), status(500), cut]

    async def outlive() -> None:
        server = ApiServer()
        server.faults.extend(faults * 2)
        async with server.serve(mount, authority) as account:
            scene = Scene(account, events=True)
            async with running(scene):
                scene.becomes(STALLED)
                await server.until(lambda: bool(server.events))
                await eventually(lambda: bool(scene.reporter.activity.written))
            assert scene.reporter.activity.dropped == 0
            assert scene.reporter.activity.troubles == {
                ("events", trouble): 2
                for trouble in (
                    Trouble.UNAUTHORIZED,
                    Trouble.THROTTLED,
                    Trouble.SERVER_ERROR,
                    Trouble.UNREACHABLE,
                )
            }

    asyncio.run(outlive())
    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING"] * 4 + ["INFO"]


@pytest.mark.parametrize("code", [403, 404, 422])
async def test_a_final_refusal_drops_the_event_and_not_the_next(
    mount: Path, authority: trustme.CA, code: int
) -> None:
    server = ApiServer()
    server.faults.append(status(code))
    async with server.serve(mount, authority) as account:
        scene = Scene(account, events=True)
        async with running(scene):
            scene.becomes(STALLED)
            await eventually(lambda: scene.reporter.activity.dropped == 1)
            scene.becomes(DEAD)
            await server.until(lambda: bool(server.events))


async def test_an_absent_server_costs_the_board_nothing(
    mount: Path, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    """A thousand transitions while every request hangs: bounded, counted, and never waited for."""

    server = ApiServer()
    server.always = hang
    async with server.serve(mount, authority) as account:
        scene = Scene(account, events=True)
        async with running(scene):
            longest = 0.0
            for incident in range(1000):
                started = time.thread_time()
                scene.becomes(STALLED._replace(incident=float(incident)))
                longest = max(longest, time.thread_time() - started)
                if incident % 100 == 0:
                    await asyncio.sleep(0)
        assert scene.reporter.activity.dropped == 1000 - QUEUE
        assert longest < 0.05


def test_without_a_service_account_it_is_said_once(
    mount: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def without() -> None:
        scene = Scene(Account("", "443", mount), events=True)
        async with running(scene):
            scene.becomes(STALLED)
            scene.becomes(DEAD)
            await eventually(lambda: scene.reporter.activity.dropped == 2)

    asyncio.run(without())
    assert [record.getMessage() for record in caplog.records] == [
        "events: the Kubernetes API: KUBERNETES_SERVICE_HOST is not set (no_service_account); "
        "project a token and ca.crt into the sidecar's container, as examples/k8s/quarantine does"
    ]


def test_without_an_identity_it_is_said_and_nothing_is_tried(
    mount: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def without() -> None:
        scene = Scene(Account("127.0.0.1", "1", mount), Identity(), events=True)
        async with running(scene):
            scene.becomes(STALLED)
            await asyncio.sleep(0.05)
        assert scene.reporter.activity == ({}, 0, {}, Phase.NONE, None)

    asyncio.run(without())
    (record,) = caplog.records
    assert "POD_NAME" in record.getMessage()


def test_pace_doubles_up_to_a_bound_and_the_servers_wish_comes_first() -> None:
    error = ApiError(Trouble.SERVER_ERROR, "HTTP 500")
    for attempt, longest in enumerate([1, 2, 4, 8, 16, 32, 60, 60]):
        assert longest / 2 <= Pace().delay(attempt, error) <= longest
    assert Pace().delay(10**6, error) <= 60
    assert Pace().delay(0, ApiError(Trouble.THROTTLED, "", 7.0)) == 7.0


# --- the answer to a stall


def test_restart_is_the_default_and_hold_holds(mount: Path) -> None:
    for on_stall, live in ((OnStall.RESTART, False), (OnStall.HOLD, True)):
        scene = Scene(Account("", "", mount), last=on_stall)
        scene.becomes(DEAD)
        assert scene.board.live is live
        assert not scene.board.ready


def terms(limit: int = 1) -> Terms:
    return Terms((("app", "web-quarantined"), ("pod-template-hash", None)), 600.0, limit)


async def test_a_stalled_pod_is_set_aside(mount: Path, authority: trustme.CA) -> None:
    server = ApiServer()
    server.pod(POD.pod)
    async with server.serve(mount, authority) as account:
        scene = Scene(account, events=True, terms=terms())
        async with running(scene):
            scene.becomes(STALLED)
            assert scene.board.live
            scene.becomes(DEAD)
            assert scene.board.live  # held while it is being decided
            await eventually(lambda: scene.reporter.activity.quarantine is Phase.HELD)
            assert scene.board.live
            assert not scene.board.ready
            await server.until(lambda: len(server.events) == 2)
        pod = server.pods[POD.pod]
        assert pod["metadata"]["labels"] == {"app": "web-quarantined", MARK: HELD}
        notes = pod["metadata"]["annotations"]
        assert notes[f"{MARK}-reason"] == DEAD.message
        assert notes[f"{MARK}-owner"] == "ReplicaSet/web-6d4c"
        assert list(server.leases) == [notes[f"{MARK}-lease"]] == [PLACE]
        assert pod["spec"]["activeDeadlineSeconds"] > 600
        _, quarantined = events(server)
        assert quarantined[1] == "Quarantined"
        assert notes[f"{MARK}-until"] in quarantined[2]
        # A restarted sidecar finds itself in quarantine and changes nothing.
        server.seen.clear()
        again = Scene(account, terms=terms())
        async with running(again):
            again.becomes(DEAD)
            await eventually(lambda: again.reporter.activity.quarantine is Phase.HELD)
        assert [method for method, _ in server.seen] == ["PATCH"]
        assert server.pods[POD.pod] is pod


async def test_the_limit_counts_the_pods_of_one_owner(mount: Path, authority: trustme.CA) -> None:
    server = ApiServer()
    untouched = server.pod(POD.pod)
    # Set aside by hand, and thus without a place of its own.
    held = server.pod("web-6d4c-older")
    held["metadata"]["labels"] = {MARK: HELD}
    held["metadata"]["annotations"] = {f"{MARK}-owner": "ReplicaSet/web-6d4c"}
    del held["metadata"]["ownerReferences"]
    ended = server.pod("web-6d4c-ended")
    ended["metadata"]["labels"][MARK] = HELD
    ended["status"]["phase"] = "Failed"
    other = server.pod("api-1", owner="api")
    other["metadata"]["labels"][MARK] = HELD
    async with server.serve(mount, authority) as account:
        scene = Scene(account, events=True, terms=terms(limit=1))
        async with running(scene):
            scene.becomes(DEAD)
            await eventually(lambda: scene.reporter.activity.quarantine is Phase.DECLINED)
            assert not scene.board.live
            await server.until(lambda: len(server.events) == 2)
            _, (kind, reason, note, _) = events(server)
            assert (kind, reason) == ("Warning", "NotQuarantined")
            assert note == (
                f"{DEAD.message}; not set aside, so /live fails: "
                "1 of at most 1 of ReplicaSet/web-6d4c are in quarantine already"
            )
            assert server.pods[POD.pod] is untouched
            # Restarted and stalled once more, with room for two: it is asked anew.
            scene.becomes(HEALTHY)
            assert scene.reporter.activity.quarantine is Phase.NONE
            server.delete_pod("web-6d4c-older")
            scene.becomes(DEAD._replace(incident=200.0))
            await eventually(lambda: scene.reporter.activity.quarantine is Phase.HELD)


@pytest.mark.parametrize("limit", [1, 2])
async def test_pods_that_stall_at_once_share_the_places(
    mount: Path, authority: trustme.CA, limit: int
) -> None:
    server = ApiServer()
    async with server.serve(mount, authority) as account:
        scenes = []
        for number in range(5):
            name = f"web-6d4c-{number}"
            server.pod(name)
            identity = POD._replace(pod=name)
            scenes.append(Scene(account, identity, terms=terms(limit), settle=1.0))
        async with contextlib.AsyncExitStack() as stack:
            for scene in scenes:
                await stack.enter_async_context(running(scene))
                scene.becomes(DEAD)
            ended = {Phase.HELD, Phase.DECLINED}
            await eventually(lambda: {s.reporter.activity.quarantine for s in scenes} <= ended)
        held = [scene for scene in scenes if scene.reporter.activity.quarantine is Phase.HELD]
        assert len(held) == limit
        assert marks(server).count(HELD) == limit == len(server.leases)


@pytest.mark.parametrize(
    ("kind", "said"),
    [("ReplicaSet", "HTTP 403"), ("StatefulSet", "a StatefulSet starts no replacement")],
)
def test_what_cannot_be_set_aside_is_restarted(
    mount: Path,
    authority: trustme.CA,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    said: str,
) -> None:
    async def refuse() -> None:
        server = ApiServer()
        server.pod(POD.pod, kind=kind)
        if kind == "ReplicaSet":
            server.always = status(403, "pods is forbidden")
        async with server.serve(mount, authority) as account:
            scene = Scene(account, terms=terms())
            async with running(scene):
                scene.becomes(DEAD)
                await eventually(lambda: "not set aside, so /live fails" in caplog.text)
                assert not scene.board.live
            assert MARK not in server.pods[POD.pod]["metadata"]["labels"]

    asyncio.run(refuse())
    assert said in caplog.text


async def test_a_deadline_only_comes_nearer(mount: Path, authority: trustme.CA) -> None:
    server = ApiServer()
    server.pod(POD.pod)["spec"]["activeDeadlineSeconds"] = 5
    async with server.serve(mount, authority) as account:
        scene = Scene(account, terms=terms())
        async with running(scene):
            scene.becomes(DEAD)
            await eventually(lambda: scene.reporter.activity.quarantine is Phase.HELD)
    assert server.pods[POD.pod]["spec"]["activeDeadlineSeconds"] == 5


async def test_what_is_refused_after_all_gives_the_place_back(
    mount: Path, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    server = ApiServer()
    server.pod(POD.pod)

    async def deny(request: web.Request) -> web.StreamResponse:
        if b"activeDeadlineSeconds" in await request.read():
            return await status(403, "denied by a policy")(request)
        return await carry_out(request)

    server.always = deny
    async with server.serve(mount, authority) as account:
        scene = Scene(account, terms=terms())
        async with running(scene):
            scene.becomes(DEAD)
            await eventually(lambda: "denied by a policy" in caplog.text)
            await eventually(lambda: scene.reporter.activity.quarantine is Phase.DECLINED)
            await server.until(lambda: server.seen[-1][0] == "DELETE")
        assert not server.leases
        assert server.pods[POD.pod]["metadata"]["labels"] == {
            "app": "web",
            "pod-template-hash": "6d4c",
        }


async def test_who_holds_the_pod_is_told_of_and_decides_when_it_is_set_aside(
    mount: Path, authority: trustme.CA
) -> None:
    server = ApiServer()
    server.pod(POD.pod)
    async with server.serve(mount, authority) as account:
        scene = Scene(account, events=True, terms=terms())
        board = scene.board
        async with running(scene):
            board.hold(Hold(board.clock() + 60, board.wall() + 60, by="uid 0 (process 7)"))
            scene.becomes(DEAD)
            assert board.live
            await server.until(lambda: len(server.events) == 2)
            assert scene.reporter.activity.quarantine is Phase.NONE
            board.hold(None)
            await eventually(lambda: scene.reporter.activity.quarantine is Phase.HELD)
            await server.until(lambda: len(server.events) == 4)
    begun, _, ended, _ = events(server)
    assert begun[1] == "HoldBegun"
    assert begun[2].endswith("Z, as uid 0 (process 7) asked")
    assert ended[1] == "HoldEnded"


async def test_a_hold_that_comes_while_it_is_decided_comes_in_time(
    mount: Path, authority: trustme.CA
) -> None:
    server = ApiServer()
    server.pod(POD.pod)
    async with server.serve(mount, authority) as account:
        scene = Scene(account, terms=terms())
        board = scene.board

        async def hold(request: web.Request) -> web.StreamResponse:
            if request.method == "POST":
                board.hold(Hold(board.clock() + 60, board.wall() + 60))
            return await carry_out(request)

        server.always = hold
        async with running(scene):
            scene.becomes(DEAD)
            await server.until(lambda: server.seen[-1:] == [("DELETE", f"{LEASES}/{PLACE}")])
            assert board.live
        assert server.pods[POD.pod]["metadata"]["labels"]["app"] == "web"


async def test_a_stall_that_ends_meanwhile_is_not_set_aside(
    mount: Path, authority: trustme.CA
) -> None:
    server = ApiServer()
    server.pod(POD.pod)
    async with server.serve(mount, authority) as account:
        scene = Scene(account, terms=terms())

        async def recover(request: web.Request) -> web.StreamResponse:
            if request.method == "POST":
                scene.becomes(HEALTHY)
            return await carry_out(request)

        server.always = recover
        async with running(scene):
            scene.becomes(DEAD)
            await server.until(lambda: server.seen[-1:] == [("DELETE", f"{LEASES}/{PLACE}")])
        assert not server.leases
        assert server.pods[POD.pod]["metadata"]["labels"]["app"] == "web"
        assert scene.reporter.activity.quarantine is Phase.NONE


@pytest.mark.parametrize("left", [1.0, 0.0])
async def test_a_pod_that_ends_at_its_time_gives_its_place_back(
    mount: Path, authority: trustme.CA, left: float
) -> None:
    """What has ended is still there until it is deleted. Who ends before is started again."""

    now = 0.0
    server = ApiServer()
    server.may_list = False
    server.pod(POD.pod)
    async with server.serve(mount, authority) as account:
        scene = Scene(account, terms=terms(), clock=lambda: now)
        async with running(scene):
            scene.becomes(DEAD)
            await eventually(lambda: scene.reporter.activity.quarantine is Phase.HELD)
            now = 600.0 - left
    assert list(server.leases) == ([PLACE] if left else [])


def test_an_absent_server_holds_live_no_longer_than_it_is_given(mount: Path) -> None:
    """The time to decide runs on the board's clock, whatever becomes of the requests."""
    now = 0.0
    scene = Scene(Account("127.0.0.1", "1", mount), terms=terms(), clock=lambda: now)
    scene.becomes(DEAD, 0.0)
    assert scene.board.live
    assert scene.responder.gates_live(DEAD)
    assert not scene.responder.gates_live(HEALTHY)  # which needs no holding
    now = 29.9
    assert scene.board.live
    now = 30.0
    assert not scene.board.live
