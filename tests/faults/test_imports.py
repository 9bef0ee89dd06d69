"""What the resident sidecar loads in the course of its life, told by its own interpreter."""

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import Lines, application

IMPORTED = re.compile(r"import time: .* \| +(\S+)$")

FOR_COMMANDS = {"psutil", "pyroute2"}
"""0.9 and 11 MiB, for commands and for the children that capture."""

FOR_PAGES = {"aiohttp"}
"""11 MiB, for who asks for a page."""

FOR_NOBODY = {"argparse", "email", "hashlib", "html", "socketserver", "wsgiref"}
"""What prometheus_client would bring, 2 MiB. aiohttp takes some of it."""


class Told:
    """The stderr of a sidecar under -X importtime: its log, and every module as it is loaded."""

    def __init__(self, fd: int) -> None:
        self._lines = Lines(fd)
        self.modules: set[str] = set()

    @property
    def packages(self) -> set[str]:
        return {name.partition(".")[0] for name in self.modules}

    def until(self, **fields: object) -> dict[str, Any]:
        deadline = time.monotonic() + 30
        while (line := self._next(deadline - time.monotonic())) is not None:
            if line.startswith("{"):
                event: dict[str, Any] = json.loads(line)
                if all(event.get(name) == value for name, value in fields.items()):
                    return event
        raise AssertionError(f"no {fields}; log:\n" + "\n".join(self._lines.seen[-20:]))

    def so_far(self) -> None:
        """Take what lies there already."""
        while self._next(0) is not None:
            pass

    def _next(self, within: float) -> str | None:
        line = self._lines.next(within)
        if line and (found := IMPORTED.match(line)):
            self.modules.add(found[1])
        return line


def ask(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
        answer: bytes = reply.read()
    return answer


def knows_who_accepts(port: int) -> bool:
    return bool(json.loads(ask(port, "/evidence/baseline"))["targets"][0]["baselines"])


def test_what_commands_are_built_on_is_no_burden_to_the_sidecar(tmp_path: Path) -> None:
    """Through all that it does: the self-test, learning and checking who accepts, an incident."""
    command = (sys.executable, "-X", "importtime", "-m", "probe", "serve", "--log-format", "json")
    with (
        application() as app,
        subprocess.Popen(
            [
                *(*command, "--port", str(app.port), "--listen", "127.0.0.1:0"),
                *("--evidence-dir", str(tmp_path)),
            ],
            stderr=subprocess.PIPE,
        ) as process,
    ):
        assert process.stderr
        told = Told(process.stderr.fileno())
        try:
            port = told.until(event="serving")["port"]
            told.until(condition="healthy", ready=True)
            for path in ("/ready", "/live?verbose", "/status", "/metrics"):
                ask(port, path)
            with pytest.raises(urllib.error.HTTPError, match="404"):
                ask(port, "/nothing")
            told.so_far()
            assert not told.packages & (FOR_PAGES | FOR_NOBODY)
            deadline = time.monotonic() + 20
            while not knows_who_accepts(port):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            app.tell("accept off")
            told.until(event="evidence")
        finally:
            process.kill()
    (record,) = tmp_path.glob("*/report.json")
    assert json.loads(record.read_text())["processes"], "the capture's child looked with psutil"
    assert {"probe.evidence.acceptors.baseline", "probe.evidence.access"} <= told.modules
    assert not told.packages & FOR_COMMANDS
    assert told.packages >= FOR_PAGES
