"""Recordings become the pictures that their terminals showed, and nothing is drawn by guess."""

import json
import re
from xml.etree import ElementTree

import pytest

from bench.terminal import film, screens

WATCHED = [
    (0.5, "\x1b[?1049h\x1b[?25l"),
    (1.0, "\x1b[H\x1b[2J\x1b[1;1H\x1b[K\x1b[1;31mdead\x1b[0m\x1b[2;1H\x1b[Kat 1 s"),
    (2.0, "\x1b[2;1H\x1b[Kat 2 s"),
    (3.0, "\x1b[1;1H\x1b[Kwell\x1b[2;1H\x1b[Kat 3 s"),
    (4.0, "\x1b[0m\x1b[?25h\x1b[?1049l"),
]


def cast(events: list[tuple[float, str]]) -> str:
    header = {"version": 2, "width": 80, "height": 24, "title": "probe show"}
    return "\n".join(map(json.dumps, [header, *([at, "o", data] for at, data in events)]))


def without_motion(drawing: str) -> list[str]:
    """The words of its rows that are seen then."""
    assert ElementTree.fromstring(drawing).tag.endswith("svg")
    rows = re.findall(r"^<text([^>]*)>(.*)</text>$", drawing.partition("<svg x=")[2], re.MULTILINE)
    return [re.sub("<[^>]+>", "", words) for kind, words in rows if "away" not in kind]


def test_a_film_ends_with_its_last_line_above_the_cover() -> None:
    lines = [f"line {number}" for number in range(30)]
    drawing = film(
        cast([(number / 2, f"{line}\r\n") for number, line in enumerate(lines)]), speed=2
    )
    assert without_motion(drawing) == ["$ probe show", *lines]
    assert '<g class="lines" transform="translate(0 -160)">' in drawing  # 32 rows, of which 24.
    assert '<g class="cover" transform="translate(0 620)">' in drawing


@pytest.mark.parametrize(
    ("still", "seen"),
    [(0, ["dead", "at 1 s"]), (1.5, ["dead", "at 2 s"]), (9, ["well", "at 3 s"])],
)
def test_without_motion_a_screen_is_that_of_one_moment(still: float, seen: list[str]) -> None:
    assert without_motion(screens(cast(WATCHED), 2, still)) == seen


def test_what_stays_on_the_screen_is_drawn_once() -> None:
    drawing = screens(cast(WATCHED), 2, 0)
    assert drawing.count(">dead<") == 1
    assert '<tspan class="bold red" x="0" textLength="42">dead</tspan>' in drawing


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("\x1b[2Jcleared", "neither text"),
        ("a" * 81, "80 columns"),
        ("\x1b[35mmagenta\x1b[0m", "no colour"),
        ("\x07", "neither text"),
    ],
)
def test_what_cannot_be_drawn_is_refused(said: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        film(cast([(0.5, f"{said}\r\n")]), 2)
    with pytest.raises(ValueError, match=why):
        screens(cast([(0.5, f"\x1b[1;1H\x1b[K{said}")]), 2, 0)


def test_a_screen_is_written_line_by_line() -> None:
    with pytest.raises(ValueError, match="where no line was begun"):
        screens(cast([(0.5, "somewhere")]), 2, 0)
