"""A fleet under its Services, in virtual time: minutes of a hundred pods in a second.

What leaves and comes back is the real thing, `Departure` on a real board. The API server is two
dictionaries behind the client's one method, which takes its time, loses answers and carries out
requests long after they were given up. kubelets and the controller of the EndpointSlices are as
late as they are in a cluster.
"""

import asyncio
import contextlib
import copy
import math
import random
import selectors
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from probe.kubernetes.client import JSON, MERGE_PATCH, Account, ApiError, Client, Trouble, Troubles
from probe.kubernetes.departure import SETTLED, Departure, FloorTerms, Unknown
from probe.kubernetes.identity import Identity
from probe.model import Condition, Observation, Reason, Target, Transition, Verdict
from probe.sidecar.board import Board

WELL = Verdict("8080", Condition.HEALTHY, None, None, "8080 healthy", 0.0, None, True, True, True)
SATURATED = WELL._replace(
    condition=Condition.UNHEALTHY,
    reason=Reason.ACCEPT_QUEUE_SATURATED,
    message="8080 accept queue saturated: 6 of 5 queued for 5 s",
    ready=False,
)
STALLED = SATURATED._replace(
    reason=Reason.ACCEPT_QUEUE_STALLED, message="8080 accept queue stalled: 1 of 5 queued"
)
STARTING = Verdict("8080")

PERIOD = 5.0
"""Seconds: of kubelet's readiness probe."""
SHOWN = PERIOD + 1.0
"""Seconds until the EndpointSlices show at the latest what kubelet sees."""
TIMEOUT = 10.0
"""Seconds that a client waits for an answer."""


class _Passing(selectors.SelectSelector):
    """Whoever waits for a while has waited for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "all wait, and for nothing"
            self.now += max(timeout, 0.0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes when nothing is left to do."""

    def __init__(self) -> None:
        self._passing = _Passing()
        super().__init__(self._passing)

    def time(self) -> float:
        return self._passing.now


def run(story: Coroutine[Any, Any, None]) -> None:
    random.seed(0)  # how long one waits before asking again
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(story)


class Server:
    """What an API server knows, and what becomes of requests to it."""

    def __init__(self, seed: int, faults: float, latency: float) -> None:
        self.random = random.Random(seed)
        self.faults = faults
        """The share of requests that are not answered; some are carried out all the same."""
        self.latency = latency
        """Seconds that a request or its answer takes; some take twenty times as long."""
        self.leases: dict[str, dict[str, Any]] = {}
        self.services: dict[str, dict[str, bool]] = {}
        self.cut_off: set[str] = set()
        """Pods that do not reach it."""
        self.refusal: ApiError | None = None
        """What all are answered with."""
        self.answer: dict[str, Any] | None = None
        """The same, as if nothing were wrong."""
        self.delayed: list[float] = []
        """Seconds after which the next DELETEs are carried out, and not answered."""
        self.asked: list[tuple[float, str]] = []
        self.late: set[asyncio.Task[None]] = set()
        self.versions = "{}"
        self._version = 100

    def carry_out(
        self,
        method: str,
        where: str,
        body: Mapping[str, Any] | None,
        query: Mapping[str, str] | None,
    ) -> dict[str, Any]:
        self.asked.append((asyncio.get_running_loop().time(), method))
        if self.refusal is not None:
            raise self.refusal
        if self.answer is not None:
            return self.answer
        if "endpointslices" in where:
            return self._slices((query or {}).get("labelSelector", ""))
        if method == "GET":
            return {"items": list(self.leases.values()) or None}
        if method == "POST":
            assert body is not None
            name = body["metadata"]["name"]
            if name in self.leases:
                raise ApiError(Trouble.CONFLICT, "HTTP 409")
            self._version += 1
            version = {
                "uid": f"lease-{self._version}",
                "resourceVersion": self.versions.format(self._version),
            }
            lease = {**body, "metadata": {**body["metadata"], **version}}
            if any(body["spec"]["holderIdentity"] in pods for pods in self.services.values()):
                self.leases[name] = lease  # what nobody owns any more goes at once
            return lease
        assert method == "DELETE"
        assert body is not None
        name = where.rpartition("/")[2]
        if name not in self.leases:
            raise ApiError(Trouble.NOT_FOUND, "HTTP 404")
        if body["preconditions"]["uid"] != self.leases[name]["metadata"]["uid"]:
            raise ApiError(Trouble.CONFLICT, "HTTP 409")
        del self.leases[name]
        return {}

    def _slices(self, selector: str) -> dict[str, Any]:
        wanted = selector.partition("(")[2].rstrip(")").split(",") if selector else self.services
        return {
            "metadata": {},
            "items": [
                {
                    "metadata": {"labels": {"kubernetes.io/service-name": service}},
                    "endpoints": [
                        {
                            "addresses": ["10.0.0.1"],
                            "conditions": {"ready": ready, "serving": ready},
                            "targetRef": {"kind": "Pod", "name": pod, "uid": f"uid-of-{pod}"},
                        }
                        for pod, ready in self.services[service].items()
                    ],
                }
                for service in wanted
            ],
        }

    def end(self, pod: str) -> None:
        """Let a pod and what it owns go, as the garbage collector does a little later."""
        for endpoints in self.services.values():
            endpoints.pop(pod, None)
        self.leases = {
            name: lease
            for name, lease in self.leases.items()
            if lease["spec"]["holderIdentity"] != pod
        }


