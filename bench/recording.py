"""`probe demo` as it runs in a terminal, recorded, and drawn as an SVG that plays by itself.

    python -m bench recording          # runs it: docs/figures/demo.cast, then docs/figures/demo.svg
    python -m bench.recording          # draws docs/figures/demo.svg from the recording again

The recording is asciinema's (`asciinema play docs/figures/demo.cast`). The drawing is for an <img>
in a page: no script, nothing to load, light and dark. It plays for whoever has nothing against
motion, begins again after a rest, and shows its last screen to all others. What has not been said
yet lies below a cover that moves down line by line.
"""

import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

FIGURES = Path(__file__).parent.parent / "docs" / "figures"
RECORDING, DRAWING = FIGURES / "demo.cast", FIGURES / "demo.svg"

COMMAND = "probe demo"
COLUMNS, ROWS = 80, 28

SPEED = 2.0
"""How much faster than it was the drawing plays."""

TYPED_FOR, REST = 1.0, 8.0
"""Seconds for which the drawing shows the command before it runs, and its end before it begins
again."""

CELL, LINE = 10.5, 20.0
"""Pixels that a letter takes, and a line."""

MARGIN, TOP = 20.0, 44.0
WIDTH, HEIGHT = 2 * MARGIN + COLUMNS * CELL, TOP + ROWS * LINE + MARGIN

FONT = (
    f"{CELL / 0.602:.1f}px ui-monospace, SFMono-Regular, Menlo, Consolas, "
    '"DejaVu Sans Mono", monospace'
)

STYLE = f"""\
text {{ font: {FONT} }}
text {{ fill: #1f2328 }} .muted {{ fill: #59636e }} .bold, .red {{ font-weight: 600 }}
.green {{ fill: #116329 }} .yellow {{ fill: #7d4e00 }} .red {{ fill: #b3202b }}
.card, .cover {{ fill: #ffffff }} .card {{ stroke: #d0d7de }}
.dot {{ fill: #d0d7de }} .cursor {{ fill: #59636e }}
@media (prefers-color-scheme: dark) {{
  text {{ fill: #f0f6fc }} .muted {{ fill: #9198a1 }}
  .green {{ fill: #6fdd8b }} .yellow {{ fill: #e3b341 }} .red {{ fill: #ff9492 }}
  .card, .cover {{ fill: #0d1117 }} .card {{ stroke: #3d444d }}
  .dot {{ fill: #3d444d }} .cursor {{ fill: #9198a1 }}
}}"""

COLOUR = re.compile(r"\x1b\[[\d;]*m")
CLASSES = {
    "\x1b[0m": "",
    "\x1b[1m": "bold",
    "\x1b[32m": "green",
    "\x1b[33m": "yellow",
    "\x1b[1;31m": "red",
}
"""What a command says of colour, and how it is drawn."""


class Shown(NamedTuple):
    """A line, and when it was complete, in seconds since the command was started."""

    at: float
    text: str


def record(command: str) -> str:
    """Run a command of ours in a terminal; return what it showed, as asciicast v2.

    Raises CalledProcessError where it fails.
    """
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    environment.pop("NO_COLOR", None)
    begun = time.monotonic()
    program, *arguments = command.split()
    process = subprocess.Popen(
        [sys.executable, "-m", program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=its,
        stderr=its,
        env=environment,
    )
    os.close(its)
    header = {"version": 2, "width": COLUMNS, "height": ROWS, "title": command}
    lines: list[object] = [header]
    try:
        while data := os.read(ours, 65536):
            lines.append([round(time.monotonic() - begun, 3), "o", data.decode()])
    except OSError:  # EIO: the last who had it open has closed it.
        pass
    os.close(ours)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command)
    return "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)


