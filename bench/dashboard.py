"""The dashboard of examples/k8s/monitoring, drawn as Grafana would, from a real incident.

    python -m bench dashboard     # writes docs/figures/dashboard.svg, after three minutes

A real Prometheus scrapes a real sidecar with default settings once a second, while the accept
thread of the application dies under five requests a second and the application is restarted, as
kubelet would: half a minute after /live has failed. The panels, their queries, units, colours and
places are those of the dashboard's own file.
"""

import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from bench.plot import LEFT, RIGHT, WIDTH, Axis, Scale, line, number, text, whole
from tests.faults.harness import application, flowing, watched
from tests.faults.test_faults import HEALTHY, TRAFFIC
from tests.kubernetes.dashboard import POD, Prometheus, Series, dashboard, prometheus

DRAWING = Path(__file__).parent.parent / "docs" / "figures" / "dashboard.svg"

PORT, BACKLOG, RATE = 8080, 50, 5
CALM, RESTARTED_AFTER = 45, 25
"""Seconds before the fault and after its end; and from not live until the restart, which is
kubelet's failureThreshold of 6, every 5 s."""

STEP = 1.0
"""Seconds between scrapes, and between the points of a line."""

COLUMN, ROW, GAP = (WIDTH - LEFT - RIGHT) / 24, 15.5, 10.0
"""Pixels of a column and a row of Grafana's grid, and between panels."""

HEADING = 22.0

INDENT = 44.0
"""Pixels before the lines of a panel, for the figures of its axis."""

STATES = {"green": 3, "red": 4, "orange": 1}
"""The colours of states in the dashboard, as places among the colours of a plot."""

LINES = 6
"""Colours that lines take in turn."""


class Panel(NamedTuple):
    """A panel of the dashboard's file, and its series in seconds since the fault."""

    file: dict[str, Any]
    series: tuple[Series, ...]


class Scene(NamedTuple):
    """Everything that is drawn. Times are in seconds since the fault."""

    begins: float
    ends: float
    saved: tuple[float, ...]
    panels: tuple[Panel, ...]


def main() -> None:
    """Let it happen, and draw it."""
    scene = play()
    DRAWING.write_text(draw(scene))
    print(f"{DRAWING.name}: {DRAWING.stat().st_size / 1000:.1f} kB")


def play() -> Scene:
    """The incident, as Prometheus has it in the end."""
    address = ("--port", str(PORT), "--backlog", str(BACKLOG))
    clients = (sys.executable, str(TRAFFIC), str(PORT), str(RATE), "200")
    with (
        tempfile.TemporaryDirectory(prefix="probe-dashboard-") as name,
        application(*address) as app,
        watched(app, "--evidence-dir", str(Path(name) / "evidence")) as sidecar,
        flowing(*clients),
        prometheus(Path(name), STEP, {sidecar.port: POD}) as real,
    ):
        time.sleep(CALM)
        fault = time.time()
        app.tell("die")
        sidecar.until(60, live=False)
        time.sleep(RESTARTED_AFTER)
        app.end()
        with application(*address):
            sidecar.until(20, **HEALTHY)
            time.sleep(CALM)
            return _read(real, fault)


def _read(real: Prometheus, fault: float) -> Scene:
    chosen = {**POD, "target": str(PORT)}
    begins = fault - CALM + 8  # What is a rate needs some scrapes first.

    def series(target: dict[str, Any]) -> Iterator[Series]:
        for each in real.shows(target, chosen, begins, STEP):
            yield each._replace(points=tuple((at - fault, value) for at, value in each.points))

    board = dashboard()
    (annotation,) = board["annotations"]["list"]
    saved = series({**annotation, "legendFormat": annotation["titleFormat"]})
    return Scene(
        begins - fault,
        time.time() - fault,
        tuple(each.points[0][0] for each in saved),
        tuple(
            Panel(
                panel, tuple(each for target in panel.get("targets", ()) for each in series(target))
            )
            for panel in board["panels"]
        ),
    )


def draw(scene: Scene) -> str:
    """The panels at their places."""
    body: list[str] = [text(LEFT, 32, dashboard()["title"], "title")]
    body.append(
        text(
            WIDTH - RIGHT,
            32,
            "seconds since the accept thread died; dotted: evidence is saved",
            "muted small end",
        )
    )
    down = 44.0
    rows = {panel.file["gridPos"]["y"] for panel in scene.panels}
    for y in sorted(rows):
        members = [panel for panel in scene.panels if panel.file["gridPos"]["y"] == y]
        heading = members[0].file["type"] == "row"
        height = HEADING if heading else members[0].file["gridPos"]["h"] * ROW
        for panel in members:
            place = panel.file["gridPos"]
            if heading:
                body.append(text(LEFT, down + 15, panel.file["title"], "strong"))
                continue
            left, width = LEFT + place["x"] * COLUMN, place["w"] * COLUMN
            right = left + width - (GAP if place["x"] + place["w"] < 24 else 0)
            body += _panel(scene, panel, left + (GAP if place["x"] else 0) / 2, right, down, height)
        down += height + (0 if heading else GAP)
    return whole(dashboard()["title"], ABOUT, down + 8, [STYLE, *body], LINES)


STYLE = """\
<style>
.small { font-size: 10.5px } .strong { font-weight: 600 }
.dash { stroke-dasharray: 5 4 } .limit { stroke-dasharray: 4 4 } .saved { stroke-dasharray: 2 3 }
polyline { stroke-width: 1.5 }
.panel { fill: none; stroke: #d8dee4 } .limit { stroke: #cf222e } .saved { stroke: #0969da }
@media (prefers-color-scheme: dark) {
  .panel { stroke: #2a313c } .limit { stroke: #f85149 } .saved { stroke: #4493f8 }
}
</style>"""

