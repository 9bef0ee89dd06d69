"""A process of ours that may hang: in a group of its own, its output through a pipe of ours.

asyncio's own pipes keep a process that has ended from being seen as such while anything that it
left behind holds its output; this pipe is closed by us, whoever else has it.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

PATIENCE = 1.0
"""Seconds for a process to end after a signal. One that sleeps deep in the kernel ends later."""


class Spawned(NamedTuple):
    process: asyncio.subprocess.Process
    output: asyncio.StreamReader


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
    Raises OSError where it can't be started.
    """
    reading, writing = os.pipe()
    stdin = os.memfd_create("stdin")
    try:
        os.write(stdin, given)
        os.lseek(stdin, 0, os.SEEK_SET)
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=stdin,
            stdout=writing,
            stderr=writing if errors else asyncio.subprocess.DEVNULL,
            start_new_session=True,
            env=env,
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
        os.close(stdin)
    output = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(output), os.fdopen(reading, "rb")
    )
    try:
        yield Spawned(process, output)
    finally:
        transport.close()
        for number in end_with:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), PATIENCE)
