"""`probe check` for other callers than kubelet: their exit statuses, and their formats."""

import asyncio
import json
import re
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from probe import exits
from probe.model import Verdict
from tests.api.service import healthy, serving, stalled, suspect
from tests.faults.harness import application
from tests.test_commands import probe

NAGIOS = re.compile(
    r"PROBE (OK|WARNING|CRITICAL|UNKNOWN) - [^|\n]+"
    r"(?: \| (?:[^ =']+=[0-9.]+s?;;;0;?[0-9]*)(?: [^ =']+=[0-9.]+s?;;;0;?[0-9]*)*)?\n"
)
"""One line: the state of the service, what for, and figures behind a |."""

STYLED = [
    # style, healthy, warning, unhealthy, usage, unknown
    ("", 0, 0, 1, 2, 3),
    ("kubelet", 0, 0, 1, 2, 3),
    ("docker", 0, 0, 1, 1, 1),
    ("consul", 0, 1, 2, 2, 1),
    ("nagios", 0, 1, 2, 3, 3),
]


@pytest.mark.parametrize(("style", "well", "warned", "ill", "usage", "unknown"), STYLED)
async def test_each_caller_has_its_own_statuses(
    style: str, well: int, warned: int, ill: int, usage: int, unknown: int
) -> None:
    options = ("--exit-style", style) if style else ()

    async def check(*words: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "probe", "check", *words, *options),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        told, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, told.decode()

    async with serving() as service:
        place = f"127.0.0.1:{service.port}"
        service.publish(healthy())
        assert await check("--sidecar", place) == (well, "ready\n")
        service.publish(suspect())
        code, line = await check("--sidecar", place)
        assert code == warned
        assert line.startswith("ready; warning: accept_queue_stalled: " if warned else "ready\n")
        service.publish(stalled())
        code, line = await check("--sidecar", place)
        assert (code, line[:31]) == (ill, "not ready: accept_queue_stalled")
    assert (await check("--sidecar", place))[0] == unknown
    assert (await check("--port", "8080"))[0] == ill
    assert await check("--port", "80800") == (usage, "")


def test_every_style_has_a_status_for_every_outcome() -> None:
    assert {style for style, *_ in STYLED if style} == set(exits.STYLES)
    outcomes = {exits.OK, exits.WARNING, exits.FAILED, exits.USAGE, exits.UNKNOWN}
    for statuses in exits.STYLES.values():
        assert set(statuses) == outcomes
        assert statuses[exits.OK] == 0 != statuses[exits.FAILED]


# --- formats


def test_json_has_every_target_and_the_exit_status() -> None:
    with application() as app:
        ended = probe(
            *("check", "--port", str(app.port), "--port", "1", "--format", "json"),
            *("--exit-style", "consul"),
        )
    told = json.loads(ended.stdout)
    targets = {target.pop("name"): target for target in told.pop("targets")}
    assert told == {
        "status": "unhealthy",
        "exit_status": ended.returncode,
        "line": "not_listening: 1 not listening",
        "sidecar": None,
    }
    assert ended.returncode == 2
    well, ill = targets[str(app.port)], targets["1"]
    assert (well["status"], well["reason"]) == ("healthy", None)
    assert well["listeners"] == [{"length": 0, "limit": 5}]
    assert 0 < well["round_trip_seconds"] < 1
    assert (ill["status"], ill["reason"], ill["listeners"]) == ("unhealthy", "not_listening", [])


def test_nagios_has_one_line_with_figures_and_its_own_statuses() -> None:
    with application() as app:
        well = probe("check", "--port", str(app.port), "--format", "nagios")
        ill = probe("check", "--port", str(app.port), "--port", "1", "--format", "nagios")
    unknown = probe("check", "--sidecar", "127.0.0.1:1", "--format", "nagios")
    wrong = probe("check", "--port", "0", "--format", "nagios")
    for ended, state in ((well, "OK"), (ill, "CRITICAL"), (unknown, "UNKNOWN")):
        matched = NAGIOS.fullmatch(ended.stdout)
        assert matched, ended.stdout
        assert matched[1] == state
    assert [ended.returncode for ended in (well, ill, unknown, wrong)] == [0, 2, 3, 3]
    assert f"| {app.port}_queued=0;;;0;5 {app.port}_round_trip=0." in well.stdout
    other = probe("check", "--port", "1", "--format", "nagios", "--exit-style", "kubelet")
    assert other.returncode == 1, "who names a style has it"


async def test_what_an_application_says_cannot_forge_figures() -> None:
    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"x | y=1;;;0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(lie, "127.0.0.1", 0) as server:
        port = str(server.sockets[0].getsockname()[1])
        words = ("check", "--port", port, "--format", "nagios")
        told = (await asyncio.to_thread(probe, *words)).stdout
    assert "x / y=1" in told
    assert NAGIOS.fullmatch(told), told


def test_junit_has_a_case_for_each_target() -> None:
    with application() as app:
        ended = probe("check", "--port", str(app.port), "--port", "1", "--format", "junit")
    assert ended.returncode == 1
    root = ElementTree.fromstring(ended.stdout)
    assert (root.attrib["tests"], root.attrib["failures"], root.attrib["errors"]) == ("2", "1", "0")
    well, ill = root.iter("testcase")
    assert (well.attrib["name"], ill.attrib["name"]) == (str(app.port), "1")
    assert well.find("failure") is None
    failure = ill.find("failure")
    assert failure is not None
    assert failure.attrib == {
        "message": "not_listening: 1 not listening",
        "type": "not_listening",
    }
    absent = ElementTree.fromstring(
        probe("check", "--sidecar", "127.0.0.1:1", "--format", "junit").stdout
    )
    (case,) = absent.iter("testcase")
    assert case.attrib["name"] == "sidecar 127.0.0.1:1"
    assert case.find("error") is not None


async def test_every_format_tells_of_a_warning() -> None:
    async with serving() as service:
        for verdict, word in (
            (healthy(), "healthy"),
            (suspect(), "warning"),
            (Verdict("8080"), ""),
        ):
            service.publish(verdict)
            words = ("check", "--sidecar", f"127.0.0.1:{service.port}", "--format")
            told = await asyncio.to_thread(probe, *words, "json")
            assert json.loads(told.stdout)["status"] == (word or "unhealthy")
            told = await asyncio.to_thread(probe, *words, "nagios")
            assert NAGIOS.fullmatch(told.stdout)
            assert ("WARNING" in told.stdout) is (word == "warning")


def test_wrong_words_are_told_with_what_is_accepted() -> None:
    ended = probe("check", "--port", "1", "--exit-style", "dokcer", "--format", "xml")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.splitlines() == [
        "probe: --exit-style: 'dokcer' is not one of kubelet, docker, consul, nagios",
        "probe: --format: 'xml' is not one of text, json, nagios, junit",
    ]
