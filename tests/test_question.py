"""The short way of `probe check --sidecar`, held to the long one: the same words, answers, ends."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from probe.cli import QUESTIONS, plain_question
from probe.commands import ask
from probe.config import ListenAddress, load
from probe.config.fields import FIELDS, Field, taken_by
from tests.roundtrip.application import (
    RESET,
    Application,
    Handler,
    answer,
    request,
    until_closed,
)

SHORT = (sys.executable, "-m", "probe")
LONG = (
    *(sys.executable, "-c"),
    "import sys; from probe import cli; cli.QUESTIONS.clear(); sys.exit(cli.main())",
)
"""The same command, which knows no plain question: the settings are read for every one."""

Ended = tuple[int, bytes, bytes]
"""Exit status, stdout, stderr."""

VARIABLES = {name: text for name, text in os.environ.items() if not name.startswith("PROBE_")}


def ended(
    program: tuple[str, ...],
    words: tuple[str, ...],
    environment: dict[str, str] | None = None,
    stdout: int = subprocess.PIPE,
) -> Ended:
    told = subprocess.run(
        [*program, *words],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**VARIABLES, **(environment or {})},
        timeout=30,
        check=False,
    )
    return told.returncode, told.stdout or b"", told.stderr


@contextmanager
def somebody(handle: Handler) -> Iterator[None]:
    """Who answers where a sidecar does by default."""
    with Application(handle, socket.create_server((ask.HOST, ask.PORT))):
        yield


def saying(reply: bytes, asked: list[bytes]) -> Handler:
    """Note what is asked, and answer with these bytes, whether they are read or not."""

    def handle(connection: socket.socket) -> None:
        asked.append(request(connection))
        with suppress(OSError):
            connection.sendall(reply)
            connection.shutdown(socket.SHUT_WR)
            until_closed(connection)

    return handle


def silent(connection: socket.socket) -> None:
    until_closed(connection)


def resetting(connection: socket.socket) -> None:
    request(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


# --- which questions are plain


NAMES = st.sampled_from([*(field.environment for field in FIELDS), "PROBE_X", "PATH", "PROBE"])
TEXTS = st.sampled_from(["", "80", "8080", "0", "65536", "٣", "80,81", "tcp://10.0.0.1:80", ":1"])


@given(
    words=st.sampled_from(sorted(QUESTIONS)),
    environment=st.dictionaries(NAMES, TEXTS, max_size=1)
    | st.fixed_dictionaries({"PROBE_PORT": TEXTS | st.text("0123456789", max_size=20)}),
)
@example(words=("check", "--sidecar"), environment={})
@example(words=("check", "--sidecar", "--live"), environment={"PROBE_PORT": "8080"})
def test_a_plain_question_is_what_the_settings_come_to(
    words: tuple[str, ...], environment: dict[str, str]
) -> None:
    if question := plain_question(list(words), environment):
        config = load("check", words[1:], environment)
        assert config.sidecar == ListenAddress(ask.HOST, ask.PORT)
        assert (config.time_limit, config.notices) == (ask.TIME_LIMIT, ())
        assert question == ("live" if config.live else "ready")


def test_what_is_plain() -> None:
    pod = {"PATH": "/probe/bin", "PROBE_PORT": "8080", "POD_NAME": "a"}
    assert plain_question(["check", "--sidecar"], pod) == "ready"
    assert plain_question(["check", "--sidecar", "--live"], pod) == "live"
    for words in (["check"], ["check", "--sidecar", ":9810"], ["check", "--sidecar", "-h"], []):
        assert plain_question(words, pod) == ""


@pytest.mark.parametrize("field", taken_by("check"), ids=lambda field: str(field.name))
def test_no_setting_is_passed_over(field: Field) -> None:
    assert plain_question(["check", "--sidecar"], {field.environment: "x"}) == ""


# --- both ways say the same

READY, LIVE = ("check", "--sidecar"), ("check", "--sidecar", "--live")
STRANGER = b"could not tell: 127.0.0.1:9809 does not answer like a sidecar\n"


@pytest.mark.parametrize(
    ("words", "reply", "expected"),
    [
        (READY, answer(b"ready\n"), (0, b"ready\n")),
        (READY, answer(b"ready"), (0, b"ready\n")),
        (READY, answer(b"ready: kept in service\nmore\n"), (0, b"ready: kept in service\n")),
        (READY, answer(b"ready or so\n"), (3, STRANGER)),
        (LIVE, answer(b"live\n"), (0, b"live\n")),
        (LIVE, answer(b"live: held by hand\n"), (0, b"live: held by hand\n")),
        (LIVE, answer(b"lively\n"), (3, STRANGER)),
        (READY, answer(b"ready: held by hand\n", "503 X"), (3, STRANGER)),
        (("check", "--live", "--sidecar"), answer(b"live\n"), (0, b"live\n")),
        (
            READY,
            answer(b"not ready: 8080 not listening\nmore\n", "503 Service Unavailable"),
            (1, b"not ready: 8080 not listening\n"),
        ),
        (LIVE, answer(b"not live: stalled\n", "503 X"), (1, b"not live: stalled\n")),
        (
            READY,
            answer("not ready: fermé \x1b[2J\r\n".encode(), "503 X"),
            (1, "not ready: fermé \\x1b[2J\\r\n".encode()),
        ),
        (READY, answer(b"not ready: \xff\n", "503 X"), (1, "not ready: \ufffd\n".encode())),
        (LIVE, answer(b"ready\n"), (3, STRANGER)),
        (READY, answer(b"ready\n", "404 Not Found"), (3, STRANGER)),
        (READY, answer(b"x" * (1 << 20)), (3, STRANGER)),
        (READY, b"SSH-2.0-x\r\n", (3, STRANGER)),
        (READY, b"", (3, STRANGER)),
    ],
)
def test_of_an_answer(words: tuple[str, ...], reply: bytes, expected: tuple[int, bytes]) -> None:
    asked: list[bytes] = []
    with somebody(saying(reply, asked)):
        short, long = (ended(way, words, {"PYTHONUTF8": "1"}) for way in (SHORT, LONG))
    assert short == long == (*expected, b"")
    question = b"live" if "--live" in words else b"ready"
    assert asked == [b"GET /%b HTTP/1.0\r\nHost: 127.0.0.1:9809\r\n\r\n" % question] * 2


@pytest.mark.parametrize(
    ("handle", "why"), [(silent, b"timed out"), (resetting, b"Connection reset by peer")]
)
def test_of_no_answer(handle: Handler, why: bytes) -> None:
    with somebody(handle):
        short, long = ended(SHORT, READY), ended(LONG, READY)
    assert short == long == (3, b"could not tell: sidecar at 127.0.0.1:9809: %b\n" % why, b"")


def test_where_nobody_listens() -> None:
    line = b"could not tell: sidecar at 127.0.0.1:9809: Connection refused\n"
    assert ended(SHORT, READY) == ended(LONG, READY) == (3, line, b"")


@pytest.mark.parametrize(
    ("environment", "status", "question"),
    [
        ({"PROBE_PORT": "8080"}, 0, b"/ready"),
        ({"PROBE_PORT": "tcp://10.0.0.1:80"}, 0, b"/ready"),
        ({"PROBE_LIVE": "yes"}, 3, b"/live"),
        ({"PROBE_EVIDENCE_DIR": "/evidence"}, 0, b"/ready"),
        ({"PROBE_LISTEN": ":9809"}, 0, b"/ready"),
        ({"PROBE_LISTEN": "127.0.0.2:9900"}, 3, b""),
        ({"PROBE_PORT": "808O"}, 2, b""),
        ({"PROBE_PORT": "65536"}, 2, b""),
        ({"PROBE_TIMEOUT": "soon"}, 2, b""),
        ({"PROBE_CONFIG": "/nonexistent"}, 2, b""),
        ({"PYTHONIOENCODING": "ascii"}, 0, b"/ready"),
    ],
)
def test_of_the_environment(environment: dict[str, str], status: int, question: bytes) -> None:
    asked: list[bytes] = []
    with somebody(saying(answer(b"ready\n"), asked)):
        short, long = (ended(way, READY, environment) for way in (SHORT, LONG))
    assert short == long
    assert short[0] == status
    assert [line.split()[1] for line in asked] == [question] * 2 * bool(question)


def test_of_letters_that_the_terminal_lacks() -> None:
    reply = answer("not ready: fermé\n".encode(), "503 X")
    with somebody(saying(reply, [])):
        short, long = (ended(way, READY, {"PYTHONIOENCODING": "ascii"}) for way in (SHORT, LONG))
    assert short == long == (1, b"not ready: ferm\\xe9\n", b"")


# --- both ways end the same


def test_of_an_output_that_nobody_reads() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert ended(SHORT, READY, stdout=writer) == (141, b"", b"")
        assert ended(LONG, READY, stdout=writer) == (141, b"", b"")
    finally:
        os.close(writer)


def test_of_an_output_that_is_full() -> None:
    with Path("/dev/full").open("wb") as full:
        short, long = (ended(way, READY, stdout=full.fileno()) for way in (SHORT, LONG))
    assert short == long == (3, b"", b"probe: [Errno 28] No space left on device\n")


def test_of_no_output_at_all() -> None:
    with somebody(saying(answer(b"not ready: x\n", "503 X"), [])):
        for way in (SHORT, LONG):
            shell = ("sh", "-c", 'exec "$@" >&- 2>&-', "sh", *way)
            assert ended(shell, READY) == (1, b"", b"")


@pytest.mark.parametrize("way", [SHORT, LONG], ids=["short", "long"])
def test_of_who_does_not_wait(way: tuple[str, ...]) -> None:
    asked = threading.Event()

    def handle(connection: socket.socket) -> None:
        request(connection)
        asked.set()
        until_closed(connection)

    with (
        somebody(handle),
        subprocess.Popen(
            [*way, *READY], env=VARIABLES, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as waiting,
    ):
        assert asked.wait(10)
        waiting.send_signal(signal.SIGINT)
        assert (waiting.communicate(timeout=10), waiting.returncode) == ((b"", b""), 130)
