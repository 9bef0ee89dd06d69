"""The pod's condition: what is written, when, and what is left as it stands."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from probe.kubernetes.client import Account
from probe.kubernetes.condition import TYPE
from probe.model import Condition, Hold, Reason
from tests.kubernetes.apiserver import ApiServer, cut, status
from tests.kubernetes.scene import HEALTHY, POD, STALLED, Scene, running
from tests.support import eventually

STARTING = HEALTHY._replace(
    condition=Condition.UNKNOWN,
    reason=Reason.STARTING,
    message="8080 starting: no good round trip yet",
    ready=False,
)


def condition(server: ApiServer) -> dict[str, Any]:
    conditions = server.pods[POD.pod]["status"].get("conditions", [])
    return next((each for each in conditions if each["type"] == TYPE), {})


def says(server: ApiServer, reason: str) -> Callable[[], bool]:
    return lambda: condition(server).get("reason") == reason


@asynccontextmanager
async def watching(
    server: ApiServer, mount: Path, authority: trustme.CA
) -> AsyncIterator[tuple[Scene, Account]]:
    server.pod(POD.pod)["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    async with server.serve(mount, authority) as account:
        scene = Scene(account)
        scene.reporter.write_condition()
        scene.board.entries["8080"].verdict = STARTING
        async with running(scene):
            yield scene, account


async def test_it_follows_the_verdict_and_leaves_the_others_alone(
    mount: Path, authority: trustme.CA
) -> None:
    server = ApiServer()
    async with watching(server, mount, authority) as (scene, _):
        scene.becomes(HEALTHY)
        await server.until(says(server, "Accepting"))
        first = condition(server)
        assert first["status"] == "True"
        scene.becomes(STALLED)
        await server.until(says(server, "AcceptQueueStalled"))
        assert condition(server)["status"] == "False"
        assert condition(server)["message"] == STALLED.message
        scene.becomes(HEALTHY._replace(message="8080 healthy: other figures"))
        await server.until(says(server, "Accepting"))
        scene.becomes(HEALTHY._replace(message="8080 healthy: yet others"))
        why = "saturated, kept in service: 2 of 10 endpoints are ready"
        scene.board.gate_ready(lambda verdict: why)
        scene.becomes(STALLED._replace(reason=Reason.ACCEPT_QUEUE_SATURATED))
        await server.until(says(server, "KeptInService"))
        assert condition(server)["status"] == "True"
        assert condition(server)["message"] == why
    assert len(server.seen) == 4  # figures that change are not written
    assert server.pods[POD.pod]["status"]["conditions"][0] == {"type": "Ready", "status": "True"}
    assert server.pods[POD.pod]["metadata"]["labels"] == {"app": "web", "pod-template-hash": "6d4c"}


async def test_what_it_does_not_know_of_the_application_is_not_written(
    mount: Path, authority: trustme.CA
) -> None:
    """A sidecar that starts again beside an application that works takes it out of nothing, and
    neither does one that ends; what is known to be starting is not ready."""
    server = ApiServer()
    async with watching(server, mount, authority) as (scene, _):
        scene.becomes(STARTING)
        await asyncio.sleep(0)
        scene.becomes(HEALTHY)
        await server.until(says(server, "Accepting"))
        assert len(server.seen) == 1
        scene.becomes(STARTING)
        await server.until(says(server, "Starting"))
        scene.becomes(HEALTHY)
        await server.until(says(server, "Accepting"))
        scene.board.shut_down()
        scene.becomes(STALLED)
        await asyncio.sleep(0)
    assert says(server, "Accepting")()


async def test_what_stays_unknown_is_told_after_a_while(mount: Path, authority: trustme.CA) -> None:
    now = 0.0
    server = ApiServer()
    server.pod(POD.pod)
    async with server.serve(mount, authority) as account:
        scene = Scene(account, clock=lambda: now)
        scene.reporter.write_condition()
        scene.board.entries["8080"].verdict = STARTING
        async with running(scene):
            await asyncio.sleep(0)
            assert not server.seen
            now = 10.0
            scene.becomes(STARTING)
            await server.until(says(server, "Starting"))
            assert condition(server)["status"] == "False"


@pytest.mark.parametrize("fault", [cut, status(500), status(409)])
async def test_the_last_word_is_written_when_it_can_be(
    mount: Path, authority: trustme.CA, fault: Any
) -> None:
    server = ApiServer()
    async with watching(server, mount, authority) as (scene, _):
        server.faults.extend([fault, fault])
        scene.becomes(HEALTHY)
        await server.until(lambda: len(server.seen) == 1)
        scene.becomes(STALLED)
        await server.until(says(server, "AcceptQueueStalled"))
    assert scene.reporter.activity.troubles


async def test_without_the_right_it_is_said_once(
    mount: Path, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    server = ApiServer()
    server.always = status(403, "pods/status is forbidden")
    async with watching(server, mount, authority) as (scene, _):
        scene.becomes(HEALTHY)
        await eventually(lambda: "pods/status is forbidden" in caplog.text)
        scene.becomes(STALLED)
        await server.until(lambda: len(server.seen) >= 2)
    assert caplog.text.count("pods/status is forbidden") == 1


async def test_who_is_held_in_service_by_hand_is_said_to_be(
    mount: Path, authority: trustme.CA
) -> None:
    server = ApiServer()
    async with watching(server, mount, authority) as (scene, _):
        board = scene.board
        scene.becomes(STALLED)
        await server.until(says(server, "AcceptQueueStalled"))
        board.hold(Hold(board.clock() + 60, board.wall() + 60, ready=True, by="uid 0"))
        await server.until(says(server, "HeldByHand"))
        assert condition(server)["status"] == "True"
        board.hold(None)
        await server.until(says(server, "AcceptQueueStalled"))
        assert condition(server)["status"] == "False"
