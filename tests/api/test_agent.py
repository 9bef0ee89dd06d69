"""HAProxy's agent-check, byte by byte and by a real HAProxy that moves its traffic."""

import asyncio
import csv
import io
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path

import pytest

from probe.api import agent as agents
from probe.api.agent import CLIENTS, Agent
from probe.model import Observation, Sample, Target, Verdict
from probe.sidecar.board import Board
from tests.api.service import (
    LISTENER,
    exchange,
    healthy,
    saturated,
    seen,
    stalled,
    suspect,
    unanswered,
)
from tests.faults.harness import Sidecar, application, sidecar
from tests.support import eventually

HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin")


@asynccontextmanager
async def at_work(*targets: Target) -> AsyncIterator[Agent]:
    agent = Agent(Board(targets or (Target(8080),)))
    await agent.start("127.0.0.1", 0)
    try:
        yield agent
    finally:
        await agent.close()


@asynccontextmanager
async def answering(*targets: Target) -> AsyncIterator[tuple[Board, int]]:
    async with at_work(*targets) as agent:
        yield agent.board, agent.addresses[0][1]


def publish(board: Board, verdict: Verdict, *samples: Observation) -> None:
    for observation in samples or (seen(board.clock(), LISTENER._replace(length=0)),):
        board.publish(verdict.target, observation, verdict, None)


async def line(port: int, said: bytes = b"") -> str:
    return (await exchange(port, said, finish=not said)).decode()


# --- the words


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (healthy(), "up ready 100%"),
        (suspect(), "up ready 100%"),
        (Verdict("8080"), "up drain #starting: 8080 not seen yet"),
        (
            unanswered(),
            "up drain #round_trip_failed/unanswered: 8080 round trip failed: no answer within 2 s",
        ),
        (
            saturated(),
            "up drain #accept_queue_saturated: 8080 accept queue saturated: 5 of 5 queued for 5 s",
        ),
        (
            stalled(),
            "down #accept_queue_stalled: 8080 accept queue stalled: 6 of 5 queued, nothing "
            "accepted for 12 s",
        ),
    ],
)
async def test_each_verdict_in_the_words_of_haproxy(verdict: Verdict, words: str) -> None:
    async with answering() as (board, port):
        publish(board, verdict)
        assert await line(port) == words + "\n"


async def test_one_stalled_target_is_down_however_the_others_fare() -> None:
    async with answering(Target(8080), Target(9000), Target(9001)) as (board, port):
        publish(board, unanswered("8080"))
        publish(board, stalled("9000", at=50.0))
        told = await line(port)
        assert told.startswith("down #round_trip_failed/unanswered: 8080 ")
        assert told.endswith("; 2 more of 3 targets: 9000 accept_queue_stalled, 9001 starting\n")


async def test_shutting_down_drains() -> None:
    async with answering() as (board, port):
        publish(board, healthy())
        board.shut_down()
        assert await line(port) == "up drain #shutting_down: the sidecar is shutting down\n"


async def test_the_weight_falls_with_the_fullest_queue_on_the_average_of_seconds() -> None:
    async with answering(Target(8080), Target(9000)) as (board, port):
        publish(board, healthy("9000"))

        def filled(ago: float, length: int, limit: int | None = 5) -> Observation:
            full = LISTENER._replace(length=length, limit=limit)
            return seen(board.clock() - ago, full, LISTENER._replace(length=0, limit=limit))

        publish(board, healthy("8080"), filled(60, 5), filled(2, 0), filled(1, 1), filled(0.1, 2))
        assert await line(port) == "up ready 80%\n"
        for _ in range(6):
            publish(board, suspect("8080"), filled(0.0, 6))
        told = await line(port)
        assert told == "up ready 27%\n"
        assert await line(port, b"9000\n") == "up ready 100%\n"


async def test_what_is_not_known_of_a_queue_takes_no_weight_and_all_of_it_leaves_one() -> None:
    async with answering() as (board, port):
        now = board.clock()
        blind = Observation(now, Sample(error="refused"))
        publish(board, healthy(), blind, seen(now, LISTENER._replace(limit=None)))
        assert await line(port) == "up ready 100%\n"
        publish(board, suspect(), *[seen(now, LISTENER._replace(length=6)) for _ in range(300)])
        assert await line(port) == "up ready 1%\n"


