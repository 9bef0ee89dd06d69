"""Plots as SVG that reads well in light and in dark, on its own and in an <img>.

    figure = lines(
        "A sample, by connections", "In words, for who does not see it: 104 us with 0, ...",
        Axis("connections"), Axis("CPU time", log=True, tell=lambda value: f"{value:g} us"),
        [Series("probe", [Point(0, 104), Point(100_000, 105, low=101, high=120)]), ...],
    )
    figure = bars(
        "Found after", "...", Axis("seconds"), ("probe", "tcpSocket"),
        {"accept thread dead": (Bar(4.5, low=4.2, high=4.8), Bar(None, "never"))},
    )
    Path("docs/figures/sample.svg").write_text(figure)

`lines` joins the points of a series, or marks them alone where it says `joined=False` (a scatter).
`bars` lies them on their side, one group below the other, in each a bar for every series by its
place. A series has the same colour and mark in both, by its place: give ours first. Where an axis
does not say where it begins and ends, it goes from 0 (log: from the least figure) to the greatest.
Axes that are `log` take figures above 0; give them `low` for bars, whose length begins there. `low`
and `high` of a figure are drawn as a whisker.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH = 920
LEFT, RIGHT = 24.0, 24.0
PLOT_HEIGHT = 300.0
BAR, GROUP_GAP = 15.0, 16.0
LETTER = 7.1
"""Pixels that a letter of 13 px takes on the average, by which legends are broken into lines."""

COLOURS = (
    ("#0969da", "#4493f8"),
    ("#bc4c00", "#f0883e"),
    ("#8250df", "#ab7df8"),
    ("#1a7f37", "#3fb950"),
    ("#cf222e", "#f85149"),
    ("#9a6700", "#d29922"),
    ("#bf3989", "#db61a2"),
    ("#1b7c83", "#39c5cf"),
    ("#59636e", "#9198a1"),
)
MARKS = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0",
    "M-4-4h8v8h-8z",
    "M0-5 5 4h-10z",
    "M0-5.5 5.5 0 0 5.5-5.5 0z",
    "M0 5-5-4h10z",
    "M-5-1.8h3.2v-3.2h3.6v3.2h3.2v3.6h-3.2v3.2h-3.6v-3.2h-3.2z",
)
"""Of each series by its place: its colour in light and in dark, and its mark, which tells it apart
without colour."""

STYLE = """\
text { font: 13px -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif }
text { fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 } .muted { fill: #59636e }
.middle { text-anchor: middle } .end { text-anchor: end }
.card { fill: #ffffff; stroke: #d0d7de } .grid { stroke: #d8dee4 }
.whisker { stroke: #1f2328; stroke-width: 1.2 }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } .muted { fill: #9198a1 }
  .card { fill: #0d1117; stroke: #3d444d } .grid { stroke: #2a313c } .whisker { stroke: #f0f6fc }
}
"""


def number(value: float) -> str:
    """The figure as a tick shows it: 0.2, 15, 100k."""
    if abs(value) >= 10_000:
        return f"{value / 1000:,g}k"
    return f"{value:,g}"


class Axis(NamedTuple):
    """What is measured, its unit in words, and how a figure of it is written."""

    label: str
    log: bool = False
    tell: Callable[[float], str] = number
    low: float | None = None
    high: float | None = None


class Point(NamedTuple):
    """The median at `x`, and how far down and up the runs went."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


class Series(NamedTuple):
    """Points in the order in which they are joined."""

    name: str
    points: Sequence[Point]
    joined: bool = True


class Bar(NamedTuple):
    """A figure with the words beside it (the figure itself without any); None has words alone."""

    value: float | None
    words: str = ""
    low: float | None = None
    high: float | None = None


class Scale:
    """From figures to pixels. Raises ValueError for figures not above 0 on a log axis."""

    def __init__(self, axis: Axis, figures: Sequence[float], start: float, end: float) -> None:
        self.axis, self.start, self.end = axis, start, end
        low = min(figures, default=1.0) if axis.log else min(0.0, *figures, 0.0)
        high = max(figures, default=1.0)
        low, high = axis.low or low, axis.high or high
        if axis.log and low <= 0:
            raise ValueError(f"{axis.label}: a log axis begins above 0, not at {low:g}")
        if high <= low:
            high = 2 * low if low > 0 else low + 1
        ticks = _powers(low, high) if axis.log else _steps(low, high)
        self.low = ticks[0] if axis.low is None else axis.low
        self.high = ticks[-1] if axis.high is None else axis.high
        self.ticks = [tick for tick in ticks if self.low <= tick <= self.high]

    def at(self, value: float) -> float:
        """Where a figure lies, in pixels; at the end of the axis if it is beyond."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.axis.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def _steps(low: float, high: float) -> list[float]:
    """Round figures at equal distances, from at or below `low` to at or above `high`."""
    rough = (high - low) / 5
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(magnitude * by for by in (1, 2, 5, 10) if magnitude * by >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(each * step, 10) for each in range(first, last + 1)]


def _powers(low: float, high: float) -> list[float]:
    """The same for a log axis: powers of ten, and 2 and 5 of them where there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    least = max((tick for tick in ticks if tick <= low * 1.001), default=ticks[0])
    most = min((tick for tick in ticks if tick >= high * 0.999), default=ticks[-1])
    return [tick for tick in ticks if least <= tick <= most]


def lines(title: str, about: str, x: Axis, y: Axis, series: Sequence[Series]) -> str:
    """A line for each series, or its points alone; `about` tells the figures in words."""
    body, top = _head(title, [each.name for each in series])
    body.append(text(LEFT, top + 4, y.label, "muted"))
    top += 18
    bottom = top + PLOT_HEIGHT
    points = [point for each in series for point in each.points]
    ups = [value for point in points for value in point[1:] if value is not None]
    upward = Scale(y, ups, bottom, top)
    left = LEFT + 10 + max(len(y.tell(tick)) for tick in upward.ticks) * LETTER
    along = Scale(x, [point.x for point in points], left + 6, WIDTH - RIGHT - 16)
    for tick in upward.ticks:
        body.append(line("grid", left, upward.at(tick), WIDTH - RIGHT, upward.at(tick)))
        body.append(text(left - 8, upward.at(tick) + 4, y.tell(tick), "muted end"))
    for tick in along.ticks:
        body.append(text(along.at(tick), bottom + 20, x.tell(tick), "muted middle"))
    body.append(text((left + WIDTH - RIGHT) / 2, bottom + 42, x.label, "muted middle"))
    for place, each in reversed(list(enumerate(series))):  # the first lies on top
        placed = [(along.at(point.x), upward.at(point.y)) for point in each.points]
        if each.joined:
            path = " ".join(f"{right:.1f},{up:.1f}" for right, up in placed)
            body.append(f'<polyline class="line{place}" points="{path}"/>')
        for nth, (point, (right, up)) in enumerate(zip(each.points, placed, strict=True), 1):
            if point.low is not None and point.high is not None:
                body.append(
                    line("whisker", right, upward.at(point.low), right, upward.at(point.high))
                )
            if not each.joined or len(placed) <= 12 or nth == len(placed):
                body.append(_mark(place, right, up))
    return whole(title, about, bottom + 58, body, len(series))


def bars(
    title: str,
    about: str,
    value: Axis,
    names: Sequence[str],
    groups: Mapping[str, Sequence[Bar | None]],
) -> str:
    """Bars on their side, in groups; a bar that is None leaves its place out."""
    body, top = _head(title, names)
    left = LEFT + 14 + max(len(group) for group in groups) * LETTER
    figures = [
        figure
        for group in groups.values()
        for bar in group
        if bar is not None
        for figure in (bar.value, bar.high)
        if figure is not None
    ]
    words = [_words(value, bar) for group in groups.values() for bar in group if bar is not None]
    along = Scale(
        value, figures, left, WIDTH - RIGHT - 12 - LETTER * max(map(len, words), default=0)
    )
    drawn: list[str] = []
    up = top + 6.0
    for group, members in groups.items():
        present = [(place, bar) for place, bar in enumerate(members) if bar is not None]
        middle = up + BAR * len(present) / 2
        drawn.append(text(left - 12, middle + 4, group, "end"))
        for place, bar in present:
            drawn += _bar(along, value, place, bar, up)
            up += BAR
        up += GROUP_GAP
    bottom = up - GROUP_GAP + 6
    for tick in along.ticks:
        body.append(line("grid", along.at(tick), top, along.at(tick), bottom))
        body.append(text(along.at(tick), bottom + 18, value.tell(tick), "muted middle"))
    body.append(text((along.start + along.end) / 2, bottom + 40, value.label, "muted middle"))
    return whole(title, about, bottom + 56, body + drawn, len(names))


def _bar(along: Scale, axis: Axis, place: int, bar: Bar, up: float) -> list[str]:
    end = along.start if bar.value is None else max(along.at(bar.value), along.start + 1.5)
    parts, right = [], end
    if bar.value is not None:
        width = end - along.start
        parts.append(
            f'<rect class="fill{place}" x="{along.start:.1f}" y="{up + 1.5:.1f}"'
            f' width="{width:.1f}" height="{BAR - 3:g}" rx="2"/>'
        )
    if bar.low is not None and bar.high is not None:
        right = max(end, along.at(bar.high))
        parts.append(line("whisker", along.at(bar.low), up + BAR / 2, right, up + BAR / 2))
    kind = f"fill{place}" if bar.value is None else "muted"
    parts.append(text(right + 6, up + BAR - 3.5, _words(axis, bar), kind))
    return parts


def _words(axis: Axis, bar: Bar) -> str:
    return bar.words or ("" if bar.value is None else axis.tell(bar.value))


def _head(title: str, names: Sequence[str]) -> tuple[list[str], float]:
    """The title and the legend, and where what follows may begin."""
    body = [text(LEFT, 32, title, "title")]
    right, up = LEFT, 58.0
    for place, name in enumerate(names):
        width = 30 + len(name) * LETTER
        if right + width > WIDTH - RIGHT and right > LEFT:
            right, up = LEFT, up + 20
        body.append(_mark(place, right + 6, up - 4))
        body.append(text(right + 17, up, name))
        right += width
    return body, up + 18


def whole(title: str, about: str, height: float, body: Sequence[str], count: int) -> str:
    light, dark = (_colours(count, ground) for ground in (0, 1))
    style = f"{STYLE}{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}"'
            ' role="img" aria-labelledby="title about">',
            f'<title id="title">{escape(title)}</title>',
            f'<desc id="about">{escape(about)}</desc>',
            f"<style>\n{style}\n</style>",
            f'<rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1:.0f}"'
            ' rx="8"/>',
            *body,
            "</svg>\n",
        )
    )


def _colours(count: int, ground: int) -> str:
    colours = ((place, COLOURS[place % len(COLOURS)][ground]) for place in range(count))
    return "\n".join(
        f".fill{place} {{ fill: {colour} }} .line{place} {{ stroke: {colour} }}"
        for place, colour in colours
    )


def _mark(place: int, right: float, up: float) -> str:
    path = MARKS[place % len(MARKS)]
    return f'<path class="fill{place}" transform="translate({right:.1f} {up:.1f})" d="{path}"/>'


def text(right: float, up: float, words: str, kind: str = "") -> str:
    given = f' class="{kind}"' if kind else ""
    return f'<text{given} x="{right:.1f}" y="{up:.1f}">{escape(words)}</text>'


def line(kind: str, left: float, up: float, right: float, down: float) -> str:
    return f'<path class="{kind}" d="M{left:.1f} {up:.1f}L{right:.1f} {down:.1f}"/>'
