"""A sidecar's part in the cluster, with an API server of its own and verdicts that are given."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from probe.kubernetes.client import TIMEOUT, Account
from probe.kubernetes.events import Pace
from probe.kubernetes.identity import Identity
from probe.kubernetes.quarantine import MARK, Terms
from probe.kubernetes.reporter import KubernetesReporter
from probe.model import Condition, Observation, OnStall, Reason, Target, Transition, Verdict
from probe.response.stalls import Responder, Response
from probe.sidecar.board import Board
from tests.kubernetes.apiserver import ApiServer

POD = Identity("web-6d4c-x2x1z", "shop", "0b1f", "node-7")
LEASES = "/apis/coordination.k8s.io/v1/namespaces/shop/leases"
PLACE = "accept-probe-quarantine-replicaset-web-6d4c-0"
QUICK = Pace(first=0.01, most=0.02)
HEALTHY = Verdict(
    "8080", Condition.HEALTHY, None, None, "8080 healthy", 0.0, None, True, True, True
)
STALLED = HEALTHY._replace(
    condition=Condition.UNHEALTHY,
    reason=Reason.ACCEPT_QUEUE_STALLED,
    message="8080 accept queue stalled: 6 of 5 queued, nothing accepted for 3 s",
    since=103.0,
    incident=100.0,
    ready=False,
)
DEAD = STALLED._replace(
    message="8080 accept queue stalled: 6 of 5 queued, nothing accepted for 30 s", live=False
)


class Scene:
    """A board, whose verdicts are given, and who tells of them and answers stalls."""

    def __init__(
        self,
        account: Account,
        identity: Identity = POD,
        *,
        events: bool = False,
        terms: Terms | None = None,
        evict: bool = False,
        last: OnStall = OnStall.RESTART,
        settle: float = 0.05,
        timeout: float = TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.board = Board([Target(8080), Target(9090)], clock=clock)
        self.board.entries["9090"].verdict = HEALTHY._replace(target="9090")
        self.board.entries["8080"].verdict = HEALTHY
        self.reporter = KubernetesReporter(
            self.board, identity, account, events=events, pace=QUICK, timeout=timeout
        )
        responses: list[Response] = []
        if terms is not None:
            responses.append(self.reporter.quarantine(terms, settle=settle))
        if evict:
            responses.append(self.reporter.eviction())
        self.responder = Responder(
            responses, self.board, last=last, saved=at_once, tell=self.reporter.tell
        )

    def becomes(self, verdict: Verdict, at: float = 130.0) -> None:
        before = self.board.entries[verdict.target].verdict
        transition = Transition(verdict.target, at, before, verdict)
        self.board.publish(verdict.target, Observation(at), verdict, transition)


async def at_once(_target: str) -> None:
    """There is no evidence to wait for."""


@asynccontextmanager
async def running(scene: Scene) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(part.run()) for part in (scene.reporter, scene.responder)]
    try:
        yield
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def events(server: ApiServer) -> list[tuple[str, str, str, int]]:
    return [
        (event["type"], event["reason"], event["note"], event.get("series", {}).get("count", 1))
        for event in server.events.values()
    ]


def marks(server: ApiServer) -> list[str | None]:
    return [pod["metadata"]["labels"].get(MARK) for pod in server.pods.values()]
