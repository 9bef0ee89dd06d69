"""Whether, and how, a command's standard output is coloured."""

import os
import sys

GREEN, YELLOW, RED, BOLD = "32", "33", "1;31", "1"


def wanted() -> bool:
    """Where a terminal shows it, and its user has not said NO_COLOR (https://no-color.org)."""
    return (
        sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


def paint(text: str, colour: str) -> str:
    """The text in a colour, where one is wanted."""
    return f"\x1b[{colour}m{text}\x1b[0m" if wanted() else text