def draw(recording: str) -> str:
    """A recording of lines, one after the other, as an SVG. Raises ValueError for what moves the
    cursor otherwise, and for a line too long.
    """
    header, *events = map(json.loads, recording.splitlines())
    title = escape(header["title"])
    lines = [Shown(-TYPED_FOR * SPEED, f"$ {title}"), *_lines(events)]
    whole = TYPED_FOR + lines[-1].at / SPEED + REST
    times = [100 * (TYPED_FOR + line.at / SPEED) / whole for line in lines]
    counts = range(1, len(lines) + 1)
    above = [max(count + 1 - ROWS, 0) for count in counts]  # One row is for the cursor.
    last = " ".join(line.text for line in lines[above[-1] :])
    about = escape(re.sub(r"[\s=]{2,}", " ", COLOUR.sub("", last)))
    screen, row = COLUMNS * CELL, LINE
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" \
aria-labelledby="title about">
<title id="title">{title} in a terminal</title>
<desc id="about">It ends so: {about}</desc>
<style>
{STYLE}
@media (prefers-reduced-motion: no-preference) {{
  .lines {{ animation: lines {whole:.1f}s step-end infinite }}
  .cover {{ animation: cover {whole:.1f}s step-end infinite }}
}}
@keyframes cover {{ {_steps(times, counts)} }}
@keyframes lines {{ {_steps(times, [-count for count in above])} }}
</style>
<rect class="card" x=".5" y=".5" width="{WIDTH - 1:g}" height="{HEIGHT - 1:g}" rx="8"/>
<circle class="dot" cx="24" cy="20" r="6"/><circle class="dot" cx="44" cy="20" r="6"/>\
<circle class="dot" cx="64" cy="20" r="6"/>
<text class="muted" x="{WIDTH - MARGIN:g}" y="26" text-anchor="end">\
played {SPEED:g} times as fast</text>
<svg x="{MARGIN:g}" y="{TOP:g}" width="{screen:g}" height="{ROWS * row:g}">
<g class="lines" transform="translate(0 {-above[-1] * row:g})">
{"".join(word for at, line in enumerate(lines) for word in _words(at, line.text))}\
<g class="cover" transform="translate(0 {len(lines) * row:g})">
<rect width="{screen:g}" height="{(len(lines) + 1) * row:g}"/>
<rect class="cursor" y="2" width="{CELL - 1:g}" height="{row - 3:g}"/>
</g></g></svg></svg>
"""


def _lines(events: list[tuple[float, str, str]]) -> Iterator[Shown]:
    begun = ""
    for at, kind, data in events:
        if kind != "o":
            continue
        *whole, begun = (begun + data).split("\r\n")
        for text in whole:
            yield Shown(at, text)
    if begun:
        raise ValueError(f"the last line has no end: {begun!r}")


def _steps(times: Sequence[float], rows: Sequence[int]) -> str:
    """Key frames that move by whole lines; those that change nothing are left out."""
    frames: list[str] = []
    last = None
    for at, row in zip(times, rows, strict=True):
        if row != last:
            frames.append(f"{at:.2f}% {{ transform: translateY({row * LINE:g}px) }}")
        last = row
    return " ".join(frames)


def _words(row: int, line: str) -> Iterator[str]:
    """The words of a line, each group at its place: a font with other widths moves nothing."""
    y = row * LINE + 15
    column, look = 0, ""
    for piece in re.split(f"({COLOUR.pattern})", line):
        if piece in CLASSES:
            look = CLASSES[piece]
            continue
        if not (piece or "x").isprintable():
            raise ValueError(f"neither text nor a colour that is known: {piece!r}")
        for word in re.finditer(r"\S+(?: \S+)*", piece):
            begins, length = column + word.start(), len(word[0])
            if begins + length > COLUMNS:
                raise ValueError(f"more than {COLUMNS} columns: {line!r}")
            styled = f'class="{look}" ' if look else ""
            yield (
                f'<text {styled}x="{begins * CELL:g}" y="{y:g}" '
                f'textLength="{length * CELL:g}">{escape(word[0])}</text>\n'
            )
        column += len(piece)


def main() -> None:
    """Record it and draw it."""
    RECORDING.write_text(record(COMMAND))
    redraw()


def redraw() -> None:
    """Draw it from the recording that is there."""
    DRAWING.write_text(draw(RECORDING.read_text()))
    print(f"{DRAWING.name}: {DRAWING.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    redraw()
