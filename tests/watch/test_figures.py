"""Figures in a column, and ten minutes in a row of cells."""

import pytest

from probe.watch.document import History
from probe.watch.past import cut, minutes, span, spark, strip, whole
from probe.watch.style import Appearance, duration, number

PLAIN = Appearance(colour=False)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0, "0.0 ms"),
        (0.00021, "0.2 ms"),
        (0.0099, "9.9 ms"),
        (0.00996, "10 ms"),
        (0.0125, "12 ms"),
        (0.9, "900 ms"),
        (1.0, "1 s"),
        (1.54, "1.5 s"),
        (9.96, "10 s"),
        (119.4, "119 s"),
        (125, "2 min"),
        (7190, "120 min"),
        (7951, "2 h"),
        (172_800, "2 d"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (0.3, "0.3"),
        (9.96, "10"),
        (12.3, "12"),
        (9999, "9999"),
        (10_000, "10k"),
        (999_400, "999k"),
        (1_234_567, "1.2M"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_a_cell_is_as_bad_as_the_worst_of_its_time() -> None:
    history = History(1.0, 60, "h" * 30 + "s" + "h" * 9 + "u" * 10 + "x" + "h" * 9)
    assert strip(history, 60.0, 6, PLAIN) == "··" + "·" + "▒" + "?" + "█"
    assert strip(History(), 600.0, 5, PLAIN) == "     "
    assert strip(History(1.0, 1, "\x1b"), 60.0, 60, PLAIN) == " " * 60


def test_runs_of_a_colour_are_painted_at_once() -> None:
    painted = strip(History(1.0, 4, "hhxx"), 4.0, 4, Appearance())
    assert painted == "\x1b[32m··\x1b[0m\x1b[31m██\x1b[0m"


def test_a_figure_is_told_from_nothing_and_nothing_from_silence() -> None:
    assert spark([None, 0, 0.01, 50, 100, 400], 6, 100, PLAIN) == " ▁▂▅█" + "█"
    assert spark([0, 9, None, None], 2, 9, PLAIN) == "█ "


def test_ten_minutes_are_cut_into_pieces_without_a_gap() -> None:
    assert cut("abcdef", 3) == ["ab", "cd", "ef"]
    assert cut("abcdef", 4) == ["a", "bc", "d", "ef"]
    assert cut("ab", 4) == ["a", "a", "b", "b"]
    for size, count in ((600, 44), (600, 7), (120, 120), (61, 60)):
        pieces = cut(range(size), count)
        assert [point for piece in pieces for point in piece] == list(range(size))


def test_the_scale_is_the_least_that_holds_what_is_known() -> None:
    assert span([]) == 60.0
    assert span([History(1.0, 59, "h" * 59), History(5.0, 9, "h" * 20)]) == 120.0
    assert span([History(1.0, 599, "h" * 599)]) == 600.0
    assert whole([1, 2], 20.0, 60.0, 0) == [0, 1, 2]
    assert (minutes(60.0), minutes(300.0)) == ("LAST MINUTE", "LAST 5 MINUTES")
