"""What a path and its query ask: one of three questions, of all targets or of one. Pure.

    /ready, /live, /started      of all targets together; each has other names beside this one
    /ready/8080                  of one target, by its name
    ?exclude=8080                of all but this one; may be given again
    ?verbose                     with a line for every check
    ?warn=429                    with this status instead of 200 while a target is suspect

What else a query has is not heeded, as the Kubernetes API server has it: kubelet's probe must not
fail for it.
"""

from enum import StrEnum
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qs, unquote


class Question(StrEnum):
    """What a client may ask; the word that answers it, too."""

    READY = "ready"
    LIVE = "live"
    STARTED = "started"


PATHS = {
    Question.READY: ("/ready", "/readyz"),
    Question.LIVE: ("/live", "/livez", "/healthz"),
    Question.STARTED: ("/started", "/startupz"),
}

QUESTIONS = {path: question for question, paths in PATHS.items() for path in paths}


class Asked(NamedTuple):
    """A question, and what it is about."""

    question: Question
    target: str | None = None
    """The name of the one that is meant, whether there is such a target or not; None: all."""
    excluded: frozenset[str] = frozenset()
    """The names of those that are not meant."""
    verbose: bool = False
    warn: int = 200
    """The status of a good answer while there is a warning to give."""


class UnclearQuestion(ValueError):
    """It is a question, but what is asked is not clear. str() says what would be, in one line."""


def read_question(path: str, query: str = "") -> Asked | None:
    """Return what is asked, None where it is something else. Both are as they stand in a request
    line, whose length bounds what this costs. Raises UnclearQuestion.
    """
    end = path.find("/", 1)
    page, name = (path, None) if end < 0 else (path[:end], path[end + 1 :])
    question = QUESTIONS.get(page)
    if question is None or name == "":
        return None
    if not query:
        return Asked(question, name and unquote(name))
    told = parse_qs(query, keep_blank_values=True)
    excluded = frozenset(told.get("exclude", ()))
    warn = _status(told["warn"][-1]) if "warn" in told else 200
    return Asked(question, name and unquote(name), excluded, "verbose" in told, warn)


def _status(text: str) -> int:
    try:
        status = HTTPStatus(int(text))
    except ValueError:
        status = HTTPStatus.CONTINUE
    if status < HTTPStatus.OK:
        raise UnclearQuestion("warn takes the status of an answer, as in warn=429")
    return status
