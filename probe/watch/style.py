"""Colours, letters and figures, as far as a terminal and its user will have them. Pure."""

from typing import NamedTuple

from probe.model import Condition

PLAIN, DIM, BOLD = "", "2", "1"
GREEN, YELLOW, RED = "32", "33", "31"

COLOURS = {
    Condition.HEALTHY: GREEN,
    Condition.SUSPECT: YELLOW,
    Condition.UNHEALTHY: RED,
    Condition.UNKNOWN: PLAIN,
}

EIGHTHS = " ▁▂▃▄▅▆▇█"
RAMP = " .:-=+*%#"


class Appearance(NamedTuple):
    """`colour`: the sixteen that every terminal has, in the user's own theme. `unicode`: whether
    more than ASCII can be shown.
    """

    colour: bool = True
    unicode: bool = True

    def paint(self, text: str, code: str) -> str:
        """The text in a colour or weight; as it is where there is none."""
        return f"\x1b[{code}m{text}\x1b[0m" if text and code and self.colour else text

    @property
    def ellipsis(self) -> str:
        return "…" if self.unicode else "..."

    @property
    def arrow(self) -> str:
        return "→" if self.unicode else "->"

    @property
    def levels(self) -> str:
        """From nothing to all, in nine steps."""
        return EIGHTHS if self.unicode else RAMP

    @property
    def blocks(self) -> tuple[str, str]:
        """What a bar is made of: taken, and free."""
        return ("█", "░") if self.unicode else ("#", ".")

    def condition(self, letter: str) -> str:
        """How a point of history looks: told from the others without its colour, too."""
        looks = "·▒█?" if self.unicode else ".~#?"
        place = "hsxu".find(letter)
        return looks[place] if place >= 0 else " "


def duration(seconds: float | None) -> str:
    """In six letters or so: `0.2 ms`, `12 ms`, `1.5 s`, `12 s`, `5 min`, `3 h`, `2 d`."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.{1 if seconds < 0.00995 else 0}f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 9.95 and seconds % 1 >= 0.05 else f"{seconds:.0f} s"
    for size, unit in ((86400, "d"), (3600, "h")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 60:.0f} min"


def number(value: float | None) -> str:
    """In five letters at most: `0.3`, `12`, `9999`, `12k`, `1.2M`."""
    if value is None:
        return "-"
    if value < 9.95 and value % 1 >= 0.05:
        return f"{value:.1f}"
    if value < 9999.5:
        return f"{value:.0f}"
    return f"{value / 1e3:.0f}k" if value < 999_500 else f"{value / 1e6:.1f}M"
