"""Threads for what may block; where no other can be had, that is a shortage as any other."""

import errno
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Threads(ThreadPoolExecutor):
    """The loop's executor. Python says RuntimeError where a limit on tasks forbids a thread, and
    also for defects of ours; whoever prepares for OSError, as on a full disk, hears of an OSError.
    """

    def submit(self, function: Callable[..., Any], /, *args: Any, **named: Any) -> "Future[Any]":
        """Have it run in a thread. Raises OSError where there is none."""
        try:
            return super().submit(function, *args, **named)
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, str(error)) from error