ABOUT = (
    "The dashboard in an incident of some hundred seconds. At second 0 the accept thread dies: the "
    "queue fills to 51 of 50, connections are dropped, ready goes to 0 with the reason "
    "accept_queue_stalled, and half a minute later live does. After the restart all is as before."
)


def _panel(
    scene: Scene, panel: Panel, left: float, right: float, top: float, height: float
) -> Iterator[str]:
    file = panel.file
    yield (
        f'<rect class="panel" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
        f'height="{height:.1f}" rx="4"/>'
    )
    yield text(left + 8, top + 16, file["title"], "strong")
    if not panel.series:
        empty = file["fieldConfig"]["defaults"].get("noValue", "No data")
        yield text((left + right) / 2, top + height / 2, empty, "muted middle")
        return
    along = Scale(Axis("", low=scene.begins, high=scene.ends), [], left + INDENT, right - 10)
    bottom = top + height - (18 if file["type"] == "state-timeline" else 34)
    for tick in along.ticks:
        yield text(along.at(tick), bottom + 13, f"{tick:g}", "muted small middle")
    if file["type"] == "state-timeline":
        yield from _states(panel, along, left + 8, top + 26, bottom)
    else:
        yield from _lines(panel, along, left, top + 26, bottom)
    for at in scene.saved:
        yield line("saved", along.at(at), top + 24, along.at(at), bottom)


def _states(panel: Panel, along: Scale, left: float, top: float, bottom: float) -> Iterator[str]:
    (mapping, *_) = panel.file["fieldConfig"]["defaults"]["mappings"]
    height = (bottom - top) / len(panel.series)
    for place, series in enumerate(panel.series):
        up = top + place * height
        yield text(left, up + 10, series.legend, "muted small")
        for begins, ends, value in _spans(series):
            state = mapping["options"][f"{value:g}"]
            width = along.at(ends) - along.at(begins)
            colour = STATES[state["color"]]
            yield (
                f'<rect class="fill{colour}" fill-opacity=".3" x="{along.at(begins):.1f}" '
                f'y="{up + 15:.1f}" width="{width:.1f}" height="{height - 19:.1f}" rx="2"/>'
            )
            if len(state["text"]) * 7 < width:
                middle = up + 15 + (height - 19) / 2 + 4
                yield text(along.at(begins) + 5, middle, state["text"], "small")


def _spans(series: Series) -> Iterator[tuple[float, float, float]]:
    """From when to when it had the same value."""
    begins, value = series.points[0]
    for (before, _), (at, now) in pairwise([*series.points, (float("inf"), float("nan"))]):
        if now != value or at - before > 1.5 * STEP:
            yield begins, min(before + STEP, at), value
            begins, value = at, now


def _lines(panel: Panel, along: Scale, left: float, top: float, bottom: float) -> Iterator[str]:
    defaults = panel.file["fieldConfig"]["defaults"]
    unit = UNITS[defaults["unit"]]
    limits = [
        step["value"] / unit.size
        for step in defaults.get("thresholds", {}).get("steps", ())
        if step["value"] is not None
    ]
    values = [value / unit.size for series in panel.series for _, value in series.points]
    high = max(*values, *limits, defaults.get("max", 0) / unit.size, 1e-9)
    upward = Scale(Axis("", low=0.0, high=high * 1.05), [], bottom, top)
    for tick in upward.ticks[:: 2 if len(upward.ticks) > 4 else 1]:
        yield line("grid", left + INDENT, upward.at(tick), along.end, upward.at(tick))
        yield text(left + INDENT - 4, upward.at(tick) + 4, unit.tell(tick), "muted small end")
    for limit in limits:
        yield line("limit", left + INDENT, upward.at(limit), along.end, upward.at(limit))
    dashed = [
        override["matcher"]["options"].strip("/")
        for override in panel.file["fieldConfig"]["overrides"]
    ]
    named = left + 10
    for place, series in enumerate(panel.series):
        kind = f"line{place % LINES}"
        if any(re.search(pattern, series.legend) for pattern in dashed):
            kind += " dash"
        for piece in _pieces(series):
            points = " ".join(
                f"{along.at(at):.1f},{upward.at(value / unit.size):.1f}" for at, value in piece
            )
            yield f'<polyline class="{kind}" points="{points}"/>'
        yield (f'<path class="{kind}" stroke-width="2.5" d="M{named:.1f} {bottom + 24:.1f}h12"/>')
        yield text(named + 16, bottom + 28, series.legend, "muted small")
        named += 28 + 6.0 * len(series.legend)


def _pieces(series: Series) -> Iterator[Sequence[tuple[float, float]]]:
    """What can be joined; nothing is drawn where there was nothing."""
    piece = [series.points[0]]
    for before, point in pairwise(series.points):
        if point[0] - before[0] > 1.5 * STEP:
            yield piece
            piece = []
        piece.append(point)
    yield piece


def _seconds(value: float) -> str:
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if value >= size:
            return f"{value / size:g} {unit}"
    return "0"


class Unit(NamedTuple):
    """What figures are divided by, and how the rest is written."""

    size: float
    tell: Callable[[float], str]


UNITS = {
    "short": Unit(1, number),
    "percentunit": Unit(0.01, "{:g} %".format),
    "s": Unit(1, _seconds),
    "cps": Unit(1, "{:g} c/s".format),
    "bytes": Unit(2**20, "{:g} MiB".format),
}
"""As Grafana names and writes them, more or less."""
