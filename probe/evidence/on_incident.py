"""`--on-incident COMMAND`: the user's own command, run once an incident's evidence is saved."""

import asyncio
import os
import signal
from collections.abc import Mapping
from typing import NamedTuple

from probe.evidence.capture.spawn import Spawned, spawn
from probe.evidence.proc.files import reason

OUTPUT_LIMIT = 1 << 20
"""Bytes of its output that are kept; a command that writes more is ended."""


class Ran(NamedTuple):
    """What became of the command: its output (stdout and stderr) and one line about its end."""

    ok: bool
    output: bytes
    note: str


async def run(
    command: tuple[str, ...],
    *,
    variables: Mapping[str, str],
    seconds: float,
    limit: int = OUTPUT_LIMIT,
) -> Ran:
    """Run the command, without a shell, in our environment and `variables`. Never raises.

    At its end, whatever it has started and left in its process group is ended too.
    """
    output = bytearray()
    try:
        async with (
            spawn(
                command,
                env={**os.environ, **{name: utf8(text) for name, text in variables.items()}},
                errors=True,
                end_with=(signal.SIGTERM, signal.SIGKILL),
            ) as spawned,
            asyncio.timeout(seconds),
        ):
            note = await listen(spawned, output, limit)
    except TimeoutError:
        note = f"ended after {seconds:g} s"
    except (OSError, ValueError) as error:
        note = f"{command[0]} cannot be started: {reason(error)}"
    return Ran(not note, bytes(output), note or "done")


def utf8(text: str) -> str:
    """What reaches a command as UTF-8, whatever the locale's encoding is: a letter that this lacks
    must not keep the command from being run.
    """
    return os.fsdecode(text.encode("utf-8", "backslashreplace"))


async def listen(spawned: Spawned, output: bytearray, limit: int) -> str:
    """Collect the output until the command ends; what is wrong with its end, "" if nothing."""
    while chunk := await spawned.output.read(1 << 16):
        output += chunk[: limit - len(output)]
        if len(output) == limit:
            return f"ended after {limit} bytes of output"
    code = await spawned.wait()
    return f"exit code {code}" if code else ""
