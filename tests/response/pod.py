"""A pod of real namespaces, as a container runtime makes them with shareProcessNamespace: one
process namespace, whose process 1 does nothing, and a mount namespace for each container.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.evidence.programs import Program
from tests.support import require_runnable

USER = 1234
"""Of every container that says nothing else."""


class Pod:
    """Its containers end with it."""

    def __init__(self, stack: ExitStack, first: tuple[str, ...]) -> None:
        self._stack = stack
        apart = ("unshare", "--mount", "--pid", "--fork")
        holder = self._program(*apart, *as_user(USER), *first)
        self.pause = child(holder)
        # Everything in its namespace ends with it. unshare's --kill-child is undone by setpriv.
        stack.callback(os.kill, self.pause, signal.SIGKILL)

    def container(self, user: int = USER) -> tuple[str, ...]:
        """A command that becomes the one it is given, as the first process of a new container."""
        enter = ("nsenter", "--target", f"{self.pause}", "--pid")
        own = ("unshare", "--mount", "--mount-proc")
        return (*enter, *own, *as_user(user))

    def run(self, *command: str, user: int = USER) -> Program:
        """Start a container."""
        return self._program(*self.container(user), *command)

    def execute(self, container: Program, *command: str, user: int = USER) -> Program:
        """Run something else in a container, as kubelet runs an exec probe."""
        enter = ("nsenter", "--target", f"{child(container)}", "--pid", "--mount")
        return self._program(*enter, *as_user(user), *command)

    def _program(self, *command: str) -> Program:
        program = Program(command)
        self._stack.callback(program.end)
        assert program.line() == "ready"
        return program


def child(program: Program) -> int:
    """What became of it in the namespace that it has entered, by its number out here."""
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
    return int(children.read_text().split()[0])


def as_user(user: int) -> tuple[str, ...]:
    return ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups")


def python(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


PAUSE = python("import signal; print('ready', flush=True); signal.pause()")


@contextmanager
def pod(first: tuple[str, ...] = PAUSE) -> Iterator[Pod]:
    """`first` is the pod's own process 1."""
    require_runnable(as_user(USER))
    with ExitStack() as stack:
        yield Pod(stack, first)
