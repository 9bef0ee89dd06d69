"""Plots say what the figures say: a reader who hears them, and one who measures them."""

import re
from xml.etree import ElementTree

import pytest

from bench.plot import Axis, Bar, Point, Series, bars, lines

SVG = "{http://www.w3.org/2000/svg}"


def drawn(figure: str, kind: str) -> list[ElementTree.Element]:
    return [
        element for element in ElementTree.fromstring(figure).iter() if element.get("class") == kind
    ]


def test_a_line_rises_with_its_figures_and_is_told_in_words() -> None:
    figure = lines(
        "Entries <left>",
        "From 1 to 51 & no further.",
        Axis("seconds"),
        Axis("entries"),
        [
            Series("probe", [Point(0, 1)]),
            Series("tcp", [Point(0, 1), Point(30, 31), Point(60, 51)]),
        ],
    )
    root = ElementTree.fromstring(figure)
    assert root.findtext(f"{SVG}title") == "Entries <left>"
    assert root.findtext(f"{SVG}desc") == "From 1 to 51 & no further."
    (line,) = drawn(figure, "line1")
    rights, ups = zip(
        *(map(float, point.split(",")) for point in line.attrib["points"].split()), strict=True
    )
    assert rights[1] - rights[0] == pytest.approx(rights[2] - rights[1], abs=0.2)
    assert ups[0] > ups[1] > ups[2], "up is less, in SVG"


def test_a_bar_is_as_long_as_its_figure_and_none_says_why() -> None:
    groups = {
        "dead": (Bar(10.0, low=5.0, high=20.0), Bar(20.0)),
        "stopped": (None, Bar(None, "never")),
    }
    figure = bars("Found", "In words.", Axis("seconds"), ("probe", "tcp"), groups)
    (ours,) = (bar for bar in drawn(figure, "fill0") if bar.tag == f"{SVG}rect")
    (theirs,) = (bar for bar in drawn(figure, "fill1") if bar.tag == f"{SVG}rect")
    assert float(theirs.attrib["width"]) == pytest.approx(2 * float(ours.attrib["width"]), abs=0.2)
    (whisker,) = drawn(figure, "whisker")
    ends = [float(end) for end in re.findall(r"[ML]([\d.]+)", whisker.attrib["d"])]
    assert ends[1] - ends[0] == pytest.approx(1.5 * float(ours.attrib["width"]), abs=0.2)
    assert ">never<" in figure


@pytest.mark.parametrize("least", [0.0, -1.0])
def test_a_log_axis_refuses_what_it_cannot_show(least: float) -> None:
    with pytest.raises(ValueError, match="a log axis begins above 0"):
        lines("a", "b", Axis("x"), Axis("y", log=True), [Series("s", [Point(0, least)])])


@pytest.mark.parametrize("figure", [0.0, 0.003, 1.0, 7.3, 99_999.0])
@pytest.mark.parametrize("log", [False, True])
def test_any_figure_alone_has_a_place_on_the_axis(figure: float, log: bool) -> None:
    if log and not figure:
        return
    shown = bars("a", "b", Axis("x", log=log), ("s",), {"g": (Bar(figure),)})
    lefts = [float(tick.attrib["d"].split()[0][1:]) for tick in drawn(shown, "grid")]
    assert len(lefts) > 1
    assert lefts == sorted(lefts)
