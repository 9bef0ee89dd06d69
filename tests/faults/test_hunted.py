"""Faults that were hunted for: traffic that misleads, and what it must not do to the verdict."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.evidence.identities import become, needs_other_users, seen_by
from tests.faults.harness import application, flowing, sidecar, watched
from tests.faults.test_faults import HEALTHY, SATURATED, STALLED, burst, traffic
from tests.support import require_runnable

LONELY = 64017
"""A user that nobody else is, so that a limit on its tasks is that of one process."""

IMPATIENT = """
import asyncio, socket, struct, sys

async def visit(port, patience):
    client = socket.socket()
    client.setblocking(False)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with client:
        client.connect_ex(("127.0.0.1", port))
        await asyncio.sleep(patience)

async def main(port, rate, patience):
    print("flowing", flush=True)
    async with asyncio.TaskGroup() as tasks:
        while True:
            tasks.create_task(visit(port, patience))
            await asyncio.sleep(1 / rate)

asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))
"""


@contextmanager
def impatient(port: int, *, rate: float, patience: float) -> Iterator[None]:
    """Clients that say nothing, and reset their connection after `patience` seconds."""
    with flowing(sys.executable, "-c", IMPATIENT, str(port), str(rate), str(patience)):
        yield


@contextmanager
def starved(pid: int) -> Iterator[None]:
    """A process that gets 100 ms of every 500."""
    ended = threading.Event()

    def starve() -> None:
        while not ended.wait(0.1):
            os.kill(pid, signal.SIGSTOP)
            ended.wait(0.4)
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=starve)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_reset_entries_ahead_of_ours_are_no_stall() -> None:
    """They have no row: behind them ours looks like the head of the queue, which moves."""
    with (
        application("--backlog", "256") as app,
        watched(app, "--live-after", "6s") as probe,
    ):
        app.tell("pace 0.3")
        with impatient(app.port, rate=20, patience=0.5):
            probe.throughout(25, live=True)
            assert not [one for one in probe.events if one.get("reason") == STALLED["reason"]]


def test_a_starting_application_is_not_taken_for_one_that_has_accepted() -> None:
    """A client at the head that resets is gone from there, but nobody has accepted it."""
    with (
        application("--late", "--backlog", "8") as app,
        application() as health,
        traffic(health.port, rate=50),
        sidecar("--port", str(app.port), "--live-after", "4s") as probe,
        impatient(app.port, rate=2, patience=3),
    ):
        probe.until(12, ready=False)
        probe.throughout(20, live=True, ready=False)


def test_slow_group_with_full_queues_is_saturated_and_never_stalled() -> None:
    with (
        application("--backlog", "8", "--members", "2") as app,
        watched(app, "--live-after", "6s") as probe,
    ):
        app.tell("pace 1")
        with traffic(app.port, rate=50):
            probe.until(15, **SATURATED)
            probe.throughout(30, live=True, reason="accept_queue_saturated")


def test_slow_application_seen_by_proc_alone_stays_live() -> None:
    refusing = (sys.executable, "-m", "tests.faults.refuse_sock_diag")
    with (
        application("--backlog", "8") as app,
        watched(app, "--live-after", "6s", wrapper=refusing) as probe,
    ):
        app.tell("pace 1")
        with traffic(app.port, rate=50):
            probe.throughout(30, live=True)
            assert not [one for one in probe.events if one.get("reason") == STALLED["reason"]]


def test_dead_with_more_at_the_front_than_can_be_followed_beside_a_busy_port() -> None:
    """At thousands of requests a second the oldest in the queue have no order by age."""
    with (
        application("--backlog", "512") as app,
        application() as health,
        watched(app, "--live-after", "6s") as probe,
        traffic(health.port, rate=50),
    ):
        app.tell("accept off")
        with burst(app.port, 400):
            probe.until(10, **STALLED)
            probe.until(12, live=False)
            app.tell("accept on")
            probe.until(5, **HEALTHY)


def test_dead_with_silent_clients_that_leave_beside_a_busy_port() -> None:
    with (
        application("--backlog", "8") as app,
        application() as health,
        watched(app, "--live-after", "6s") as probe,
        traffic(health.port, rate=50),
        traffic(app.port, rate=20),
    ):
        app.tell("die")
        probe.until(8, **STALLED)
        probe.until(8, live=False)


def test_resets_alone_in_the_queue_of_a_dead_application() -> None:
    """Nothing of it is to be seen but the length: the accept rate proves it."""
    with (
        application("--backlog", "8") as app,
        watched(app, "--live-after", "6s") as probe,
        impatient(app.port, rate=20, patience=0.2),
    ):
        app.tell("accept off")
        probe.until(10, **STALLED)
        probe.until(10, live=False)


def test_limit_taken_away_by_a_second_listen() -> None:
    with application("--backlog", "64") as app, watched(app, "--live-after", "6s") as probe:
        app.tell("accept off")
        with burst(app.port, 3):
            app.tell("limit 0")
            probe.until(8, **STALLED)
            app.tell("limit 64")
            app.tell("accept on")
            probe.until(5, **HEALTHY)
        app.tell("limit 0")
        probe.throughout(5, ready=True)


def test_frozen_for_just_less_than_three_seconds() -> None:
    with application("--backlog", "64") as app, watched(app) as probe:
        for _ in range(2):
            app.stop()
            probe.throughout(2.9, ready=True)
            app.resume()
            probe.throughout(2, ready=True)


def test_starved_sidecar_at_a_short_interval() -> None:
    """It runs for 100 ms in every 500."""
    with application() as app, watched(app, "--interval", "100ms", "--live-after", "6s") as probe:
        app.tell("die")
        with starved(probe.process.pid):
            probe.until(20, **STALLED)
            probe.until(20, live=False)


def test_starved_sidecar_does_not_blame_the_application() -> None:
    with (
        application() as app,
        watched(app) as probe,
        starved(probe.process.pid),
        traffic(app.port, rate=50),
    ):
        probe.throughout(15, ready=True)


def test_dead_at_one_family_beside_a_busy_listener_of_the_other() -> None:
    """Our round trips come to IPv4 alone; only clients notice that nobody accepts IPv6."""
    with (
        application("--bind", "0.0.0.0", "--backlog", "64") as app,
        socket.socket(socket.AF_INET6) as six,
        traffic(app.port, rate=50),
    ):
        six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        six.bind(("::", app.port))
        six.listen(64)
        with (
            watched(app, "--live-after", "6s") as probe,
            socket.create_connection(("::1", app.port)),
            socket.create_connection(("::1", app.port)),
        ):
            event = probe.until(10, **STALLED)
            assert "2 of 64 queued" in event["message"]
            assert event["message"].endswith("(1 of 2 listeners)")


def test_a_sidecar_that_is_asked_often_sees_a_stall_by_the_accept_rate_alone() -> None:
    """As kubelet and Prometheus ask it. /proc shows no head of the queue, only the rate."""
    refusing = (sys.executable, "-m", "tests.faults.refuse_sock_diag")
    with application() as app, watched(app, "--live-after", "6s", wrapper=refusing) as probe:
        app.tell("accept off")
        with traffic(probe.port, rate=20):
            probe.until(8, **STALLED)
            probe.until(8, live=False)


def entered(path: str) -> str:
    """What comes of it."""
    try:
        return str(list(Path(path).iterdir()))
    except OSError as error:
        return type(error).__name__


@needs_other_users
def test_a_sidecar_without_another_thread_or_process(tmp_path: Path) -> None:
    """A limit on tasks costs the evidence what takes a process; the verdicts go on."""
    tmp_path.chmod(0o777)
    user = f"--reuid={LONELY} --regid={LONELY} --clear-groups".split()
    limited = ("setpriv", *user, "prlimit", "--nproc=1:1")
    require_runnable(limited)
    with (
        application() as app,
        watched(app, "--evidence-dir", str(tmp_path), wrapper=limited) as probe,
    ):
        app.tell("accept off")
        told = probe.until(10, event="evidence")
        probe.until(10, **STALLED)
        app.tell("accept on")
        probe.until(10, **HEALTHY)
        assert probe.get("/evidence/" + str(told["id"]))[0] == 200
        root = f"/proc/{probe.process.pid}/root"
        assert seen_by(partial(become, LONELY, LONELY), partial(entered, root)) == "PermissionError"
    assert "can't start new thread" in str(probe.events)
    assert not [event for event in probe.events if "exception" in event]


def test_a_sidecar_without_proc() -> None:
    """It knows neither counters nor processes: sock_diag tells what the verdict takes."""
    hidden = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh")
    require_runnable(hidden)
    with application() as app, watched(app, wrapper=hidden) as probe:
        app.tell("accept off")
        assert probe.until(10, event="evidence")
        probe.until(10, **STALLED)
        app.tell("accept on")
        probe.until(10, **HEALTHY)
        assert "/proc" in probe.status()["accepts_unknown"]
        assert "process_resident_memory_bytes NaN" in probe.get("/metrics")[1]
    assert not [event for event in probe.events if "exception" in event]
