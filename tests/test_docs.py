"""What the documentation shows is so: its links, the replayed recording, flags and metrics."""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import recording
from probe import judge
from probe.api.metrics import Metrics
from probe.api.status import About, Sources
from probe.api.view.document import view
from probe.commands import replay
from probe.config.commands import COMMANDS
from probe.config.fields import FIELDS
from probe.config.records import Config
from probe.model import Policy, Target
from probe.sidecar.board import Board
from probe.sidecar.recording import read as read_recording
from probe.watch.controls import Controls
from probe.watch.document import Document, read
from probe.watch.frame import draw
from probe.watch.lines import news
from probe.watch.scene import Scene, hear
from probe.watch.style import Appearance
from tests import reference
from tests.test_architecture import MAY_IMPORT, WIRING

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PICTURE = re.compile(r'(?:src|srcset)="([^"\s]+)"')
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")

EPOCH = 1_795_701_720.0
"""When the recording is said to begin: 2026-11-26T14:02:00Z."""

OF_OTHERS = {"--help", "--version", "--strict"}
"""Flags in the README that no table of ours has."""


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def blocks(page: Path, beginning: str) -> Iterator[list[str]]:
    """The lines of every block that begins with this line."""
    for block in re.findall(r"^```[a-z]*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        first, *lines = block.splitlines()
        if first == beginning:
            yield lines


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    kept = re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower())
    return kept.replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """Of its headings, or those that the headings of a translation say."""
    headings = HEADING.findall(prose(page))
    said = {found[1] for found in map(re.compile(r'<a id="([^"]+)">').match, headings) if found}
    return said or {anchor(heading) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in [*LINK.findall(prose(page)), *PICTURE.findall(prose(page))]:
        if link.startswith("https://"):
            continue
        name, _, fragment = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if fragment:
            assert fragment in anchors(target), link


def test_the_recording_replays_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    recording = ROOT / "docs/stall.jsonl"
    assert replay.run(Config("replay", file=str(recording))) == 0
    (shown,) = blocks(ROOT / "docs/verdict.md", "$ probe replay docs/stall.jsonl")
    assert shown == capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", recording.RECORDED)
def test_a_recording_is_drawn_as_it_is(name: str) -> None:
    """`python -m bench recording` makes both, `python -m bench.recording` the drawing alone."""
    drawing = (recording.FIGURES / f"{name}.svg").read_text()
    assert drawing == recording.drawn(name)
    assert ElementTree.fromstring(drawing).tag.endswith("svg")
    assert "the thread that accepted connections has exited" in drawing
    assert len(drawing) < 150_000


def test_the_readme_tells_of_the_recording_that_it_shows() -> None:
    shown = (recording.FIGURES / "demo.cast").read_text()
    said = re.search(r"/ready has failed since second (\d+), /live since (\d+):", shown)
    assert said
    told = f"/ready fails from second {said[1]} on, /live from {said[2]}."
    assert told in (ROOT / "README.md").read_text()


def replayed(seconds: float) -> Document:
    """What a sidecar would tell so many seconds after the beginning of the recording."""
    header, observations = read_recording(ROOT / "docs/stall.jsonl")
    now = began = 0.0
    targets = [replay.target(name) for name in header.targets]
    board = Board(targets, clock=lambda: now, wall=lambda: EPOCH + now - began)
    states = {target.name: judge.initial(target) for target in targets}
    for name, observation in observations:
        began = began or observation.at
        if observation.at > began + seconds:
            break
        now = observation.at
        states[name], transition = judge.step(states[name], observation, header.policy)
        verdict = states[name].verdict
        board.publish(name, observation, verdict, transition, states[name])
    now = began + seconds
    about = About("sock_diag", header.policy, began)
    return read(view(Sources(board, about), local=True))


def test_the_picture_is_that_of_the_recording() -> None:
    """`probe watch` in a terminal of 80 columns and as many lines as there are."""
    scene = hear(Scene("at 127.0.0.1:9809"), replayed(16.9), now=0.0)
    (shown,) = blocks(ROOT / "docs/watch.md", "$ probe watch")
    drawn = draw(scene, Controls(), 80, len(shown), Appearance(colour=False), now=0.0)
    assert shown == [line.rstrip() for line in drawn]


def test_the_lines_without_a_terminal_are_those_of_the_recording() -> None:
    scene = hear(Scene("here"), replayed(0.5), now=0.0)
    lines = news(Scene("here"), scene, wall=0.0)
    lines += news(scene, hear(scene, replayed(10.0), now=0.0), wall=0.0)
    page = (ROOT / "docs/watch.md").read_text()
    (shown,) = re.findall(r"^```\n(2026.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert shown.splitlines() == lines


def test_the_reference_is_what_the_tables_say() -> None:
    """`make reference` writes it."""
    assert (ROOT / "docs/reference.md").read_text() == reference.page()


def test_the_table_of_rooms_is_the_one_that_is_tested() -> None:
    """Also that no room is missing from it."""
    table = re.findall(
        r"^\| (`.*?) \| .* \| (.*?) \|$", prose(ROOT / "docs/architecture.md"), re.MULTILINE
    )
    told = {
        room: set() if may.startswith("nothing") else set(may.split(", "))
        for rooms, may in table
        for room in re.findall(r"`([\w.]+)`", rooms)
        if room not in WIRING
    }
    assert told == MAY_IMPORT


def test_the_page_of_metrics_names_each() -> None:
    board = Board([Target(8080)])
    exposed = Metrics(board, About("sock_diag", Policy(), 0.0)).render().decode()
    real = set(re.findall(r"^# TYPE acceptprobe_(\w+)", exposed, re.MULTILINE))
    (table, *_) = (ROOT / "docs/metrics.md").read_text().partition("\n## ")
    assert set(re.findall(r"`([a-z_]+[a-z])`", table)) == real


def test_the_readme_shows_every_command_and_no_flag_that_is_not_there() -> None:
    readme = (ROOT / "README.md").read_text()
    for command in COMMANDS:
        assert f"probe {command.name}" in readme
    known = {field.flag for field in FIELDS} | OF_OTHERS
    assert set(FLAG.findall(readme)) <= known


def test_what_to_do_at_night_names_real_headlines() -> None:
    """Those of a report that are quoted in full stand in the code that writes them."""
    page = (ROOT / "docs/incident-now.md").read_text().partition("## 4. ")[2].partition("## 5. ")[0]
    told = [line for line in re.findall(r"^\| `([^`]+)`", page, re.MULTILINE) if "..." not in line]
    written = (ROOT / "probe/evidence/report/patterns.py").read_text()
    written = written.replace("{'thread' if threads else 'process'}", "thread")
    assert len(told) >= 4
    for headline in told:
        assert headline in written, headline
