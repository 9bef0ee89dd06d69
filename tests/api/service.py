"""A board behind the real server on a real port, and a client that sees every byte."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from probe.api.clients import Limits
from probe.api.metrics import Metrics
from probe.api.pages import runner
from probe.api.replies import Replies
from probe.api.server import Server
from probe.api.status import About, Sources
from probe.api.view.live import Live, LiveLimits
from probe.imports.aiohttp_lean import web
from probe.model import (
    Condition,
    Listener,
    Observation,
    Outcome,
    Phases,
    Policy,
    Reason,
    RoundTrip,
    Sample,
    Stage,
    Target,
    Transition,
    Verdict,
)
from probe.sidecar.board import Board

LISTENER = Listener(2, "0.0.0.0", 8080, 0x1F, 3, 5, 0, 4711, 1000)


class Service(NamedTuple):
    board: Board
    metrics: Metrics
    server: Server
    port: int

    def publish(self, verdict: Verdict, observation: Observation | None = None) -> None:
        """Put a verdict on the board, as a step of the judge would."""
        at = self.board.clock()
        before = self.board.entries[verdict.target].verdict
        changed = Transition(verdict.target, at, before, verdict) if verdict != before else None
        self.board.publish(verdict.target, observation or Observation(at), verdict, changed)


@asynccontextmanager
async def serving(
    *targets: Target,
    limits: Limits | None = None,
    routes: Iterable[web.AbstractRouteDef] = (),
    host: str = "",
    port: int = 0,
    live: LiveLimits = LiveLimits(),  # noqa: B008
) -> AsyncIterator[Service]:
    """Serve a board, by default one target, 8080, on a free port."""
    board = Board(targets or (Target(8080),))
    about = About("sock_diag", Policy(), board.clock())
    metrics = Metrics(board, about)
    replies = Replies(board, about, metrics)
    views = partial(Live, Sources(board, about, lambda: metrics.lag), live)
    server = Server(replies, partial(runner, routes), views, limits or Limits())
    await server.start(host, port)
    try:
        yield Service(board, metrics, server, server.addresses[0][1])
    finally:
        await server.close()


def healthy(target: str = "8080", at: float = 0.0) -> Verdict:
    return Verdict(
        target, Condition.HEALTHY, None, None, f"{target} healthy", at, None, True, True, True
    )


def stalled(target: str = "8080", at: float = 0.0, *, live: bool = True) -> Verdict:
    return Verdict(
        target,
        Condition.UNHEALTHY,
        Reason.ACCEPT_QUEUE_STALLED,
        None,
        f"{target} accept queue stalled: 6 of 5 queued, nothing accepted for 12 s",
        since=at,
        incident=at,
        ready=False,
        live=live,
        started=True,
    )


def suspect(target: str = "8080", at: float = 0.0) -> Verdict:
    return stalled(target, at)._replace(condition=Condition.SUSPECT, ready=True)


def saturated(target: str = "8080", at: float = 0.0) -> Verdict:
    message = f"{target} accept queue saturated: 5 of 5 queued for 5 s"
    return stalled(target, at)._replace(reason=Reason.ACCEPT_QUEUE_SATURATED, message=message)


def unanswered(target: str = "8080", at: float = 0.0) -> Verdict:
    return Verdict(
        target,
        Condition.UNHEALTHY,
        Reason.ROUND_TRIP_FAILED,
        Stage.UNANSWERED,
        f"{target} round trip failed: no answer within 2 s",
        since=at,
        incident=at,
        started=True,
    )


def seen(at: float, *listeners: Listener) -> Observation:
    """Return a sample of `listeners`; of one listener if none is given."""
    return Observation(at, Sample(listeners or (LISTENER,), accepts=100))


def good_trip(at: float) -> Observation:
    phases = Phases(0.0001, 0.0002, None, 0.003, 0.004)
    return Observation(
        at, round_trip=RoundTrip(at, Outcome.OK, status=200, accepted=True, phases=phases)
    )


def failed_trip(at: float, stage: Stage = Stage.UNANSWERED) -> Observation:
    phases = Phases(0.0001, 0.0002, None, None, 2.0)
    return Observation(
        at,
        round_trip=RoundTrip(
            at, Outcome.FAILED, stage, "no answer within 2 s", accepted=True, phases=phases
        ),
    )


# --- the client


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def first_line(self) -> str:
        return self.text.partition("\n")[0]


async def get(
    port: int,
    path: str,
    *headers: str,
    method: str = "GET",
    source: str = "",
    to: str = "127.0.0.1",
) -> Reply:
    """Make one request on a connection of its own, from the address `source` where it is given."""
    reader, writer = await asyncio.open_connection(
        to, port, local_addr=(source, 0) if source else None
    )
    try:
        writer.write(request(path, *headers, method=method, close=True))
        return await read_reply(reader, method)
    finally:
        writer.close()
        await writer.wait_closed()


async def check(service: Service, name: str) -> str:
    """`SERVING`, or the error in the form in which kubelet's library knows it."""

    def call() -> str:
        with grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                said = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=30)
            except grpc.RpcError as error:
                return f"{error.code().name}: {error.details()}"
            return str(health_pb2.HealthCheckResponse.ServingStatus.Name(said.status))

    return await asyncio.to_thread(call)


def request(path: str, *headers: str, method: str = "GET", close: bool = False) -> bytes:
    lines = [f"{method} {path} HTTP/1.1"]
    if not any(header.lower().startswith("host:") for header in headers):
        lines.append("Host: localhost")
    lines += headers
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode()


async def read_reply(reader: asyncio.StreamReader, method: str = "GET") -> Reply:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    status_line, *lines = head.rstrip("\r\n").split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    length = 0 if method == "HEAD" else int(headers.get("content-length", 0))
    return Reply(int(status_line.split()[1]), headers, await reader.readexactly(length))


async def exchange(port: int, raw: bytes, *, finish: bool = False) -> bytes:
    """Send raw bytes and return all that comes back until the server closes, or resets."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        writer.write(raw)
        if finish:
            writer.write_eof()
        while piece := await reader.read(65536):
            answer += piece
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
    return answer
