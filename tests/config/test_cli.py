"""The command line as a process: what it prints where, and the status it exits with."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from probe import __version__

PROBE = [sys.executable, "-m", "probe"]


def probe(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROBE, *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=30,
        check=False,
    )


def test_usage_errors_are_lines_on_stderr() -> None:
    told = probe("check", "--prot", "80", "--path", "x", PROBE_HOST="a b")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.splitlines() == [
        "probe: --prot: no such flag; did you mean --port?",
        "probe: --path: 'x' is not a path that begins with / and has no spaces, #, "
        "or characters beyond ASCII",
        "probe: PROBE_HOST: 'a b' is not a host name or an IP address",
    ]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["chekc"], "probe: 'chekc': no such command; did you mean check?"),
        (["--port", "80"], "probe: '--port': no such command: see probe --help"),
        (["evidence"], "probe: evidence: give list or show"),
        (["evidence", "lst"], "probe: evidence: give list or show"),
        (["help", "chekc"], "probe: 'chekc': no such command; did you mean check?"),
        ([""], "probe: '': no such command: see probe --help"),
    ],
)
def test_commands_that_there_are_not(words: list[str], line: str) -> None:
    told = probe(*words)
    assert (told.returncode, told.stdout, told.stderr) == (2, "", f"{line}\n")


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (["--help"], "probe: a health-check sidecar"),
        (["help"], "probe: a health-check sidecar"),
        (["check", "--help"], "usage: probe check [FLAGS]"),
        (["help", "check"], "usage: probe check [FLAGS]"),
        (["check", "--nonsense", "-h"], "usage: probe check [FLAGS]"),
        (["evidence", "list", "--help"], "usage: probe evidence list [FLAGS]"),
        (["evidence", "--help"], "usage: probe evidence list [FLAGS]"),
        (["--version"], f"probe {__version__}"),
    ],
)
def test_help_is_no_error(words: list[str], first: str) -> None:
    told = probe(*words)
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith(first)


def test_without_a_command_the_help_says_what_there_is() -> None:
    told = probe()
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == probe("help").stdout


def test_help_of_the_command_to_run_is_its_own() -> None:
    told = probe("wait", "--port", "1", "--timeout", "50ms", "--", "server", "--help")
    assert told.returncode == 1


def test_what_kubernetes_sets_is_told_when_it_is_the_likely_cause() -> None:
    """But not beside the line of a check, which ends up in an Event."""
    told = probe("check", PROBE_PORT="tcp://10.0.0.1:80")
    assert told.stderr.splitlines() == [
        "probe: PROBE_PORT: 'tcp://10.0.0.1:80' is what Kubernetes sets for a Service of that "
        "name; ignored",
        "probe: --port: give a target: --port N or --target URL, or --sidecar",
    ]
    told = probe("check", "--target", "tcp://:1", PROBE_PORT="tcp://10.0.0.1:80")
    assert (told.returncode, told.stderr) == (1, "")
    told = probe("wait", "--target=tcp://:1", "--timeout=50ms", PROBE_PORT="tcp://10.0.0.1:80")
    assert told.stderr.startswith("probe: PROBE_PORT: ")


def test_an_interrupt_ends_it_without_a_word() -> None:
    with socket.create_server(("127.0.0.1", 0)) as application:
        port = application.getsockname()[1]
        with subprocess.Popen(
            [*PROBE, "wait", "--port", str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as waiting:
            connection, _ = application.accept()
            with connection:  # it waits for an answer now
                waiting.send_signal(signal.SIGINT)
                told = waiting.communicate(timeout=30)
    assert (waiting.returncode, told) == (130, (b"", b""))


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        told = subprocess.run(
            [*PROBE, "serve", "--help"],
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    finally:
        os.close(writer)
    assert (told.returncode, told.stderr) == (141, b"")


def test_an_output_that_cannot_be_written_is_no_verdict() -> None:
    with Path("/dev/full").open("wb") as full:
        told = subprocess.run(
            [*PROBE, "check", "--port", "1"],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    assert (told.returncode, told.stderr) == (3, b"probe: [Errno 28] No space left on device\n")


def test_a_fault_of_ours_is_no_verdict() -> None:
    script = (
        "import sys\n"
        "from probe import cli\n"
        "from probe.commands import check\n"
        "check.run = lambda config: config.targets[1]\n"
        "sys.exit(cli.main(['check', '--port', '1']))\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert told.returncode == 3
    assert told.stderr.splitlines()[-1] == "IndexError: tuple index out of range"


def test_closed_descriptors_are_no_traceback() -> None:
    script = f'"{sys.executable}" -m probe check --port 1 >&- 2>&-'
    assert subprocess.run(["sh", "-c", script], timeout=30, check=False).returncode == 1


def test_what_the_configuration_imports() -> None:
    """`probe check` starts every few seconds, and pays for every module each time."""
    script = (
        "import __future__, _socket, collections.abc, enum, gc, io, struct, sys\n"
        "before = set(sys.modules)\n"
        "import probe.cli\n"
        "from probe.commands.dispatch import load\n"
        "load('check', ['--port', '80', '--path', '/x'], {'PROBE_HOST': '::1'})\n"
        "print(*sorted(name for name in set(sys.modules) - before if 'probe' not in name))\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == []


def test_a_file_of_settings(tmp_path: Path) -> None:
    (tmp_path / "probe.yaml").write_text("target: tcp://:1\n")
    told = probe("check", "--config", str(tmp_path / "probe.yaml"))
    assert told.returncode == 2
    assert told.stderr == (
        f"probe: {tmp_path}/probe.yaml:1: target: no such setting; did you mean targets?\n"
    )
