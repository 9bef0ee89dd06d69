"""A process of ours that may hang: in a group of its own, its output through a pipe of ours.

asyncio's own pipes keep a process that has ended from being seen as such while anything that it
left behind holds its output; this pipe is closed by us, whoever else has it. And it may start a
thread for each process, which a limit on tasks forbids once the process is there: so its end is
told by a descriptor instead.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

PATIENCE = 1.0
"""Seconds for a process to end after a signal. One that sleeps deep in the kernel ends later."""

PAUSE = 0.05
"""Seconds from one check to the next whether its exit status is to be had."""

_running: dict[int, subprocess.Popen[bytes]] = {}
"""By pid, the processes whose exit status somebody waits for."""


class Spawned(NamedTuple):
    process: subprocess.Popen[bytes]
    output: asyncio.StreamReader

    async def wait(self) -> int:
        """The exit status, once there is one; the number of a signal is negative."""
        if self.process.poll() is None:
            await _end(self.process)
        # No descriptor told; or somebody traces it, whom its status is for before us.
        while (status := self.process.poll()) is None:  # noqa: ASYNC110
            await asyncio.sleep(PAUSE)
        return status


@asynccontextmanager
async def spawn(
    command: tuple[str, ...],
    *,
    given: bytes = b"",
    env: Mapping[str, str],
    errors: bool = False,
    end_with: tuple[signal.Signals, ...] = (signal.SIGKILL,),
) -> AsyncIterator[Spawned]:
    """Run a command with `given` on its stdin; with `errors`, its stderr is output as well.

    At the end the whole process group gets each signal of `end_with` in turn, and is reaped.
    Raises OSError where it cannot be started.
    """
    reading, writing = os.pipe()
    stdin = os.memfd_create("stdin")
    try:
        os.write(stdin, given)
        os.lseek(stdin, 0, os.SEEK_SET)
        # No shell. It waits for the exec, 1 ms or so, as asyncio's own does.
        process = subprocess.Popen(  # noqa: S603, ASYNC220
            command,
            stdin=stdin,
            stdout=writing,
            stderr=writing if errors else subprocess.DEVNULL,
            start_new_session=True,
            env=env,
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
        os.close(stdin)
    _running[process.pid] = process
    output = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(output), os.fdopen(reading, "rb")
    )
    spawned = Spawned(process, output)
    try:
        yield spawned
    finally:
        transport.close()
        for number in end_with:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await spawned.wait()
        del _running[process.pid]


async def _end(process: subprocess.Popen[bytes]) -> None:
    """Return when the process has ended, or at once where there is no descriptor to tell of it."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def reap_orphans() -> None:
    """See to the children of others from now on, if we are process 1: nobody else would.

    They are what a command of the user, or one that kubelet ran in this container, left behind.
    """
    if os.getpid() == 1:
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, _reap)
        _reap()


def _reap() -> None:
    """Take the exit status of every child that has ended; one of ours keeps it."""
    with suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if (ours := _running.get(ended.si_pid)) is not None:
                ours.poll()
            else:
                os.waitpid(ended.si_pid, os.WNOHANG)
