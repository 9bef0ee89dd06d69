"""A scene for who has no terminal, pure: a line for each target, and then one for each change."""

from collections.abc import Iterator

from probe.display import printable, utc
from probe.watch.document import Changed, Document, Moment
from probe.watch.scene import Scene


def news(before: Scene, after: Scene, wall: float) -> list[str]:
    """What is to be told of the step from one scene to the next. `wall`: seconds of the epoch."""
    lines: list[str] = []
    if before.document is None and after.document is not None:
        lines += map(line, as_they_are(after.document))
    elif before.changes != after.changes:
        known = set(before.changes)
        lines += [line(change) for change in reversed(after.changes) if change not in known]
    if after.lost and not before.lost:
        lines.append(line(Changed(Moment(utc(wall)), "", "lost", after.lost)))
    return lines


def as_they_are(document: Document) -> Iterator[Changed]:
    """What each target is, as if it had become so just now."""
    for target in document.targets:
        verdict = target.verdict
        yield Changed(
            when=Moment(document.at),
            target=target.name,
            after=verdict.condition,
            text=verdict.message,
            ready=target.ready,
            live=target.live,
        )


def line(change: Changed) -> str:
    """As `probe replay` writes them, with the time of the day in place of the seconds."""
    at = f"{change.when.at[:19]}Z"
    if not change.target:
        return printable(f"{at}  {'sidecar':<9}  {change.text}")
    flags = f"{'ready' if change.ready else 'not-ready'} {'live' if change.live else 'not-live'}"
    return printable(f"{at}  {change.after:<9}  {flags:<18}  {change.text or change.target}")
