"""The capture's child: `python -m probe.evidence.capture.child`, request on stdin, facts on stdout.

It does what may hang, need memory or crash, so that the sidecar need not: it walks /proc, reads
the connection table of the node and talks to the application's runtime. Each step's result is a
line of JSON, written as soon as the step has ended, so that a child that is killed loses only
the step it was in. It makes itself the first victim when memory runs short.
"""

import json
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from typing import Any

from probe import exits
from probe.evidence.capture.steps import STEPS, CaptureWork
from probe.evidence.proc.files import Unavailable, reason
from probe.evidence.proc.privacy import keep_private
from probe.evidence.records.audit import plain
from probe.evidence.records.report import CaptureRequest, Carried, Missing, typed
from probe.kernel import CannotTell, KernelView, open_view

FILE_LIMIT = 32 << 20
"""Bytes of the longest file it may write."""

NICE = 3
"""Enough to let the verdicts go first, not enough to starve beside a busy application."""


def answer(**message: Any) -> None:
    """One line to the parent, at once."""
    sys.stdout.write(json.dumps(plain(message), separators=(",", ":")) + "\n")
    sys.stdout.flush()


def run(work: CaptureWork, name: str) -> None:
    """One step, announced before and answered after, whatever becomes of it."""
    answer(begin=name)
    began = time.monotonic()
    sections: dict[str, Any] = {}
    try:
        sections = STEPS[name](work)
    except (Unavailable, CannotTell, OSError, MemoryError) as error:
        work.without(name, error)
    except Exception as error:  # noqa: BLE001 - the steps after it are worth as much
        work.missing.append(Missing(name, f"a fault of the capture: {error!r}"))
    answer(
        end=name,
        seconds=round(time.monotonic() - began, 4),
        sections=sections,
        missing=work.missing,
        carried=Carried(tuple(work.processes.items()), tuple(work.counters.items())),
    )
    work.missing.clear()


def confine(request: CaptureRequest) -> None:
    """Take less than our share, and be the first to go when memory runs short."""
    os.nice(NICE)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("1000")
    for what, limit in (
        (resource.RLIMIT_AS, request.memory),
        (resource.RLIMIT_FSIZE, FILE_LIMIT),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (limit, limit))
    signal.alarm(int(request.seconds) + 2)


def view_of(request: CaptureRequest) -> KernelView:
    if not request.socket:
        return open_view()
    from probe.kernel.unixdiag import open_socket  # not loaded for nothing

    return open_socket(request.socket, from_afar=True)


def main() -> None:
    """Read the request, take the steps. Exit 1 when not even that can be begun."""
    try:
        request = typed(CaptureRequest, json.load(sys.stdin))
        confine(request)
        keep_private()
        work = CaptureWork(request, view_of(request))
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent is to hear of it
        answer(failed=reason(error))
        sys.exit(exits.FAILED)
    for name in request.steps:
        run(work, name)


if __name__ == "__main__":
    main()