# --- the clients


async def test_agent_send_names_a_target() -> None:
    async with answering(Target(8080), Target(9000)) as (board, port):
        publish(board, healthy("8080"))
        publish(board, stalled("9000"))
        assert await line(port, b"8080\n") == "up ready 100%\n"
        assert await line(port, b" 8080 \r\nmore") == "up ready 100%\n"
        assert (await line(port, b"9000\n")).startswith("down #")
        assert (await line(port, b"")).startswith("down #")
        assert await line(port, b"7\n") == "error:no_target_7_here_but_8080_9000\n"
        strange = await line(port, b"\x1b[2J,\xff#down up 50%" * 90)
        assert strange.startswith("error:no_target_")
        assert strange[:-1].isprintable()
        assert len(strange.split()) == 1


async def test_who_names_nobody_is_told_of_all_without_closing_first() -> None:
    async with answering() as (board, port):
        publish(board, healthy())
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b"up ready 100%\n"
        writer.close()
        await writer.wait_closed()


async def test_clients_are_few_and_those_who_linger_are_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agents, "PATIENCE", 60.0)  # Nobody leaves while the others come.
    async with at_work() as agent:
        _, port = agent.addresses[0]
        publish(agent.board, healthy())
        inside = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CLIENTS)]
        assert await exchange(port, b"8080\n") == b"", "a crowd is inside: this one is cut off"
        for _, writer in inside:
            writer.write(b"8080\n")
        for reader, _ in inside:
            assert await reader.readline() == b"up ready 100%\n"
        for reader, writer in inside:
            with suppress(ConnectionError):
                await reader.read()
                writer.write(b"still here")
                await writer.drain()
            writer.transport.abort()
        await eventually(lambda: not agent.clients)
        assert await line(port, b"8080\n") == "up ready 100%\n"


async def test_a_taken_port_is_told_in_one_line() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            OSError, match=f"cannot listen on 127.0.0.1:{port}: .*with --agent-listen"
        ):
            await Agent(Board([Target(8080)])).start("127.0.0.1", port)


# --- a real HAProxy

CONFIGURATION = """
global
    stats socket {folder}/admin.sock
defaults
    mode http
    timeout connect 1s
    timeout client 10s
    timeout server 10s
frontend web
    bind 127.0.0.1:7000
    default_backend web
backend web
    balance roundrobin
    option redispatch
    {servers}
"""


class Proxy:
    """HAProxy with its servers; what it thinks of them by its own statistics."""

    def __init__(self, folder: Path) -> None:
        self._admin = folder / "admin.sock"

    def servers(self) -> dict[str, dict[str, str]]:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self._admin))
            client.sendall(b"show stat\n")
            told = b"".join(iter(lambda: client.recv(65536), b"")).decode()
        rows = csv.DictReader(io.StringIO(told.removeprefix("# ")))
        return {row["svname"]: row for row in rows if row["pxname"] == "web"}

    def until(self, within: float, **wanted: str) -> dict[str, dict[str, str]]:
        """Its servers, once each has the status that is wanted of it."""
        return self._until(
            within,
            lambda servers: all(servers[name]["status"] == wanted[name] for name in wanted),
        )

    def until_told(self, within: float, name: str, words: str) -> dict[str, str]:
        """A server, once its agent has said these words."""
        return self._until(within, lambda servers: words in servers[name]["last_agt"])[name]

    def _until(
        self, within: float, so: Callable[[dict[str, dict[str, str]]], bool]
    ) -> dict[str, dict[str, str]]:
        deadline = time.monotonic() + within
        while not so(servers := self.servers()):
            assert time.monotonic() < deadline, servers
            time.sleep(0.02)
        return servers

    def sent(self, requests: int) -> dict[str, int]:
        """How many of so many good answers each server has given."""
        before = self.servers()
        for _ in range(requests):
            with urllib.request.urlopen("http://127.0.0.1:7000/", timeout=5) as answer:
                assert answer.status == 200
        after = self.servers()
        return {name: int(after[name]["stot"]) - int(before[name]["stot"]) for name in ("a", "b")}


