"""What a rule says, and what it found."""

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import NamedTuple

from probe.lint.view import View
from probe.manifests import Object, Value


class Level(StrEnum):
    """How much it matters, the worst first."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"

    @property
    def rank(self) -> int:
        return list(Level).index(self)

    def reaches(self, least: "Level") -> bool:
        return self.rank <= least.rank


class Place(NamedTuple):
    """A line of a file, both from 1, and what stands there."""

    file: str
    line: int
    column: int
    about: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Found(NamedTuple):
    """What the check of a rule yields: where, what follows for the user, and what to write."""

    at: Value
    what: str
    instead: str
    lines: tuple[str, ...] = ()
    related: tuple[Place, ...] = ()
    level: Level | None = None
    """Where it is another than the rule's."""
    of: Object | None = None
    """The object that `at` is a part of, where it is not the pod's own."""


class Rule(NamedTuple):
    """One row of the table. Its texts begin a section of docs/rules.md, and help in SARIF."""

    id: str
    level: Level
    seen: str
    """What is seen, as a heading says it."""
    harm: str
    """One sentence: what happens to the user if it stays."""
    remedy: str
    """One sentence: what to write instead."""
    example: str
    """The very lines."""
    check: Callable[[View], Iterator[Found]]


class LintFinding(NamedTuple):
    """One finding, with all that any format prints."""

    rule: Rule
    level: Level
    object: Place
    """Where the object begins that it is about; `about` is its kind and name."""
    place: Place
    what: str
    instead: str
    lines: tuple[str, ...]
    related: tuple[Place, ...]
    ignored: str = ""
    """The reason that an annotation gives for leaving it as it is."""


class LintReport(NamedTuple):
    """What came of it all. `findings` has the ignored ones, too."""

    findings: tuple[LintFinding, ...]
    objects: int
    pods: tuple[Place, ...]
    """The objects whose pods were looked into."""

    @property
    def standing(self) -> tuple[LintFinding, ...]:
        return tuple(finding for finding in self.findings if not finding.ignored)

    @property
    def ignored(self) -> tuple[LintFinding, ...]:
        return tuple(finding for finding in self.findings if finding.ignored)

    def fails(self, least: Level) -> bool:
        return any(finding.level.reaches(least) for finding in self.standing)
