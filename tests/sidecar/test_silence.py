"""A log that nobody reads and a loop that stops keep the sidecar from nothing."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from probe import exits
from probe.sidecar.logs import Outlet

PATIENT = 30.0
"""Seconds within which what must happen in a moment has happened, on however slow a machine."""


def filled() -> tuple[int, int]:
    """Return a pipe that takes no more bytes."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(65536))
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"\0")
    os.set_blocking(writer, True)
    return reader, writer


def read_until(reader: int, wanted: bytes) -> bytes:
    """Read the pipe until `wanted` has come; all of it."""
    came = b""
    deadline = time.monotonic() + PATIENT
    while wanted not in came and time.monotonic() < deadline:
        came += os.read(reader, 65536)
    assert wanted in came
    return came


def test_who_writes_waits_for_nobody_and_hears_how_much_was_lost() -> None:
    reader, writer = filled()
    outlet = Outlet(writer, lambda number: f"{number} were lost\n")
    began = time.monotonic()
    for number in range(2000):
        outlet.write(f"line {number}\n")
    outlet.drain(0.1)
    assert time.monotonic() - began < PATIENT, "though the pipe is full"
    came = read_until(reader, b"were lost\n").lstrip(b"\0").decode()
    lines = came.splitlines()
    assert lines[0] == "line 0"
    lost = int(next(line for line in lines if line.endswith("were lost")).split()[0])
    assert 2000 - Outlet.LINES - 1 <= lost <= 2000 - Outlet.LINES + 1
    os.close(reader)


def test_a_descriptor_that_is_closed_costs_nobody_anything() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    outlet = Outlet(writer, str)
    for _ in range(10):
        outlet.write("nobody reads this\n")
    outlet.drain(PATIENT)
    os.close(writer)


@contextmanager
def unheard(*options: str) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """A sidecar whose stderr and stdout are a full pipe: its process, its port, the pipe's end."""
    reader, writer = filled()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "probe", "serve", "--port=8080"),
            *(f"--listen=127.0.0.1:{port}", "--log-level=debug", *options),
        ],
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=writer,
    )
    os.close(writer)
    try:
        yield process, port, reader
    finally:
        process.kill()
        process.wait()
        os.close(reader)


def ask(port: int, path: str) -> int:
    """Return the status of an answer, as soon as somebody listens."""
    deadline = time.monotonic() + PATIENT
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), PATIENT) as client:
                client.settimeout(PATIENT)
                client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                return int(client.recv(4096).split()[1])
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_a_sidecar_that_nobody_hears_answers_and_ends() -> None:
    with unheard() as (process, port, _):
        assert ask(port, "/live") == 200
        assert ask(port, "/ready") == 503
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENT) == 0, "though its last lines cannot be written"


def test_what_it_said_meanwhile_comes_when_somebody_listens() -> None:
    with unheard() as (_, port, reader):
        assert ask(port, "/live") == 200
        assert b"probe " in read_until(reader, b" watches 8080 ")


BLOCKED = """
import asyncio, logging, sys, threading, time
from probe.sidecar import logs
from probe.sidecar.watchdog import Watchdog

logs.configure("json", "info")

async def main():
    Watchdog(asyncio.get_running_loop(), lambda lag: None, interval=0.1, patience=5).start()
    await asyncio.sleep(0.3)
    {block}

asyncio.run(main())
"""


def blocked(block: str, stderr: int) -> int:
    """Run a loop that does `block`; return how the process ended."""
    return subprocess.run(
        [sys.executable, "-c", BLOCKED.replace("{block}", block)],
        stderr=stderr,
        timeout=PATIENT,
        check=False,
    ).returncode


HOLDS_THE_LOG = "logging.root.handlers[0].acquire(); time.sleep(60)"


def test_the_watchdog_needs_neither_the_log_nor_its_locks() -> None:
    reader, writer = filled()
    assert blocked(HOLDS_THE_LOG, writer) == exits.BLOCKED
    os.close(reader)
    os.close(writer)


def test_its_last_words_are_a_line_of_the_log(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        assert blocked(HOLDS_THE_LOG, log.fileno()) == exits.BLOCKED
    said = json.loads((tmp_path / "log").read_text())
    assert said["level"] == logging.getLevelName(logging.CRITICAL).lower()
    assert "has been blocked for" in said["message"]


@pytest.mark.skipif(os.getpid() == 1, reason="no signal ends process 1")
def test_a_computation_that_lets_no_thread_run_is_ended_by_the_kernel() -> None:
    endless = "import re; re.match('(a*)*b', 'a' * 60)"
    assert blocked(endless, subprocess.DEVNULL) == -signal.SIGPROF