class Line(Client):
    """How one pod reaches the API server."""

    def __init__(self, server: Server, pod: str) -> None:
        super().__init__(Account("127.0.0.1", "1"))
        self._server = server
        self._pod = pod

    async def request(
        self,
        method: str,
        where: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        accept: str = JSON,
        patch: str = MERGE_PATCH,
    ) -> dict[str, Any]:
        server, chance = self._server, self._server.random
        await self._travel()
        if self._pod in server.cut_off:
            await asyncio.sleep(TIMEOUT)
            raise ApiError(Trouble.UNREACHABLE, "no answer")
        if method == "DELETE" and server.delayed:
            late = asyncio.create_task(self._arrive(server.delayed.pop(), method, where, body))
            server.late.add(late)
            raise ApiError(Trouble.UNREACHABLE, "lost")
        if chance.random() < server.faults:
            if method != "GET":
                late = asyncio.create_task(self._arrive_late(method, where, body))
                server.late.add(late)
            raise ApiError(chance.choice([Trouble.UNREACHABLE, Trouble.SERVER_ERROR]), "lost")
        answer = copy.deepcopy(server.carry_out(method, where, body, query))
        await self._travel()
        return answer

    async def _travel(self) -> None:
        chance = self._server.random
        slow = 20 if chance.random() < 0.02 else 1
        await asyncio.sleep(chance.expovariate(1 / self._server.latency) * slow)

    async def _arrive_late(self, method: str, where: str, body: Mapping[str, Any] | None) -> None:
        chance = self._server.random
        if chance.random() >= 0.3:  # else never
            delay = chance.choice((0.0, chance.uniform(0, 5), chance.uniform(0, 50)))
            await self._arrive(delay, method, where, body)

    async def _arrive(
        self, delay: float, method: str, where: str, body: Mapping[str, Any] | None
    ) -> None:
        await asyncio.sleep(delay)
        with contextlib.suppress(ApiError):
            self._server.carry_out(method, where, body, None)


