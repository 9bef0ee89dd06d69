"""`probe watch` in a real terminal: what is shown of a real incident, and what is left behind."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.faults.harness import App, application
from tests.support import until
from tests.watch.terminal import CURSOR, GIVEN_BACK, PAINT, TAKEN, Terminal, terminal, watch

SHELL = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
child = subprocess.Popen(sys.argv[1:], process_group=0)
os.tcsetpgrp(0, child.pid)
sys.exit(child.wait())
"""


def alone(app: App, *words: str) -> tuple[str, ...]:
    return watch("--port", str(app.port), "--stalled-for", "1s", *words)


def shown(opened: Terminal) -> None:
    """It is there, and the terminal is its own."""
    opened.until_shown("q quit")
    assert TAKEN in opened.sent
    assert opened.attributes() != opened.before


def restored(opened: Terminal) -> bool:
    """As it was before: its attributes, its screen and its cursor."""
    tail = opened.sent.rpartition(TAKEN)[2]
    return opened.attributes() == opened.before and GIVEN_BACK in tail and CURSOR in tail


def test_an_incident_before_during_and_after() -> None:
    with application() as app, terminal(*alone(app)) as opened:
        opened.until_shown(r"All is well: ready and live, since")
        opened.until_shown(rf"  {app.port} +healthy +░+ +0/5 ")
        app.tell("accept off")
        opened.until_shown(rf"Not ready: {app.port} accepts no connections, since .* \(")
        opened.until_shown(rf"{app.port} accept queue stalled: 1 of 5 queued, nothing accepted for")
        opened.until_shown(r"Next, in \d+ s: /live fails")
        opened.until_shown(rf"  {app.port} +unhealthy +█░+ +1/5 .* queued [\d.]+ s$")
        opened.until_shown(r"  state .*·.*█$")
        opened.until_shown(rf"\d\d:\d\d:\d\d  {app.port} +unhealthy  not ready: accept queue stall")
        app.tell("accept on")
        opened.until_shown(r"All is well")
        opened.until_shown(rf"  {app.port} +healthy +░+ +0/5 ")
        opened.type("q")
        assert opened.ended() == 0
        assert restored(opened)


def test_it_follows_the_size_of_its_terminal() -> None:
    with application() as app, terminal(*alone(app)) as opened:
        shown(opened)
        assert len(opened.screen) == 24
        opened.resize(120, 40)
        opened.until(lambda: len(opened.screen) == 40)
        opened.until_shown("LAST MINUTE$")
        opened.resize(30, 6)
        opened.until(lambda: len(opened.screen) == 6)
        assert max(map(len, opened.screen)) <= 30


def test_nothing_is_sent_but_what_has_changed() -> None:
    """And each frame in one piece, so that nobody sees half of one."""
    with application() as app, terminal(*alone(app)) as opened:
        shown(opened)
        opened.until_shown("healthy")
        begun = len(opened.sent)
        opened.until(lambda: len(opened.sent) > begun)
        assert "TARGET" not in opened.sent[begun:]
        assert "\x1b[2J" not in opened.sent[begun:]


@pytest.mark.parametrize("size", [(0, 0), (1, 1), (500, 200)])
def test_no_size_is_too_odd(size: tuple[int, int]) -> None:
    """`kubectl exec` begins with none at all."""
    columns, lines = size
    with application() as app, terminal(*alone(app), columns=columns, lines=lines) as opened:
        opened.until(lambda: TAKEN in opened.sent and len(opened.screen) == (lines or 24))
        opened.type("q")
        assert opened.ended() == 0


