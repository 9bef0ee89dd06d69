"""What is wrong with a configuration: every error at once, each on one line with its place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from probe.display import without_secrets
from probe.imports.typing_lite import TYPE_CHECKING

if TYPE_CHECKING:
    from probe.config.records import Config

MOST_ERRORS = 100
"""A file of nonsense gets so many lines and then a count of the rest."""


CLIENT = frozenset({"cert", "client", "key"})
"""Parts of names that other tools have for a client's certificate. Whoever writes one means ours,
and no setting that looks alike: an authority is something else."""


class ConfigError(Exception):
    """Everything that is wrong, a line each: `PLACE: what is wrong and what is accepted`."""

    def __init__(
        self, errors: Sequence[str], notices: Sequence[str] = (), config: Config | None = None
    ) -> None:
        """`config` has what could be read all the same."""
        super().__init__("\n".join(errors))
        self.errors = tuple(errors)
        self.notices = tuple(notices)
        self.config = config


class Problems:
    """Collects errors, and notices of what was ignored, while a configuration is read."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.notices: list[str] = []
        self.unsaid = 0

    def error(self, place: str, message: str) -> None:
        if len(self.errors) < MOST_ERRORS:
            self.errors.append(f"{place}: {message}")
        else:
            self.unsaid += 1

    def notice(self, place: str, message: str) -> None:
        self.notices.append(f"{place}: {message}")

    def raise_if_any(self, config: Config) -> None:
        """Raise ConfigError if there are errors. `config`: what could be read all the same."""
        if self.unsaid:
            self.errors.append(f"and {self.unsaid} more")
        if self.errors:
            raise ConfigError(self.errors, self.notices, config)


def quote(text: str, most: int = 60) -> str:
    """`text` in quotes on one line, however long or binary it is; a URL without its secrets."""
    if "://" in text:
        text = without_secrets(text)
    return repr(text if len(text) <= most else text[: most - 3] + "...")


def nearest(word: str, known: Iterable[str], cutoff: float = 0.7) -> str:
    """The known word that `word` was probably meant to be; empty when there is none."""
    parts = parts_of(word)
    if not CLIENT.isdisjoint(parts):
        meant = ["key" if "key" in parts else "cert", "file"]
        return next((name for name in known if parts_of(name) == meant), "")
    from difflib import get_close_matches  # only somebody's slip of the pen pays for this

    return next(iter(get_close_matches(word[:60], list(known), n=1, cutoff=cutoff)), "")


def parts_of(name: str) -> list[str]:
    return name.strip("-").replace("_", "-").split("-")


def did_you_mean(near: str) -> str:
    """`; did you mean X?`, or nothing."""
    return f"; did you mean {near}?" if near else ""