@contextmanager
def haproxy(folder: Path, *servers: str) -> Iterator[Proxy]:
    if HAPROXY is None:
        pytest.skip("haproxy is not installed")
    file = folder / "haproxy.cfg"
    file.write_text(CONFIGURATION.format(folder=folder, servers="\n    ".join(servers)))
    with subprocess.Popen([HAPROXY, "-f", str(file)], stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 20
            while not (folder / "admin.sock").exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield Proxy(folder)
        finally:
            process.terminate()


def agent_port(watching: Sidecar) -> int:
    (event,) = (event for event in watching.events if event.get("event") == "agent")
    return int(event["port"])


def test_haproxy_moves_its_traffic_away_from_who_stalls_and_back(tmp_path: Path) -> None:
    def server(name: str, port: int, agent: int) -> str:
        # A share of a weight is a whole number: of the default, 1, there is no 80 %.
        check = f"agent-check agent-port {agent} agent-inter 500ms"
        return f"server {name} 127.0.0.1:{port} weight 100 {check}"

    options = ("--agent-listen", "127.0.0.1:0", "--stalled-for", "1s", "--interval", "500ms")
    with (
        application() as a,
        application() as b,
        sidecar("--port", str(a.port), *options) as beside_a,
        sidecar("--port", str(b.port), *options) as beside_b,
    ):
        for each in (beside_a, beside_b):
            each.until(10, condition="healthy", ready=True)
        servers = (
            server("a", a.port, agent_port(beside_a)),
            server("b", b.port, agent_port(beside_b)),
        )
        with haproxy(tmp_path, *servers) as proxy:
            proxy.until(10, a="no check", b="no check")
            assert proxy.sent(10) == {"a": 5, "b": 5}
            a.stop()
            beside_a.until(10, reason="accept_queue_stalled", ready=False)
            told = proxy.until(10, a="DOWN (agent)", b="no check")
            assert told["a"]["agent_status"].lstrip("* ") == "L7STS"
            assert proxy.sent(10) == {"a": 0, "b": 10}
            a.resume()
            beside_a.until(10, condition="healthy", ready=True)
            proxy.until(10, a="no check", b="no check")
            assert proxy.sent(10)["a"] > 0


async def test_haproxy_understands_every_word(tmp_path: Path) -> None:
    """One server asks about all targets, one about its own, one about what is no target."""
    async with answering(Target(8080), Target(9000)) as (board, port):
        check = f"127.0.0.1:1 weight 100 agent-check agent-port {port} agent-inter 500ms"
        servers = (
            f"server a {check}",
            f'server b {check} agent-send "8080\\n"',
            f'server c {check} agent-send "7\\n"',
        )
        publish(board, healthy("8080"), seen(board.clock(), LISTENER._replace(length=2)))
        publish(board, healthy("9000"))
        with haproxy(tmp_path, *servers) as proxy:

            async def until(**wanted: str) -> None:
                await asyncio.to_thread(proxy.until, 10, **wanted)

            async def until_told(name: str, words: str) -> dict[str, str]:
                return await asyncio.to_thread(proxy.until_told, 10, name, words)

            assert (await until_told("a", "via agent : up"))["weight"] == "60"
            refused = await until_told("c", "agent reports an error : error:no_target_7_here")
            assert (refused["status"], refused["weight"]) == ("no check", "100")
            publish(board, unanswered("9000"))
            await until(a="DRAIN (agent)", b="no check")
            await until_told("a", "(round_trip_failed/unanswered: 9000 round trip")
            publish(board, stalled("9000"))
            await until(a="DOWN (agent)", b="no check")
            publish(board, unanswered("9000"))
            await until(a="DRAIN (agent)", b="no check")
            publish(board, healthy("9000"))
            await until(a="no check", b="no check")
            publish(
                board, healthy("8080"), *[seen(board.clock(), LISTENER._replace(length=0))] * 90
            )
            board.shut_down()
            await until(a="DRAIN (agent)", b="DRAIN (agent)", c="no check")


def test_a_line_fits_what_haproxy_reads() -> None:
    board = Board(Target(port) for port in range(10_000, 10_064))
    for name in board.entries:
        publish(board, stalled(name))
    told = agents.line(board, None)
    assert told.startswith("down #accept_queue_stalled: 10000 ")
    assert len(told) == agents.LINE
