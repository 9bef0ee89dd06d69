"""Recordings of terminals (asciicast v2) as SVG that plays by itself, for an <img> in a page.

No script, nothing to load, light and dark. A drawing plays for whoever has nothing against motion,
and begins again after a rest; all others see one picture of it.

    film(recording, speed)             of a command that prints line after line: they move up
    screens(recording, speed, still)   of one that takes over the screen; `still` is the moment,
                                       in seconds, whose picture is shown without motion

`speed` is how much faster than it was it plays.

Only what our own commands say to a terminal is understood. ValueError is raised for anything else,
and for a line that is too long.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

TYPED_FOR, REST = 1.0, 8.0
"""Seconds for which the command is shown before it runs, and the end before it begins again."""

CELL, LINE = 10.5, 20.0
"""Pixels that a letter takes, and a line."""

MARGIN, TOP = 20.0, 44.0

FONT = (
    f"{CELL / 0.602:.1f}px ui-monospace, SFMono-Regular, Menlo, Consolas, "
    '"DejaVu Sans Mono", monospace'
)

STYLE = f"""\
text {{ font: {FONT} }}
text {{ fill: #1f2328 }} .dim {{ fill: #59636e }} .bold {{ font-weight: 600 }}
.green {{ fill: #116329 }} .yellow {{ fill: #7d4e00 }} .red {{ fill: #b3202b }}
.card, .cover {{ fill: #ffffff }} .card {{ stroke: #d0d7de }}
.dot {{ fill: #d0d7de }} .cursor {{ fill: #59636e }} .away {{ visibility: hidden }}
@media (prefers-color-scheme: dark) {{
  text {{ fill: #f0f6fc }} .dim {{ fill: #9198a1 }}
  .green {{ fill: #6fdd8b }} .yellow {{ fill: #e3b341 }} .red {{ fill: #ff9492 }}
  .card, .cover {{ fill: #0d1117 }} .card {{ stroke: #3d444d }}
  .dot {{ fill: #3d444d }} .cursor {{ fill: #9198a1 }}
}}"""

LOOKS = {"0": "", "1": "bold", "2": "dim", "31": "red", "32": "green", "33": "yellow"}
"""What our commands say of colour and weight, and the class of it."""

LOOK = re.compile(r"\x1b\[[\d;]*m")
TOLD = re.compile(r"\x1b\[(?:H\x1b\[2J|(\d+);1H\x1b\[K|\?[\d;]*[hl])")
"""What takes over a screen: empty it; begin a line anew; switch something that is not drawn."""


class Shown(NamedTuple):
    """A line, and when it was complete, in seconds since the command was started."""

    at: float
    text: str


class Version(NamedTuple):
    """What a row of the screen says from one picture until another, by their numbers."""

    row: int
    begins: int
    ends: int
    text: str


class Recording(NamedTuple):
    """`events`: at how many seconds what was written."""

    title: str
    columns: int
    rows: int
    events: list[tuple[float, str]]


def read(recording: str) -> Recording:
    """An asciicast; of its events, the output."""
    header, *events = map(json.loads, recording.splitlines())
    return Recording(
        header["title"],
        header["width"],
        header["height"],
        [(at, data) for at, kind, data in events if kind == "o"],
    )


def film(recording: str, speed: float) -> str:
    """What has not been said yet lies below a cover, which moves down line by line."""
    cast = read(recording)
    lines = [Shown(-TYPED_FOR * speed, f"$ {cast.title}"), *_lines(cast.events)]
    whole = TYPED_FOR + lines[-1].at / speed + REST
    times = [100 * (TYPED_FOR + line.at / speed) / whole for line in lines]
    counts = range(1, len(lines) + 1)
    above = [max(count + 1 - cast.rows, 0) for count in counts]  # One row is for the cursor.
    style = f"""\
@media (prefers-reduced-motion: no-preference) {{
  .lines {{ animation: lines {whole:.1f}s step-end infinite }}
  .cover {{ animation: cover {whole:.1f}s step-end infinite }}
}}
@keyframes cover {{ {_steps(times, counts)} }}
@keyframes lines {{ {_steps(times, [-count for count in above])} }}"""
    words = "".join(_text(row, line.text, cast.columns) for row, line in enumerate(lines))
    body = f"""\
<g class="lines" transform="translate(0 {-above[-1] * LINE:g})">
{words}\
<g class="cover" transform="translate(0 {len(lines) * LINE:g})">
<rect width="{cast.columns * CELL:g}" height="{(len(lines) + 1) * LINE:g}"/>
<rect class="cursor" y="2" width="{CELL - 1:g}" height="{LINE - 3:g}"/>
</g></g>"""
    return _terminal(cast, speed, lines[above[-1] :], style, body)


def screens(recording: str, speed: float, still: float) -> str:
    """Each row in all its versions, of which one at a time is seen."""
    cast = read(recording)
    pictures = list(_pictures(cast))
    times = [at for at, _ in pictures]
    whole = times[-1] / speed + REST
    shown = bisect_right(times, still) - 1
    spans: dict[tuple[int, int], str] = {}
    rows: list[str] = []
    for version in _versions(pictures):
        name = spans.setdefault((version.begins, version.ends), f"v{len(spans)}")
        away = "" if version.begins <= shown < version.ends else " away"
        text = _text(version.row, version.text, cast.columns)
        rows.append(text.replace("<text", f'<text class="{name}{away}"', 1))
    played: list[str] = []
    frames: list[str] = []
    for (begins, ends), name in spans.items():
        played.append(f".{name} {{ animation: {name} {whole:.1f}s step-end infinite }}")
        states = [(begins, "visible"), (ends, "hidden")]
        if begins:
            states.insert(0, (0, "hidden"))
        told = " ".join(
            f"{100 * times[at] / speed / whole:.2f}% {{ visibility: {state} }}"
            for at, state in states
            if at < len(times)
        )
        frames.append(f"@keyframes {name} {{ {told} }}")
    style = "\n".join(("@media (prefers-reduced-motion: no-preference) {", *played, "}", *frames))
    return _terminal(
        cast, speed, [Shown(0, text) for text in pictures[shown][1]], style, "".join(rows)
    )


def _lines(events: Iterable[tuple[float, str]]) -> Iterator[Shown]:
    begun = ""
    for at, data in events:
        *whole, begun = (begun + data).split("\r\n")
        for text in whole:
            yield Shown(at, text)
    if begun:
        raise ValueError(f"the last line has no end: {begun!r}")


def _pictures(cast: Recording) -> Iterator[tuple[float, list[str]]]:
    """The screen, and from when on; the first at 0."""
    rows = [""] * cast.rows
    first = None
    for at, data in cast.events:
        before = list(rows)
        beginning, *pieces = TOLD.split(data)
        if LOOK.sub("", beginning):
            raise ValueError(f"written where no line was begun: {beginning!r}")
        for line, text in zip(pieces[::2], pieces[1::2], strict=True):
            if line:
                rows[int(line) - 1] = text
            elif LOOK.sub("", text):
                raise ValueError(f"written where no line was begun: {text!r}")
        if rows != before:
            first = at if first is None else first
            yield at - first, list(rows)


def _versions(pictures: Sequence[tuple[float, list[str]]]) -> Iterator[Version]:
    for row in range(len(pictures[0][1])):
        begins = 0
        for number in range(1, len(pictures) + 1):
            text = pictures[begins][1][row]
            if number < len(pictures) and pictures[number][1][row] == text:
                continue
            if text:
                yield Version(row, begins, number, text)
            begins = number


def _steps(times: Sequence[float], rows: Sequence[int]) -> str:
    """Key frames that move by whole lines; those that change nothing are left out."""
    frames: list[str] = []
    last = None
    for at, row in zip(times, rows, strict=True):
        if row != last:
            frames.append(f"{at:.2f}% {{ transform: translateY({row * LINE:g}px) }}")
        last = row
    return " ".join(frames)


def _text(row: int, line: str, columns: int) -> str:
    """The words of a line, each group at its place: a font with other widths moves nothing."""
    words: list[str] = []
    column, looks = 0, ""
    for piece in re.split(f"({LOOK.pattern})", line):
        if LOOK.fullmatch(piece):
            looks = " ".join(_look(code) for code in piece[2:-1].split(";")).strip()
            continue
        if not (piece or "x").isprintable():
            raise ValueError(f"neither text nor a colour that is known: {piece!r}")
        for word in re.finditer(r"\S+(?: \S+)*", piece):
            begins, length = column + word.start(), len(word[0])
            if begins + length > columns:
                raise ValueError(f"more than {columns} columns: {line!r}")
            styled = f' class="{looks}"' if looks else ""
            words.append(
                f'<tspan{styled} x="{begins * CELL:g}" textLength="{length * CELL:g}">'
                f"{escape(word[0])}</tspan>"
            )
        column += len(piece)
    return f'<text y="{row * LINE + 15:g}">{"".join(words)}</text>\n' if words else ""


def _look(code: str) -> str:
    if code not in LOOKS:
        raise ValueError(f"no colour that is known: {code!r}")
    return LOOKS[code]


def _terminal(cast: Recording, speed: float, still: Sequence[Shown], style: str, body: str) -> str:
    """The window around it; `still` is what is read to who does not see it."""
    said = " ".join(LOOK.sub("", line.text) for line in still)
    about = escape(re.sub(r"[\s=]{2,}", " ", said))
    across, down = cast.columns * CELL, cast.rows * LINE
    width, height = across + 2 * MARGIN, TOP + down + MARGIN
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" \
aria-labelledby="title about">
<title id="title">{escape(cast.title)} in a terminal</title>
<desc id="about">It shows: {about}</desc>
<style>
{STYLE}
{style}
</style>
<rect class="card" x=".5" y=".5" width="{width - 1:g}" height="{height - 1:g}" rx="8"/>
<circle class="dot" cx="24" cy="20" r="6"/><circle class="dot" cx="44" cy="20" r="6"/>\
<circle class="dot" cx="64" cy="20" r="6"/>
<text class="dim" x="{width - MARGIN:g}" y="26" text-anchor="end">\
{escape(cast.title)}, {speed:g} times as fast</text>
<svg x="{MARGIN:g}" y="{TOP:g}" width="{across:g}" height="{down:g}">
{body}
</svg></svg>
"""
