"""What tests of every room share: waiting for what has no event, and what a machine must allow."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

PATIENCE = 30.0
"""Seconds. What is waited for takes milliseconds, unless the machine is busy."""


def until(condition: Callable[[], bool], what: str = "it") -> None:
    """Return when the condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come about in {PATIENCE:.0f} s")
        time.sleep(0.005)


def until_equal(read: Callable[[], object], expected: object) -> None:
    """Return when `read` gives what is expected."""
    deadline = time.monotonic() + PATIENCE
    while (seen := read()) != expected:
        if time.monotonic() > deadline:
            pytest.fail(f"still {seen!r}, not {expected!r}, after {PATIENCE:.0f} s")
        time.sleep(0.001)


async def eventually(condition: Callable[[], bool], what: str = "it") -> None:
    """The same in a coroutine, whose loop goes on meanwhile."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"{what} did not come about in {PATIENCE:.0f} s")


@asynccontextmanager
async def in_background(work: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
    """Meanwhile run what is not to return."""
    task = asyncio.create_task(work)
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def require_runnable(wrapper: Sequence[str]) -> None:
    """Skip where a sidecar cannot be started so: no right to, or not readable by that user."""
    tried = (*wrapper, sys.executable, "-c", "import probe")
    failed = subprocess.run(tried, capture_output=True, text=True, check=False).stderr
    if failed:
        pytest.skip(failed.strip().splitlines()[-1])
