"""`probe serve --on-stall terminate` beside stalled applications, in pods of real processes."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.evidence.programs import Program
from tests.faults.harness import Sidecar, sidecar
from tests.response.pod import Pod, child, pod, python

SERVE = """
import os, signal, socket, threading
open("/proc/self/comm", "w").write("first")
listener = socket.create_server(("127.0.0.1", 8080), backlog=5)
dying = threading.Event()
def serve():
    while True:
        connection, _ = listener.accept()
        if dying.is_set():
            return
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
"""
ACCEPTOR_DIES = """
threading.Thread(target=serve, daemon=True).start()
print("ready", flush=True)
input()
dying.set()
print("dying", flush=True)
signal.pause()
"""
BY_A_CHILD = """
if os.fork() == 0:
    open("/proc/self/comm", "w").write("child")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ready", flush=True)
    serve()
signal.pause()
"""
BYSTANDER = python("import signal; print('ready', flush=True); signal.pause()")
QUICK = [
    "--interval",
    "200ms",
    "--stalled-for",
    "500ms",
    "--live-after",
    "1s",
    "--terminate-grace",
    "1s",
]
WITHIN = 30.0


@contextmanager
def watching(there: Pod, *options: str) -> Iterator[Sidecar]:
    """A sidecar in a container of its own, that has found the application healthy."""
    told = ("--port", "8080", *QUICK, "--on-stall", "terminate", *options)
    with sidecar(*told, wrapper=there.container()) as started:
        started.until(WITHIN, condition="healthy", ready=True)
        yield started


def said(told: Sidecar, beginning: str) -> str:
    """The next line of the log that begins so."""
    deadline = time.monotonic() + WITHIN
    while (event := told.next(deadline - time.monotonic())) is not None:
        message = str(event["message"])
        if message.startswith(beginning):
            return message
    raise AssertionError(f"nothing begins with {beginning!r}: {told.events}")


def ended(program: Program) -> int:
    """The signal that ended what became of it: nsenter ends itself by the same."""
    return -program.process.wait(WITHIN)


def test_the_stalled_container_is_ended_after_the_evidence_is_saved() -> None:
    with pod() as there:
        bystander = there.run(*BYSTANDER)
        application = there.run(*python(SERVE + ACCEPTOR_DIES))
        with watching(there) as told:
            possible = said(told, "8080: on a stall, terminate: process ")
            assert possible.endswith(" `first`, the first of its container, can be ended")
            assert application.tell("die") == "dying"
            told.until(WITHIN, event="evidence")
            assert "`first`, the first of its container" in said(told, "terminate: SIGTERM to ")
            assert ended(application) == signal.SIGTERM
            told.until(WITHIN, reason="not_listening")
            done = said(told, "terminate: process ")
            assert " s after SIGTERM: 8080 accept queue stalled: " in done
            assert told.get("/live")[0] == 200
            count = 'acceptprobe_stall_responses_total{outcome="done",response="terminate"} 1.0'
            assert count in told.get("/metrics")[1]
        assert bystander.process.poll() is None


def test_who_does_not_end_by_sigterm_ends_by_sigkill() -> None:
    with pod() as there:
        application = there.run(*python(SERVE + ACCEPTOR_DIES))
        with watching(there) as told:
            os.kill(child(application), signal.SIGSTOP)
            assert ", by SIGKILL: 8080 accept queue" in said(told, "terminate: process ")
            os.kill(application.pid, signal.SIGCONT)  # nsenter stops when what it has started does
            assert ended(application) == signal.SIGKILL


def test_whoever_is_left_and_holds_the_listener_is_ended_too() -> None:
    """A runtime does that when the first process ends; here is none."""
    with pod() as there:
        application = there.run(*python(SERVE + BY_A_CHILD))
        with watching(there) as told:
            first = child(application)
            (holder,) = Path(f"/proc/{first}/task/{first}/children").read_text().split()
            os.kill(int(holder), signal.SIGSTOP)
            assert ended(application) == signal.SIGTERM
            assert said(told, "terminate: SIGKILL to ").endswith(
                "`child`, which still held the listener"
            )


def test_where_it_cannot_be_done_that_is_said_at_the_start_and_live_fails() -> None:
    with pod() as there, pod() as elsewhere:
        application = there.run(*python(SERVE + ACCEPTOR_DIES))
        with watching(elsewhere) as told:
            why = (
                "no process in sight holds the listener; "
                "set shareProcessNamespace: true in the pod's spec"
            )
            begin = "8080: on a stall, terminate is not possible, so /live fails: "
            assert said(told, begin) == begin + why
            assert application.tell("die") == "dying"
            begin = "terminate: not ended, so /live fails: "
            assert said(told, begin) == begin + why
            assert told.get("/live")[0] == 503
        assert application.process.poll() is None


def test_the_next_way_is_gone_where_one_cannot_be() -> None:
    with pod() as there, pod() as elsewhere:
        application = there.run(*python(SERVE + ACCEPTOR_DIES))
        with watching(elsewhere, "--on-stall", "hold") as told:
            assert application.tell("die") == "dying"
            said(told, "terminate: not ended, so the pod is left as it is: ")
            assert told.get("/live")[0] == 200
            assert told.get("/ready")[0] == 503
