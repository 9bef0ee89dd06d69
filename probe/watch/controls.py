"""Keys, and what they change. Pure: bytes and keys in, the next state and what is wished out."""

from enum import StrEnum
from typing import NamedTuple

from probe.watch.scene import Scene

ESCAPE = b"\x1b"

SEQUENCES = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b[H": "home",
    b"\x1b[F": "end",
    b"\x1bOH": "home",
    b"\x1bOF": "end",
    b"\x1b[1~": "home",
    b"\x1b[4~": "end",
    b"\x1b[D": "back",
    b"\x1bOD": "back",
}
"""What terminals send for the keys without a letter, in both of their modes."""

NAMES = {b"\r": "enter", b"\n": "enter", b" ": "page down", b"\x7f": "back", b"\x08": "back"}

LETTERS = {"k": "up", "j": "down", "g": "home", "G": "end", "b": "page up", "h": "?"}
"""As in less, and in most of its kind."""

LONGEST = 8
"""Bytes of a sequence."""


class Keyboard:
    """Bytes of a terminal as keys. A sequence may come in pieces."""

    def __init__(self) -> None:
        self._held = b""

    @property
    def waits(self) -> bool:
        """Whether what came so far may be the beginning of a sequence, or the escape key."""
        return bool(self._held)

    def feed(self, data: bytes) -> list[str]:
        """The keys that are complete; what is no key of ours is left out."""
        keys, rest = [], self._held + data
        self._held = b""
        while rest:
            if rest[:1] == ESCAPE:
                size = _sequence(rest)
                if size is None and len(rest) < LONGEST:
                    self._held = rest
                    break
                size = size or 1
                keys.append(SEQUENCES.get(rest[:size], ""))
            else:
                size = 1
                keys.append(NAMES.get(rest[:1]) or _letter(rest[:1]))
            rest = rest[size:]
        return [key for key in keys if key]

    def idle(self) -> list[str]:
        """Nothing more came: a lone escape is a key, the rest of anything else is none."""
        held, self._held = self._held, b""
        return ["back"] if held == ESCAPE else []


def _letter(byte: bytes) -> str:
    letter = byte.decode("ascii", "ignore")
    return LETTERS.get(letter, letter if letter.isprintable() else "")


def _sequence(data: bytes) -> int | None:
    """The length of the sequence at the beginning; None: it may go on."""
    if len(data) < 3:
        # Two escapes, or a letter with Alt.
        return 1 if data[1:2] not in (b"", b"[", b"O") else None
    if data[1:2] == b"O":
        return 3
    for place, byte in enumerate(data[2:], 2):
        if 0x40 <= byte <= 0x7E:
            return place + 1
    return None


class Aim(StrEnum):
    """What somebody at the keys wants that is not done by drawing."""

    QUIT = "quit"
    LIST = "list"
    """The incidents that were kept."""
    SHOW = "show"
    """The report of one of them."""
    DIAGNOSE = "diagnose"


class Wish(NamedTuple):
    """`of`: the target or the incident."""

    aim: Aim
    of: str = ""


class Sheet(NamedTuple):
    """Something to read over the picture. `ids`: by line, what enter opens there, if anything."""

    title: str
    lines: tuple[str, ...]
    ids: tuple[str, ...] = ()
    top: int = 0
    chosen: int = 0
    """The line; of any meaning where there are ids."""
    below: "Sheet | None" = None

    @property
    def opens(self) -> str:
        return self.ids[self.chosen] if self.chosen < len(self.ids) else ""


class Controls(NamedTuple):
    """What was chosen with the keys. `selected` "": whatever comes first."""

    selected: str = ""
    paused: Scene | None = None
    """What is shown meanwhile."""
    sheet: Sheet | None = None
    busy: str = ""
    """What is being done that takes a while."""


HELP = Sheet(
    "keys",
    (
        "up, down (k, j)   choose a target, or scroll",
        "e                 the evidence: the incidents that the sidecar has kept",
        "d                 diagnose the chosen target now, as probe diagnose does",
        "p                 pause, and go on: what is shown stays as it is",
        "enter             open what is chosen",
        "space, b          a page down, a page up; g, G to the first and last line",
        "q, escape, left   back; q in the picture ends probe watch",
        "ctrl-c            ends it anywhere",
        "",
        "DELAY and P99 behind it: how long connections of ours waited until they were",
        "accepted, the median and the 99th percentile of the last ten minutes.",
        "ACC/S: accepts a second. DROPS: connections that the kernel did not take, in",
        "the last ten minutes. Times are UTC.",
    ),
)


def press(
    controls: Controls, key: str, scene: Scene, names: tuple[str, ...], page: int
) -> tuple[Controls, Wish | None]:
    """What a key does. `names`: the targets as they are shown; `page`: lines of a page."""
    if controls.sheet is not None:
        return _press_in_sheet(controls, controls.sheet, key, page)
    match key:
        case "q":
            return controls, Wish(Aim.QUIT)
        case "p":
            return controls._replace(paused=scene if controls.paused is None else None), None
        case "?":
            return controls._replace(sheet=HELP), None
        case "e" if not controls.busy:
            return controls._replace(busy="asking for the evidence"), Wish(Aim.LIST)
        case "d" | "enter" if names and not controls.busy:
            name = controls.selected if controls.selected in names else names[0]
            return controls._replace(busy=f"diagnosing {name}"), Wish(Aim.DIAGNOSE, name)
    return controls._replace(selected=_moved(controls.selected, key, names, page)), None


def _moved(selected: str, key: str, names: tuple[str, ...], page: int) -> str:
    if not names:
        return selected
    place = names.index(selected) if selected in names else 0
    steps = {"up": -1, "down": 1, "page up": -page, "page down": page}
    if key in steps:
        return names[min(max(place + steps[key], 0), len(names) - 1)]
    return {"home": names[0], "end": names[-1]}.get(key, selected)


def _press_in_sheet(
    controls: Controls, sheet: Sheet, key: str, page: int
) -> tuple[Controls, Wish | None]:
    last = max(len(sheet.lines) - 1, 0)
    if key in ("q", "back"):
        return controls._replace(sheet=sheet.below), None
    if key == "enter" and sheet.opens and not controls.busy:
        return controls._replace(busy="asking for a report"), Wish(Aim.SHOW, sheet.opens)
    steps = {"up": -1, "down": 1, "page up": -page, "page down": page, "home": -last, "end": last}
    if key not in steps:
        return controls, None
    if sheet.ids:
        return controls._replace(sheet=_choose(sheet, steps[key], page)), None
    top = min(max(sheet.top + steps[key], 0), max(len(sheet.lines) - page, 0))
    return controls._replace(sheet=sheet._replace(top=top)), None


def _choose(sheet: Sheet, step: int, page: int) -> Sheet:
    """The next line that opens something, so many lines on; and it is in sight."""
    places = [place for place, opened in enumerate(sheet.ids) if opened]
    here = places.index(sheet.chosen) if sheet.chosen in places else 0
    by = step if abs(step) == 1 else (1 if step > 0 else -1) * max(abs(step) // 2, 1)
    chosen = places[min(max(here + by, 0), len(places) - 1)]
    # With the line below it, which says what was found.
    top = min(max(sheet.top, chosen + 2 - page), chosen)
    return sheet._replace(chosen=chosen, top=max(top, 0))
