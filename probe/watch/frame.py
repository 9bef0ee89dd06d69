"""A scene as the lines of a screen: what is wrong first, the rest as there is room. Pure."""

from typing import NamedTuple

from probe.model import WORST_FIRST
from probe.watch.cells import clip, fit, left, width, wrap
from probe.watch.controls import Controls, Sheet
from probe.watch.document import Changed, Document, Expected, History, WatchedTarget
from probe.watch.past import minutes, span, spark, strip, whole
from probe.watch.scene import Scene
from probe.watch.style import BOLD, COLOURS, DIM, RED, YELLOW, Appearance, duration, number
from probe.watch.table import Table, ordered, together, why

KEYS = ("e evidence", "d diagnose", "p pause", "q quit", "? help")
KEYS_OF_A_SHEET = ("up/down", "q back", "ctrl-c quit")
KEYS_OF_A_LIST = ("up/down", "enter open", "q back", "ctrl-c quit")

CHANGES = 6
"""Transitions that there is to be room for, before charts are drawn."""

REMARKS = 2
"""Lines of what cannot be seen, and the like."""

WIDEST_CHART = 120

NOW = 0.5
"""Seconds until what is due is not worth counting down to."""

MARGIN = "  "


def draw(
    scene: Scene, controls: Controls, columns: int, lines: int, look: Appearance, now: float
) -> list[str]:
    """As many lines as the screen has, none of more cells than it has columns. `now`: on the clock
    of `scene.lost_at`.
    """
    foot = [_foot(controls, columns, look)][: int(lines >= 3)]
    height = lines - len(foot)
    shown = controls.paused or scene
    if shown.document is None:
        body = wrap(scene.lost or f"asking {scene.where}", columns, height, look.ellipsis)
    else:
        picture = Picture(shown, shown.document, controls, columns, look)
        # While it is paused too, it is said that nothing is heard any more.
        news = _news(scene, columns, look, now)
        if controls.sheet is not None:
            body = [*news, *picture.sheet(controls.sheet, height - len(news))]
        else:
            body = [*news, *picture.whole(height - len(news))]
    body = body[:height]
    return [clip(line, columns) for line in (*body, *[""] * (height - len(body)), *foot)]


def snapshot(scene: Scene, document: Document, columns: int, look: Appearance) -> list[str]:
    """The same to be printed once: every target, and the latest transitions."""
    return Picture(scene, document, Controls(), columns, look).printed()


def page(lines: int) -> int:
    """How much of a sheet is seen at once on a screen of so many lines."""
    return max(lines - 3, 1)


class Room(NamedTuple):
    """How many lines each part has, by the height of the screen."""

    title: int
    reason: int
    found: int
    next: int
    gaps: int

    @classmethod
    def within(cls, height: int) -> "Room":
        return cls(
            title=int(height >= 8),
            reason=2 if height >= 12 else int(height >= 5),
            found=2 if height >= 20 else int(height >= 14),
            next=3 if height >= 30 else 2 if height >= 12 else int(height >= 9),
            gaps=int(height >= 18),
        )