def test_keys() -> None:
    with application() as app, terminal(*alone(app)) as opened:
        shown(opened)
        opened.type("?")
        opened.until_shown("diagnose the chosen target now")
        opened.type("\x1b")
        opened.until_shown("TARGET")
        opened.type("p")
        opened.until_shown(r"PAUSED at \d\d:\d\d:\d\d UTC")
        opened.type("p")
        opened.until(lambda: "PAUSED" not in opened.screen[0])
        opened.type("e")
        opened.until_shown("Evidence is what a sidecar keeps of an incident, and here is none")
        opened.type("q")
        opened.until_shown("TARGET")
        opened.type("d")
        opened.until_shown(rf"^diagnosis of {app.port}, lines 1 to \d+ of \d+")
        opened.until_shown(f"^Port {app.port}: no fault is seen")
        opened.type("G")
        opened.until_shown("^diagnosis of .*, lines (?!1 )")
        opened.type("qq")
        assert opened.ended() == 0


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
        (signal.SIGQUIT, 131),
    ],
)
def test_signals_end_it_and_leave_nothing_behind(number: signal.Signals, status: int) -> None:
    with application() as app, terminal(*alone(app)) as opened:
        shown(opened)
        opened.process.send_signal(number)
        assert opened.ended() == status
        assert restored(opened)
        assert "Traceback" not in opened.sent


def test_ctrl_c_is_a_key_of_the_terminal() -> None:
    with application() as app, terminal(*alone(app)) as opened:
        shown(opened)
        opened.type("\x03")
        assert opened.ended() == 130
        assert restored(opened)


def test_stopped_it_gives_the_terminal_back_and_takes_it_again() -> None:
    """By ctrl-z, as a shell has it: each command is a group of its own, in front."""
    with application() as app, terminal(sys.executable, "-c", SHELL, *alone(app)) as opened:
        shown(opened)
        children = Path(f"/proc/{opened.process.pid}/task/{opened.process.pid}/children")
        watching = int(children.read_text())
        opened.type("\x1a")
        status = Path(f"/proc/{watching}/status")
        until(lambda: "State:\tT" in status.read_text(), "that it is stopped")
        opened.until(lambda: GIVEN_BACK in opened.sent)
        assert restored(opened)
        begun = len(opened.sent)
        os.kill(watching, signal.SIGCONT)
        opened.until(lambda: "q quit" in opened.sent[begun:])
        assert TAKEN in opened.sent[begun:]
        assert opened.attributes() != opened.before
        opened.type("q")
        assert opened.ended() == 0
        assert restored(opened)


def test_where_nothing_can_stop_it_it_goes_on() -> None:
    """As in `kubectl exec`, where no shell is beside it: the kernel stops no orphan."""
    with application() as app, terminal(*alone(app)) as opened:
        shown(opened)
        begun = len(opened.sent)
        opened.type("\x1a")
        opened.until(lambda: "q quit" in opened.sent[begun:])
        opened.type("q")
        assert opened.ended() == 0


def test_a_terminal_that_is_gone_ends_it() -> None:
    with application() as app, terminal(*alone(app)) as opened:
        shown(opened)
        opened.hang_up()
        assert opened.ended() == 129


def test_a_defect_leaves_the_terminal_as_it_was() -> None:
    script = (
        "import os\n"
        "from probe.watch.screen import Screen\n"
        "reader, writer = os.pipe()\n"
        "os.set_blocking(writer, False)\n"
        "with Screen(0, 1, 'utf-8').taken(writer):\n"
        "    raise ZeroDivisionError\n"
    )
    with terminal(sys.executable, "-c", script) as opened:
        assert opened.ended() == 1
        assert restored(opened)
        assert opened.sent.rstrip().endswith("ZeroDivisionError")


def test_without_colour() -> None:
    with application() as app, terminal(*alone(app), environment={"NO_COLOR": "1"}) as opened:
        shown(opened)
        opened.until_shown("healthy")
        assert not PAINT.search(opened.sent)


def test_where_no_letter_but_ascii_is_shown() -> None:
    environment = {"LC_ALL": "en_US.ISO-8859-1", "PYTHONIOENCODING": "latin-1"}
    with application() as app, terminal(*alone(app), environment=environment) as opened:
        shown(opened)
        opened.until_shown(r"healthy +\.+ +0/5")
        assert opened.sent.isascii()
