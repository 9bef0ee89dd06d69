"""Become a `python -m` command that is killed in the middle of its work: the event is the call.

    python -m tests.faults.killed ARMED CALL PART python -m MODULE ...

Once the file ARMED is there, the first CALL that has to do with PART is not made: SIGKILL comes
before it. CALL is an event of Python's audit hooks, with PART in what it was raised with, or the
name of a C function, with PART in the name of the file that calls it.
"""

import os
import runpy
import signal
import sys
import threading
from types import FrameType
from typing import Any


def main() -> None:
    armed, call, part, _, _, module, *sys.argv[1:] = sys.argv[1:]

    def die() -> None:
        if os.path.exists(armed):  # noqa: PTH110 - it raises no event
            os.kill(os.getpid(), signal.SIGKILL)

    def audited(event: str, arguments: tuple[Any, ...]) -> None:
        if event == call and any(part in str(argument) for argument in arguments):
            die()

    def called(frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and function.__qualname__ == call and part in frame.f_code.co_filename:
            die()

    sys.addaudithook(audited)
    threading.setprofile(called)
    sys.setprofile(called)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
