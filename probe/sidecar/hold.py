"""`probe hold`: for a bounded time /live stays good, whatever is found, while somebody debugs.

It is asked for by an abstract unix socket, which belongs to the network namespace and not to a file
system: a read-only root is no hindrance, and nothing is left behind. Every container of the pod can
reach it, so the kernel is asked who it was that connected (unix(7), SO_PEERCRED): our own user and
root are heard, and nobody else. Nothing of this can be done over the network.

A hold lives in this process alone and ends with it: what nobody renews is not to last.
"""

import asyncio
import json
import logging
import os
import socket
import struct
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

from probe.display import utc
from probe.model import Hold
from probe.sidecar.board import Board

logger = logging.getLogger(__name__)

LONGEST = 24 * 3600.0
"""Seconds that can be asked for at once."""

PATIENCE = 1.0
"""Seconds that a conversation may take. There is one at a time."""

PAUSE = 0.05
"""Seconds from one to the next: whoever connects for ever is heard 20 times a second."""

WAITING = 8
"""Conversations that wait for their turn."""

MESSAGE = 1024
"""Bytes of a question or an answer at most: each is one packet, of JSON."""

REFUSALS = 100
"""Users whose refusal is logged, each once."""

ASKING = struct.pack("ll", 3, 0)
"""A struct timeval: how long who asks waits for each step."""

CREDENTIALS = struct.Struct("iII")
"""struct ucred (linux/socket.h): pid, uid and gid as our namespaces have them. The pid is 0 where
it is out of our sight, and the uid the effective one (net/core/sock.c, cred_to_ucred)."""


def address(port: int) -> str:
    """The abstract name (it begins with a null byte) of the sidecar that answers on this port."""
    return f"\0accept-probe/hold/{port}"


def peer(connection: socket.socket) -> tuple[int, int]:
    """The pid and the uid of who is at the other end."""
    size = CREDENTIALS.size
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, uid, _ = CREDENTIALS.unpack(told)
    return pid, uid


# --- in the sidecar


class HoldKeeper:
    """Takes to the board what is asked for, and ends each hold in time."""

    def __init__(self, board: Board, port: int) -> None:
        self._board = board
        self._port = port
        self._hold: Hold | None = None
        self._changed = asyncio.Event()
        self._refused: set[int] = set()
        board.hear_of_holds(self._hear_of)

    async def run(self) -> NoReturn:
        """Until cancelled. Where somebody else has our address, nobody is heard: that is said."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._end_in_time())
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
                try:
                    listener.bind(address(self._port))
                    listener.listen(WAITING)
                except OSError as error:
                    logger.warning("`probe hold` cannot be used: %s", error.strerror)
                else:
                    listener.setblocking(False)
                    await self._answer(listener)
        raise AssertionError("the tasks end by cancellation only")

    def _hear_of(self, _before: Hold | None, after: Hold | None) -> None:
        self._hold = after
        self._changed.set()

    async def _end_in_time(self) -> NoReturn:
        while True:
            self._changed.clear()
            left = None if self._hold is None else self._hold.until - self._board.clock()
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                self._board.hold(None)

    async def _answer(self, listener: socket.socket) -> NoReturn:
        loop = asyncio.get_running_loop()
        while True:
            # Descriptors may be short, and who asks may have gone, or be silent.
            with suppress(OSError, TimeoutError):
                connection, _ = await loop.sock_accept(listener)
                with connection:
                    async with asyncio.timeout(PATIENCE):
                        await self._converse(connection)
            await asyncio.sleep(PAUSE)

    async def _converse(self, connection: socket.socket) -> None:
        pid, uid = peer(connection)
        if uid not in (0, os.geteuid()):
            if uid not in self._refused and len(self._refused) < REFUSALS:
                self._refused.add(uid)
                logger.warning("hold: uid %d (process %d) was not heard: it is not ours", uid, pid)
            return
        loop = asyncio.get_running_loop()
        connection.setblocking(False)
        if question := await loop.sock_recv(connection, MESSAGE):
            answer = self._carry_out(question, f"uid {uid} (process {pid})")
            await loop.sock_sendall(connection, json.dumps(answer).encode())

    def _carry_out(self, question: bytes, by: str) -> dict[str, Any]:
        try:
            asked = json.loads(question)
            seconds, ready = float(asked["seconds"]), bool(asked["ready"])
        except (ValueError, TypeError, KeyError, RecursionError):
            return {"refused": "that is no question of this version"}
        if not 0 <= seconds <= LONGEST:  # which NaN is not, either
            return {"refused": f"it may be held for {LONGEST / 3600:g} h at the most"}
        board, before = self._board, self._board.held
        hold = Hold(board.clock() + seconds, board.wall() + seconds, ready, by)
        board.hold(hold if seconds else None)
        return {"until": utc(hold.ends), "held_before": before is not None}


# --- beside it


class NotHeard(Exception):
    """The sidecar has not done what was asked; str() says why in one line."""


class HoldReply(NamedTuple):
    """What it has done: until when it holds, in words, and whether it held before."""

    until: str
    held_before: bool


def ask(port: int, seconds: float, *, ready: bool = False) -> HoldReply:
    """Ask the sidecar beside us for a hold of so many seconds; 0 ends it. Raises NotHeard."""
    us = os.geteuid()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        # A timeout of Python's would make it non-blocking, and a full queue an error at once.
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            connection.setsockopt(socket.SOL_SOCKET, option, ASKING)
        try:
            connection.connect(address(port))
            _, them = peer(connection)
            if us not in (0, them):
                raise NotHeard(
                    f"what answers runs as uid {them}, which hears itself and root; not {us}"
                )
            connection.sendall(json.dumps({"seconds": seconds, "ready": ready}).encode())
            answer = connection.recv(MESSAGE)
        except ConnectionRefusedError:
            raise NotHeard(
                f"no sidecar of port {port} is in this network namespace: run it in the sidecar's "
                "container, and say --listen as there"
            ) from None
        except BlockingIOError:
            raise NotHeard("the sidecar does not answer in time") from None
        except OSError as error:
            raise NotHeard(f"the sidecar does not answer: {error.strerror}") from None
    try:
        told = json.loads(answer)
        if "refused" in told:
            raise NotHeard(str(told["refused"]))
        return HoldReply(str(told["until"]), bool(told["held_before"]))
    except (ValueError, TypeError, KeyError):
        raise NotHeard("what answers is no sidecar of this version") from None
