"""`probe hold`: who is heard, for how long it lasts, and that everyone is told."""

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from probe.model import Condition, Hold, Observation, Reason, Target, Verdict
from probe.sidecar import hold
from probe.sidecar.board import Board
from probe.sidecar.hold import LONGEST, HoldKeeper, HoldReply, NotHeard, ask
from probe.sidecar.logs import Narrator
from tests.evidence.identities import APPLICATION, SIDECAR, become, needs_other_users, seen_by
from tests.faults.harness import application, watched
from tests.support import in_background

PORT = 9809
SETGID, SETUID = 6, 7
"""Capabilities, of linux/capability.h."""
DEAD = Verdict(
    "8080",
    Condition.UNHEALTHY,
    Reason.ACCEPT_QUEUE_STALLED,
    None,
    "8080 stalled",
    0.0,
    0.0,
    live=False,
)


@asynccontextmanager
async def keeping(board: Board) -> AsyncIterator[None]:
    """A keeper that hears by now."""
    async with in_background(HoldKeeper(board, PORT).run()):
        await asyncio.sleep(0)
        yield


def dead_board() -> Board:
    board = Board([Target(8080)])
    board.publish("8080", Observation(0.0), DEAD, None)
    return board


async def asked(seconds: float, *, ready: bool = False) -> HoldReply:
    return await asyncio.to_thread(ask, PORT, seconds, ready=ready)


def told(board: Board) -> asyncio.Queue[tuple[Hold | None, Hold | None]]:
    """The changes, one after the other."""
    changes: asyncio.Queue[tuple[Hold | None, Hold | None]] = asyncio.Queue()
    board.hear_of_holds(lambda *change: changes.put_nowait(change))
    return changes


async def test_a_hold_keeps_live_good_and_ready_only_if_asked_to() -> None:
    board = dead_board()
    async with keeping(board):
        assert (board.live, board.ready) == (False, False)
        assert not (await asked(60)).held_before
        assert (board.live, board.ready) == (True, False)
        assert (await asked(60, ready=True)).held_before
        assert (board.live, board.ready) == (True, True)
        board.shut_down()
        assert not board.ready, "the pod is about to go, whatever anybody holds"
        assert (await asked(0)).held_before
        assert (board.live, board.ready) == (False, False)
        assert not (await asked(0)).held_before


async def test_a_hold_ends_by_itself_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    board = dead_board()
    Narrator(board)
    changes = told(board)
    async with keeping(board):
        await asked(0.2)
        _, begun = await changes.get()
        assert board.live
        assert begun is not None
        async with asyncio.timeout(10):
            before, after = await changes.get()
        assert (before, after) == (begun, None)
        assert board.clock() >= begun.until
        assert (board.live, board.held) == (False, None)
    first, last = (record.message for record in caplog.records)
    by = f"uid {os.geteuid()} (process {os.getpid()})"
    assert first.startswith("/live is held good until 20")
    assert first.endswith(f"Z, as {by} asked; `probe release` ends it")
    assert last == "the hold is over: /live says again what is found"


async def test_a_later_hold_takes_the_place_of_an_earlier_one() -> None:
    board = dead_board()
    changes = told(board)
    async with keeping(board):
        await asked(0.2)
        await asked(3600)
        first, second = [(await changes.get())[1] for _ in range(2)]
        assert first is not None
        assert second is not None
        with suppress(TimeoutError):
            async with asyncio.timeout_at(first.until + 0.2):
                raise AssertionError(await changes.get())
        assert board.live


@needs_other_users
@pytest.mark.parametrize(("uid", "heard"), [(SIDECAR, True), (0, True), (APPLICATION, False)])
def test_its_own_user_and_root_are_heard_and_nobody_else(uid: int, heard: bool) -> None:
    """By the kernel's word on who has connected: what he says himself is of no account."""

    def say() -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(10)
            connection.connect(hold.address(PORT))
            with suppress(ConnectionResetError, BrokenPipeError):
                connection.send(b'{"seconds": 60, "ready": false}')
                return connection.recv(1024)
        return b""

    async def scene() -> None:
        board = dead_board()
        async with keeping(board):
            answer = await asyncio.to_thread(seen_by, lambda: become(uid, uid), say)
            assert bool(answer) is heard
            assert board.live is heard

    def sidecar() -> bool:
        asyncio.run(scene())
        return True

    # The sidecar is a user of its own; that it may become others is for the sake of this test.
    assert seen_by(lambda: become(SIDECAR, SIDECAR, SETGID, SETUID), sidecar)


