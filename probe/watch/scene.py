"""What has been heard so far, document by document: the picture that is drawn. Pure.

A document tells the last seconds of its history, and of a sidecar that was restarted the memory is
gone. What was heard before is kept here, within bounds.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from probe.watch.document import Changed, Document, History, Moment

POINTS = 600
"""Points of history kept for each target: ten minutes of a second each."""

CHANGES = 100
"""Transitions kept."""

Point = TypeVar("Point")


class Scene(NamedTuple):
    """`changes`: the newest first. `lost`: why nothing is heard, since `lost_at` on the clock of
    whoever says so; what is shown is as old as that.
    """

    where: str
    document: Document | None = None
    histories: Mapping[str, History] = MappingProxyType({})
    changes: tuple[Changed, ...] = ()
    lost: str = ""
    lost_at: float = 0.0
    remarks: tuple[str, ...] = ()
    """What the watching itself has to say, the newest last."""


def hear(scene: Scene, document: Document, now: float) -> Scene:
    """The scene after one more document. `now`: seconds on the clock of `lost_at`."""
    known = scene.histories
    histories = {
        target.name: extend(known.get(target.name, History()), target.history)
        for target in document.targets
    }
    changes = merge(scene.changes, (*_returned(scene, document, now), *document.transitions))
    return scene._replace(document=document, histories=histories, changes=changes, lost="")


def miss(scene: Scene, why: str, now: float) -> Scene:
    """The scene while nothing is heard."""
    return scene._replace(lost=why, lost_at=scene.lost_at if scene.lost else now)


def extend(known: History, told: History) -> History:
    """The points known so far with those that are told now, which may be some of the same."""
    overlap = known.last - (told.last - len(told.condition))
    if known.step != told.step or not 0 <= overlap <= len(known.condition):
        return told  # It is another one, or too much has been missed.
    if told.last < known.last:
        return told
    kept = len(known.condition) - overlap
    return told._replace(
        condition=(known.condition[:kept] + told.condition)[-POINTS:],
        queue=_joined(known.queue[:kept], told.queue),
        accept_delay=_joined(known.accept_delay[:kept], told.accept_delay),
    )


def _joined(known: tuple[Point, ...], told: tuple[Point, ...]) -> tuple[Point, ...]:
    return (*known, *told)[-POINTS:]


def merge(known: Iterable[Changed], told: Iterable[Changed]) -> tuple[Changed, ...]:
    """Both, each once and as it was heard first, the newest first."""
    each = {(change.when.at, change.target, change.after): change for change in (*told, *known)}
    # By the time alone: what came at the same moment stays in the order of its coming.
    newest = sorted(each.values(), key=lambda change: change.when.at, reverse=True)
    return tuple(newest[:CHANGES])


def _returned(scene: Scene, document: Document, now: float) -> list[Changed]:
    """What is to be said of a sidecar that was away."""
    before = scene.document
    if before is None:
        return []
    away = f" after {now - scene.lost_at:.0f} s" if scene.lost else ""
    if document.started_at.seconds_ago < before.started_at.seconds_ago:
        text = f"the sidecar was restarted, and answers{away}: its memory begins anew"
        return [Changed(Moment(document.at), "", "restarted", text)]
    if scene.lost:
        return [Changed(Moment(document.at), "", "heard again", f"the sidecar answers again{away}")]
    return []
