"""`probe wait`: for entrypoints, until the targets are healthy, then become COMMAND."""

import os
import signal
import sys
import time
from contextlib import suppress
from types import FrameType

from probe import exits
from probe.commands import check
from probe.config import Config
from probe.display import printable

PAUSE = 0.25
"""Seconds between two checks."""

SHORTEST_CHECK = 0.1
"""Seconds for a check, if need be beyond the limit: a shorter one would tell nothing."""

IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


def run(config: Config) -> int:
    """Check until healthy. Exit 1 on time-out, 127 when COMMAND cannot be run; else its own.

    What is said goes to stderr where a COMMAND follows, whose the output is.
    """
    output = sys.stderr if config.then else sys.stdout
    signal.signal(signal.SIGTERM, end)
    deadline = time.monotonic() + config.time_limit
    while True:
        begun = time.monotonic()
        status, line, _ = check.examine(
            config, max(min(config.policy.timeout, deadline - begun), SHORTEST_CHECK)
        )
        if status in (exits.OK, exits.WARNING):
            break
        if time.monotonic() >= deadline:
            print(f"not healthy within {config.time_limit:g} s: {printable(line)}", file=output)
            return exits.FAILED
        time.sleep(max(min(begun + PAUSE, deadline) - time.monotonic(), 0))
    if not config.then:
        print(printable(line))
        return exits.OK
    with suppress(OSError):  # A log that is full or gone must not keep COMMAND from running.
        print(printable(line), file=output, flush=True)
    for number in IGNORED_BY_PYTHON:  # COMMAND would inherit that; what has a handler it does not.
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(config.then[0], config.then)
    except OSError as error:
        print(f"probe: {config.then[0]}: {error.strerror}", file=sys.stderr)
        return exits.NOT_RUN


def end(number: int, _: FrameType | None) -> None:
    """End as by default. An entrypoint is process 1, for which the kernel knows no default."""
    sys.exit(exits.BY_SIGNAL + number)