@needs_other_users
async def test_who_is_not_heard_is_told_why() -> None:
    async with keeping(dead_board()):

        def refused() -> str:
            with pytest.raises(NotHeard) as error:
                ask(PORT, 60)
            return str(error.value)

        why = await asyncio.to_thread(seen_by, lambda: become(APPLICATION, 0), refused)
        assert why == f"what answers runs as uid 0, which hears itself and root; not {APPLICATION}"


@pytest.mark.parametrize(
    "question",
    [
        b"{",
        b"[]",
        b"[" * 1000,
        b"{}",
        b'{"seconds": "x", "ready": false}',
        b'{"seconds": NaN, "ready": false}',
        b'{"seconds": -1, "ready": false}',
        b'{"seconds": 1e999, "ready": false}',
        json.dumps({"seconds": LONGEST + 1, "ready": False}).encode(),
        b"\xff" * 4096,
    ],
)
async def test_what_makes_no_sense_is_refused_and_holds_nothing(question: bytes) -> None:
    board = dead_board()
    async with keeping(board):

        def say() -> bytes:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
                connection.settimeout(10)
                connection.connect(hold.address(PORT))
                connection.send(question)
                return connection.recv(1024)

        assert "refused" in json.loads(await asyncio.to_thread(say))
        assert not board.live
        await asked(60)
        assert board.live


async def test_who_says_nothing_keeps_the_others_waiting_for_a_second_at_most() -> None:
    board = dead_board()
    async with keeping(board):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
            silent.connect(hold.address(PORT))
            await asked(60)
            assert board.live


def test_where_nobody_keeps_holds_it_is_said_what_to_do() -> None:
    with pytest.raises(NotHeard, match="no sidecar of port 9809 is in this network namespace"):
        ask(PORT, 60)


async def test_somebody_else_at_its_address_costs_the_hold_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    board = dead_board()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.bind(hold.address(PORT))
        async with keeping(board):
            pass
    assert caplog.messages == ["`probe hold` cannot be used: Address already in use"]


def probe(*words: str) -> tuple[int, str, str]:
    ran = subprocess.run(
        [sys.executable, "-m", "probe", *words], capture_output=True, text=True, check=False
    )
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.slow
def test_a_dead_application_is_held_and_released_by_hand() -> None:
    """From end to end: the command, the answers of a real sidecar, and the end of it."""
    with application() as app, watched(app, "--live-after=4s") as sidecar:
        where = f"--listen=127.0.0.1:{sidecar.port}"
        status, said, _ = probe("hold", "--for=10m", where)
        assert status == 0
        assert said.startswith("live until 20")
        assert sidecar.status()["held"]["ready"] is False
        assert sidecar.get("/ready")[1].startswith("ready: live is held by hand until 20")
        app.stop()
        sidecar.until(30, event="transition", live=False)
        code, line = sidecar.get("/live")
        assert code == 200
        assert "Z; without that not live: accept_queue_stalled: " in line
        asked_of = f"127.0.0.1:{sidecar.port}"
        status, line, _ = probe("check", "--live", "--sidecar", asked_of)
        assert status == 0
        assert line.startswith("live: held by hand until 20")
        assert sidecar.get("/ready")[0] == 503
        assert probe("release", where)[:2] == (0, "released: live says again what is found\n")
        assert sidecar.get("/live")[0] == 503
        assert probe("release", where)[:2] == (0, "nothing was held\n")
    status, _, said = probe("hold", where)
    assert status == 1
    assert "no sidecar of port" in said