class Picture:
    """One document, drawn part by part."""

    def __init__(
        self, scene: Scene, document: Document, controls: Controls, columns: int, look: Appearance
    ) -> None:
        self._scene = scene
        self._document = document
        self._controls = controls
        self._columns = columns
        self._look = look
        self._targets = ordered(document)
        named = [target for target in self._targets if target.name == controls.selected]
        self._chosen = next(iter(named or self._targets), None)
        self._seconds = span(scene.histories.values())

    def whole(self, height: int) -> list[str]:
        """The verdict, what follows, a line a target, and below what was before."""
        room = Room.within(height)
        gap = [""] * room.gaps
        lines = [self._title()][: room.title]
        lines += [self._headline(), *self._reason(room.reason), *self._found(room.found)]
        lines += self._next(room.next)
        lines += [*self._remarks(room.gaps * REMARKS), *gap]
        free = height - len(lines)
        changes = [self._change(change) for change in self._scene.changes]
        kept = min(len(changes) + 1, free // 3) + len(gap) if changes and free >= 6 else 0
        lines += self._table(free - kept)
        free = height - len(lines)
        wanted = min(len(changes), CHANGES) + bool(changes) + len(gap)
        charts = self._charts()
        if charts and free >= len(gap) + len(charts) + wanted:
            lines += gap + charts
        free = height - len(lines) - len(gap)
        if changes and free >= 2:
            lines += [*gap, self._look.paint("TRANSITIONS", BOLD), *changes[: free - 1]]
        return lines

    def printed(self) -> list[str]:
        """The verdict, what follows, every target, and the latest transitions."""
        changes = [self._change(change) for change in self._scene.changes[:CHANGES]]
        lines = [self._title(), self._headline(), *self._reason(3), *self._found(3)]
        lines += [*self._next(3), *self._remarks(REMARKS), ""]
        lines += self._table(3 * len(self._targets) + 3)
        return [*lines, "", "TRANSITIONS", *changes] if changes else lines

    def sheet(self, sheet: Sheet, height: int) -> list[str]:
        """What is read, under a line that goes on telling the verdict."""
        size = min(page(height + 1), max(height - 2, 1))
        end = min(sheet.top + size, len(sheet.lines))
        place = f"{sheet.title}, lines {sheet.top + 1} to {end} of {len(sheet.lines)}"
        lines = [self._headline(), self._faint(place, "")]
        for place_of, text in enumerate(sheet.lines[sheet.top : end], sheet.top):
            margin = MARGIN if sheet.ids else ""
            shown = fit(text, self._columns - len(margin), self._look.ellipsis)
            if sheet.ids and place_of == sheet.chosen:
                lines.append(f"> {self._look.paint(shown, BOLD)}")
            else:
                lines.append(f"{margin}{shown}")
        return lines

    # --- the verdict

    def _title(self) -> str:
        """Whose picture it is, and of when."""
        document, look = self._document, self._look
        time = f"{document.at.partition('T')[2][:8]} UTC"
        if self._controls.paused is not None:
            time = f"PAUSED at {time}"
        by = f" by {document.view}" if document.view else ""
        age = duration(document.started_at.seconds_ago)
        whole = f"probe {document.version} {self._scene.where}{by}, up {age}"
        time = fit(time, self._columns, look.ellipsis)
        code = DIM if self._controls.paused is None else YELLOW
        rest = left(whole, max(self._columns - width(time) - 1, 0), look.ellipsis)
        return f"{look.paint(rest, DIM)} {look.paint(time, code)}"

    def _headline(self) -> str:
        document = self._document
        begun = document.since
        since = f", since {begun.time} ({duration(begun.seconds_ago)})" if begun.at else ""
        text = fit(f"{document.headline}{since}", self._columns, self._look.ellipsis)
        colour = COLOURS[document.condition]
        return self._look.paint(text, f"{BOLD};{colour}" if colour else BOLD)

    def _reason(self, most: int) -> list[str]:
        return self._wrapped(self._document.reason, most)

    def _found(self, most: int) -> list[str]:
        """What the evidence of it comes to."""
        found = self._document.found
        return [] if found is None else self._wrapped(f"Found: {found.text}", most)

    def _wrapped(self, text: str, most: int) -> list[str]:
        lines = wrap(text, self._columns - len(MARGIN), most, self._look.ellipsis)
        return [f"{MARGIN}{line}" for line in lines]

    def _next(self, most: int) -> list[str]:
        """Each in a line, and where there is room for more the first one in as many as it takes."""
        first, *others = self._document.next or (None,)
        if first is None or not most:
            return []
        cells = self._columns - len(MARGIN)
        several = len(self._targets) > 1
        lines = wrap(_expectation(first, several), cells, most, self._look.ellipsis)
        lines += (_expectation(other, several) for other in others)
        return [self._faint(line) for line in lines[:most]]

    def _remarks(self, most: int) -> list[str]:
        """What cannot be seen, and what the watching itself has to say."""
        unseen = [f"not seen: {what}" for what in self._document.sidecar.cannot_see]
        told = (*self._scene.remarks, *unseen)
        return [self._faint(remark, code=YELLOW) for remark in told[:most]]

    def _faint(self, text: str, margin: str = MARGIN, code: str = DIM) -> str:
        shown = fit(text, self._columns - len(margin), self._look.ellipsis)
        return f"{margin}{self._look.paint(shown, code)}"

    # --- the targets

    def _table(self, height: int) -> list[str]:
        """As many as there is room for, the worst first; the chosen one is among them."""
        if height < 1:
            return []
        if self._chosen is None:
            return [self._faint("nothing that listens was found yet")]
        table = Table(self._document, self._seconds, self._columns, self._look)
        accepts = together(self._document)
        lines = [self._faint(accepts)] if accepts and height >= 10 else []
        lines += [table.heading()] if height >= 3 else []
        free = height - len(lines)
        reasons = [self._reasons(target, 2 if height >= 12 else 1) for target in self._targets]
        sizes = [1 + len(lines_of_reason) for lines_of_reason in reasons]
        first, last = in_sight(sizes, self._targets.index(self._chosen), free)
        rows = []
        for target, below in zip(self._targets[first:last], reasons[first:last], strict=True):
            rows += [self._row(target, table), *below]
        if others := (*self._targets[:first], *self._targets[last:]):
            told = self._faint(f"and {_counted(others)}: up and down show them")
            rows = [*rows[: free - 1], told] if free > 1 else rows
        return [*lines, *rows[:free]]

    def _row(self, target: WatchedTarget, table: Table) -> str:
        history = self._scene.histories.get(target.name, History())
        chosen = target is self._chosen and len(self._targets) > 1
        return table.row(target, history, chosen=chosen)

    def _reasons(self, target: WatchedTarget, most: int) -> list[str]:
        """What is to be said below its figures."""
        said = why(target, known=self._document.reason)
        code = COLOURS[target.verdict.condition]
        lines = wrap(said, self._columns - 4, most, self._look.ellipsis)
        return [f"    {self._look.paint(line, code)}" for line in lines]

    def _charts(self) -> list[str]:
        """Ten minutes of the chosen target: its conditions, its queue, and its accept delay."""
        target, look = self._chosen, self._look
        cells = min(self._columns - 32, WIDEST_CHART)
        if target is None or cells < 10:
            return []
        history = self._scene.histories.get(target.name, History())
        limit = target.queue.limit if target.queue else None
        longest = max((length or 0 for length in history.queue), default=0)
        known = [delay for delay in history.accept_delay if delay is not None]
        slowest = max(known, default=None)
        lengths = whole(history.queue, history.step, self._seconds, None)
        delays = whole(history.accept_delay, history.step, self._seconds, None)
        queue = spark(lengths, cells, max(longest, limit or 1), look)
        delay = spark(delays, cells, slowest or 1.0, look)
        name = fit(target.name, self._columns - 24, look.ellipsis)
        most = "" if limit is None else f", limit {number(limit)}"
        return [
            look.paint(f"{name}, THE {minutes(self._seconds)}", BOLD),
            f"  state  {strip(history, self._seconds, cells, look)}",
            f"  queue  {queue} up to {number(longest)}{most}",
            f"  delay  {delay} up to {duration(slowest)}",
        ]

    # --- what was before

    def _change(self, change: Changed) -> str:
        """When, of whom, what it came to, and why."""
        look = self._look
        name = fit(change.target or "sidecar", 16, look.ellipsis)
        head = f"{MARGIN}{fit(change.when.time, 8, look.ellipsis)}  {name:<5}  "
        state = fit(f"{change.after:<9}", max(self._columns - width(head), 0), look.ellipsis)
        said = ["not ready"] if change.ready is False else []
        said += ["not live"] if change.live is False else []
        flags = f"{', '.join(said)}: " if said else ""
        text = f"  {flags}{change.text.removeprefix(f'{change.target} ')}"
        rest = fit(text, max(self._columns - width(head + state), 0), look.ellipsis)
        codes = {str(condition): code for condition, code in COLOURS.items()}
        return f"{head}{look.paint(state, codes.get(change.after, YELLOW))}{rest}"


def in_sight(sizes: list[int], chosen: int, free: int) -> tuple[int, int]:
    """From which block to which there is room, in the order of all of them and with the chosen one;
    a line is left for those that do not fit.
    """
    if sum(sizes) <= free:
        return 0, len(sizes)
    first = 0
    while first < chosen and sum(sizes[first : chosen + 1]) > free - 1:
        first += 1
    last = first + 1
    while last < len(sizes) and sum(sizes[first : last + 1]) <= free - 1:
        last += 1
    return first, last


def _counted(targets: tuple[WatchedTarget, ...]) -> str:
    """`3 more unhealthy, 40 more healthy`."""
    counts = dict.fromkeys(WORST_FIRST, 0)
    for target in targets:
        counts[target.verdict.condition] += 1
    return ", ".join(f"{count} more {name}" for name, count in counts.items() if count)


def _expectation(expected: Expected, several: bool) -> str:
    """When what will be, and where there are several targets, of which."""
    when = "Next"
    if expected.in_seconds is not None:
        soon = expected.in_seconds < NOW
        when = "Now" if soon else f"Next, in {duration(expected.in_seconds)}"
    of = f", of {expected.target}" if several and expected.target else ""
    return f"{when}{of}: {expected.text}"


def _news(scene: Scene, columns: int, look: Appearance, now: float) -> list[str]:
    """Why there is none."""
    if not scene.lost:
        return []
    ago = duration(max(now - scene.lost_at, 0))
    text = (
        f"No news for {ago}: {scene.lost}. Asked again every second; below is what was last heard."
    )
    return [look.paint(line, RED) for line in wrap(text, columns, 2, look.ellipsis)]


def _foot(controls: Controls, columns: int, look: Appearance) -> str:
    """What is being done, and the keys that do something now."""
    sheet = controls.sheet
    keys = KEYS if sheet is None else KEYS_OF_A_LIST if sheet.ids else KEYS_OF_A_SHEET
    told = "  ".join(keys)
    if controls.paused is not None:
        told = told.replace("p pause", "p go on")
    if controls.busy:
        told = f"{controls.busy} {look.ellipsis}  {told}"
    return look.paint(fit(told, columns, look.ellipsis), DIM)
