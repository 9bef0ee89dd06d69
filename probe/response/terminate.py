"""`--on-stall terminate`: the sidecar ends the stalled container, and kubelet starts it again.

SIGTERM goes to the container's first process, as kubelet's would, and SIGKILL after a grace. It is
chosen twice, and signalled through a pidfd that was opened in between, so that no other process is
ever hit that has its number by now. What is not clear is left alone: a listener that several
containers hold, or our own; a first process of another user, or one that cannot be told.

When a first process has ended, the runtime ends all that is left of its container. Whoever holds
the listener even then gets SIGKILL too, since no successor could listen there.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from probe.evidence.acceptors.owners import Owners
from probe.evidence.access import self_test
from probe.evidence.proc.files import reason
from probe.evidence.proc.tasks import Gone, stat
from probe.model import Listener, OnStall
from probe.response.containers import (
    Process,
    UnclearContainer,
    container_of,
    first_process,
    mounts,
)
from probe.response.stalls import OVER, Declined, Response, Stall
from probe.sidecar.board import Board

logger = logging.getLogger(__name__)

GRACE = 10.0
"""Seconds from SIGTERM to SIGKILL."""

LOOK = 5.0
"""Seconds to wait for one more sample of the stall, before anything is ended."""

REAPED = 5.0
"""Seconds after SIGKILL in which a process is gone, unless it sleeps deep in the kernel."""

LEFT_OVER = 1.0
"""Seconds after the end of a first process in which the runtime ends the rest of its container."""


class Doomed(NamedTuple):
    """The first process of the one container that holds some listeners."""

    first: Process
    container: str


def choose(listeners: Sequence[Listener], proc: str = "/proc") -> Doomed:
    """Whom to end so that these listeners are opened anew. Raises Declined.

    It looks through the descriptors of every process, 5 to 7 us each: to be called in a thread.
    """
    holders = Owners(proc).find(listener.inode for listener in listeners)
    owners = {owner.pid: owner for found in holders.owners.values() for owner in found}
    if not owners:
        raise Declined(_hindrance(listeners))
    try:
        containers = {container_of(pid, proc): pid for pid in owners}
        if mounts("self", proc) in containers:
            raise Declined("the listener is held in the sidecar's own container")
        if len(containers) > 1:
            held = " and ".join(
                f"process {pid} `{owners[pid].comm}`" for pid in sorted(containers.values())
            )
            raise Declined(f"the listener is held in {len(containers)} containers, by {held}")
        ((container, member),) = containers.items()
        return Doomed(first_process(container, member, proc), container)
    except UnclearContainer as unclear:
        raise Declined(str(unclear)) from unclear
    except PermissionError as error:
        raise Declined(f"the container of the listener cannot be told: {reason(error)}") from error
    except Gone:
        raise Declined("who holds the listener ended while that was looked at") from None


def _hindrance(listeners: Sequence[Listener]) -> str:
    """Why nobody is in sight who holds these listeners, and what to change."""
    for access in self_test(listeners):
        if not access.available:
            return f"{access.why}; {access.change}" if access.change else access.why
    return "no process in sight holds the listener"


def aim(listeners: Sequence[Listener]) -> tuple[Doomed, int]:
    """Whom to end, and a pidfd that reaches nobody else, for the caller to close. Raises Declined.

    It is chosen before and after the pidfd is opened: a process that was there both times was there
    in between, and its number was not another's.
    """
    doomed = choose(listeners)
    try:
        pidfd = os.pidfd_open(doomed.first.pid)
    except OSError as error:
        raise Declined(f"{doomed.first} cannot be signalled: {reason(error)}") from error
    try:
        signal.pidfd_send_signal(pidfd, 0)  # which asks for the right alone: kill(2)
        if choose(listeners) != doomed:
            raise Declined(f"{doomed.first} was another at a second look")
    except OSError as error:
        os.close(pidfd)
        raise Declined(f"{doomed.first} cannot be signalled: {reason(error)}") from error
    except Declined:
        os.close(pidfd)
        raise
    return doomed, pidfd


def end_rest(doomed: Doomed, listeners: Sequence[Listener], proc: str = "/proc") -> list[Process]:
    """End whoever of its container holds these listeners even now; return them."""
    found = Owners(proc).find(listener.inode for listener in listeners).owners.values()
    ended = []
    for owner in {owner.pid: owner for holders in found for owner in holders}.values():
        try:
            pidfd = os.pidfd_open(owner.pid)
        except ProcessLookupError:
            continue
        with suppress(*Gone, PermissionError):
            same = stat(proc, owner.pid).start_time == owner.start_time
            if same and container_of(owner.pid, proc) == doomed.container:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                ended.append(Process(owner.pid, owner.start_time, owner.comm))
        os.close(pidfd)
    return ended


class Terminate(Response):
    """Ends the container that holds the stalled listener."""

    kind = OnStall.TERMINATE
    events = ("Terminated", "NotTerminated")
    action = "Terminate"
    refusal = "not ended"

    def __init__(self, board: Board, grace: float = GRACE) -> None:
        super().__init__(board.clock)
        self.within = LOOK + grace + REAPED + 2 * LEFT_OVER
        self._board = board
        self._grace = grace
        self._observed = asyncio.Event()
        board.observe(lambda target, observation: self._observed.set())

    async def check(self, target: str) -> str:
        """Say who would be ended if this target stalled now."""
        doomed, pidfd = await asyncio.to_thread(aim, self._board.entries[target].listeners)
        os.close(pidfd)
        return f"{doomed.first}, the first of its container, can be ended"

    async def give(self, stall: Stall) -> str:
        """SIGTERM, SIGKILL after the grace, and the end of whoever is left."""
        listeners = await self._look_again(stall.target)
        doomed, pidfd = await asyncio.to_thread(aim, listeners)
        try:
            if not self._board.is_given_up(self._board.entries[stall.target]):
                raise Declined(OVER)
            said = await self._end(doomed.first, pidfd)
        finally:
            os.close(pidfd)
        await self._end_rest(doomed, listeners)
        return said

    async def _look_again(self, target: str) -> tuple[Listener, ...]:
        """The listeners where connections wait, in a sample that is younger than this question."""
        entry = self._board.entries[target]
        before = entry.sample
        try:
            async with asyncio.timeout(LOOK):
                while entry.sample is before:
                    self._observed.clear()
                    await self._observed.wait()
        except TimeoutError:
            raise Declined(f"its listeners could not be seen for {LOOK:g} s") from None
        if not entry.listeners:
            raise Declined("nothing listens there any more")
        return tuple(one for one in entry.listeners if one.length) or entry.listeners

    async def _end(self, first: Process, pidfd: int) -> str:
        began = self._clock()
        logger.warning("terminate: SIGTERM to %s, the first of its container", first)
        for number, seconds in ((signal.SIGTERM, self._grace), (signal.SIGKILL, REAPED)):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
            if await ends(pidfd, seconds):
                return f"{first} ended {self._clock() - began:.1f} s after SIGTERM" + (
                    f", by {number.name}" if number is signal.SIGKILL else ""
                )
        raise Declined(f"{first} is still there {REAPED:g} s after SIGKILL")

    async def _end_rest(self, doomed: Doomed, listeners: Sequence[Listener]) -> None:
        await asyncio.sleep(LEFT_OVER)
        for process in await asyncio.to_thread(end_rest, doomed, listeners):
            logger.warning("terminate: SIGKILL to %s, which still held the listener", process)


async def ends(pidfd: int, seconds: float) -> bool:
    """Whether the process ends within so long: its pidfd can be read then (pidfd_open(2))."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(seconds):
            await ended.wait()
    except TimeoutError:
        return False
    else:
        return True
    finally:
        loop.remove_reader(pidfd)
