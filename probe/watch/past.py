"""The last ten minutes in a row of cells: conditions and figures. Pure."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from probe.model import Condition
from probe.watch.document import History
from probe.watch.style import COLOURS, PLAIN, Appearance

SPANS = (60.0, 120.0, 300.0, 600.0)
"""Seconds that a row of cells can stand for."""

CONDITIONS = {
    " ": None,
    "h": Condition.HEALTHY,
    "u": Condition.UNKNOWN,
    "s": Condition.SUSPECT,
    "x": Condition.UNHEALTHY,
}
"""By the letter of a point, the worst last."""

SEVERITY = "".join(CONDITIONS)

Point = TypeVar("Point")


def span(histories: Iterable[History]) -> float:
    """The seconds to be shown: as few as hold all that is known."""
    longest = max((len(history.condition) * history.step for history in histories), default=0.0)
    return next((seconds for seconds in SPANS if seconds >= longest), SPANS[-1])


def minutes(seconds: float) -> str:
    """`LAST MINUTE`, `LAST 10 MINUTES`."""
    return "LAST MINUTE" if seconds == SPANS[0] else f"LAST {seconds / 60:.0f} MINUTES"


def strip(history: History, seconds: float, width: int, look: Appearance) -> str:
    """The conditions, the worst of each piece of time, in so many cells."""
    letters = whole(history.condition, history.step, seconds, " ")
    shown = []
    for piece in cut(letters, width):
        letter = max(piece, key=SEVERITY.find, default=" ")
        condition = CONDITIONS.get(letter)
        shown.append((look.condition(letter), COLOURS[condition] if condition else PLAIN))
    return _painted(shown, look)


def spark(points: Sequence[float | None], width: int, most: float, look: Appearance) -> str:
    """Figures as a row of columns, the highest of each piece of time; `most` fills a cell."""
    shown = []
    for piece in cut(points, width):
        values = [value for value in piece if value is not None]
        shown.append(_level(max(values), most, look) if values else " ")
    return "".join(shown)


def _level(value: float, most: float, look: Appearance) -> str:
    """Nothing is the lowest of them, and anything more than nothing is higher."""
    steps = look.levels[1:]
    if value <= 0:
        return steps[0]
    return steps[max(round(min(value / most, 1) * (len(steps) - 1)), 1)]


def whole(points: Sequence[Point], step: float, seconds: float, nothing: Point) -> list[Point]:
    """As many points as so many seconds have: a young history is no longer than it is."""
    count = max(round(seconds / step), 1) if step > 0 else len(points)
    kept = list(points[-count:])
    return [nothing] * (count - len(kept)) + kept


def cut(points: Sequence[Point], count: int) -> list[Sequence[Point]]:
    """So many pieces; each has one point at least, some of them the same where there are fewer."""
    size = len(points)
    return [
        points[place * size // count : max((place + 1) * size // count, place * size // count + 1)]
        for place in range(count)
    ]


def _painted(shown: list[tuple[str, str]], look: Appearance) -> str:
    """By the run, not by the cell: frames are sent over slow lines, too."""
    text, run, last = "", "", PLAIN
    for letter, code in shown:
        if code != last:
            text, run = text + look.paint(run, last), ""
        run, last = run + letter, code
    return text + look.paint(run, last)