class Pod:
    """One pod with a sidecar of its own; what its application is like is said by `becomes`."""

    def __init__(self, fleet: "Fleet", name: str, services: Iterable[str]) -> None:
        self.fleet = fleet
        self.name = name
        self.services = tuple(services)
        self.failed_at: float | None = asyncio.get_running_loop().time()
        """Since when it serves nobody, for another reason than that it left of its own will."""
        self._failed_until = 0.0
        for service in self.services:
            fleet.server.services.setdefault(service, {})[name] = False
        self.start()
        self.kubelet = asyncio.create_task(self._watch())

    def start(self) -> None:
        """A new life of the sidecar, which remembers nothing."""
        clock = asyncio.get_running_loop().time
        server = self.fleet.server
        self.board = Board([Target(8080)], clock=clock)
        self.told: list[str] = []
        self.departure = Departure(
            Line(server, self.name),
            self.fleet.identity or Identity(self.name, "shop", f"uid-of-{self.name}"),
            self.fleet.terms,
            self.board,
            Troubles(),
            told=self.told.append,
            chance=server.random.random,
        )
        self.board.subscribe(self.departure.on_transition)
        self.board.gate_ready(self.departure.keeps)
        self.sidecar = asyncio.create_task(self.departure.run())
        self.becomes(STARTING)

    def becomes(self, verdict: Verdict) -> None:
        now = self.board.clock()
        before = self.board.entries["8080"].verdict
        self.board.publish(
            "8080", Observation(now), verdict, Transition("8080", now, before, verdict)
        )
        if verdict is WELL:
            self.failed_at = None
        elif verdict is not SATURATED:
            self.failed_at = now if self.failed_at is None else self.failed_at
            self._failed_until = math.inf  # until it is no worse than overloaded for a while
        elif before is not SATURATED:
            self._failed_until = now + SETTLED

    def restart(self) -> None:
        """The sidecar ends, whatever it was at, and starts again."""
        verdict = self.board.entries["8080"].verdict
        self.sidecar.cancel()
        self.start()
        asyncio.get_running_loop().call_later(2.0, self.becomes, verdict)

    @property
    def serves(self) -> bool:
        return self.board.ready

    @property
    def has_left(self) -> bool:
        """Whether it is away of its own will."""
        if self.board.clock() >= self._failed_until:
            self.failed_at = None
        return not self.serves and self.failed_at is None

    async def _watch(self) -> None:
        chance = self.fleet.server.random
        await asyncio.sleep(chance.uniform(0, PERIOD))
        while True:
            ready = self.serves
            delay = chance.uniform(0.05, SHOWN - PERIOD)
            await asyncio.sleep(delay)
            for service in self.services:
                if self.name in (endpoints := self.fleet.server.services[service]):
                    endpoints[self.name] = ready
            await asyncio.sleep(PERIOD - delay)


class Fleet:
    """Pods, and what must hold of them at every moment."""

    def __init__(
        self,
        size: int,
        *,
        share: float = 0.5,
        unknown: Unknown = Unknown.STAY,
        seed: int = 0,
        faults: float = 0.0,
        latency: float = 0.03,
        services: Callable[[int], Iterable[str]] = lambda number: ("web",),
        identity: Identity | None = None,
    ) -> None:
        self.identity = identity
        self.server = Server(seed, faults, latency)
        self.terms = FloorTerms(share, unknown)
        self.pods = [Pod(self, f"web-{number}", services(number)) for number in range(size)]

    async def begin(self) -> None:
        """All are well, and long enough for all to know."""
        await asyncio.sleep(1.0)
        self.all_become(WELL)
        await asyncio.sleep(2 * SHOWN)
        self.server.asked.clear()

    def all_become(self, verdict: Verdict) -> None:
        for pod in self.pods:
            pod.becomes(verdict)

    def end(self, pod: Pod) -> None:
        """Delete a pod; what it owns goes with it."""
        self.pods.remove(pod)
        pod.sidecar.cancel()
        pod.kubelet.cancel()
        self.server.end(pod.name)

    @property
    def left(self) -> list[Pod]:
        return [pod for pod in self.pods if pod.has_left]

    @property
    def serving(self) -> int:
        return sum(pod.serves for pod in self.pods)

    def hold_the_floor(self, late: float) -> None:
        """Assert that whoever has left has its claim, and can be spared; what has failed for less
        than `late` seconds may be taken for serving, since nobody can know."""
        now = asyncio.get_running_loop().time()
        claims = {lease["spec"]["holderIdentity"] for lease in self.server.leases.values()}
        assert {pod.name for pod in self.left} <= claims, f"{now:.1f} s: away without a claim"
        for service in self.server.services:
            pods = [pod for pod in self.pods if service in pod.services]
            if not any(pod.has_left for pod in pods):
                continue
            needed = max(1, math.ceil(round(self.terms.share * (len(pods) - 1), 9)))
            serving = sum(
                pod.serves or (pod.failed_at is not None and now - pod.failed_at < late)
                for pod in pods
            )
            assert serving >= needed, f"{now:.1f} s: {serving} serve {service}, not {needed}"

    async def watch(self, seconds: float, late: float = 0.0, every: float = 0.05) -> None:
        """Hold the floor for so long."""
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            self.hold_the_floor(late)
            await asyncio.sleep(every)
