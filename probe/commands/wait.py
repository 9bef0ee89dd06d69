"""`probe wait`: for entrypoints, until the targets are healthy, then become COMMAND."""

import os
import sys
import time

from probe.commands import check
from probe.config import Config

PAUSE = 0.25
"""Seconds between two checks."""


def run(config: Config) -> int:
    """Check until healthy. Exit 1 on time-out, 127 when COMMAND can't be run; else its own."""
    deadline = time.monotonic() + config.time_limit
    while True:
        begun = time.monotonic()
        code, line = check.once(config, min(config.policy.timeout, deadline - begun))
        if code == 0:
            break
        rest = min(begun + PAUSE, deadline) - time.monotonic()
        if time.monotonic() >= deadline:
            print(f"not healthy within {config.time_limit:g} s: {line}")
            return 1
        time.sleep(max(rest, 0))
    print(line, flush=True)
    if not config.then:
        return 0
    try:
        os.execvp(config.then[0], config.then)
    except OSError as error:
        print(f"probe: {config.then[0]}: {error.strerror}", file=sys.stderr)
        return 127
