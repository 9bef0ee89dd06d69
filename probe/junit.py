"""JUnit XML, as the servers of continuous integration read it: suites of cases. Pure."""

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from probe.display import printable


class CaseKind(StrEnum):
    """What came of a case; the element that says so."""

    PASSED = "system-out"
    FAILED = "failure"
    ERROR = "error"
    """It could not be told."""
    SKIPPED = "skipped"


class Case(NamedTuple):
    """One thing that was tried. `about` is what it belongs to; `text` may have several lines."""

    name: str
    about: str
    kind: CaseKind = CaseKind.PASSED
    message: str = ""
    type: str = ""
    text: str = ""


class Suite(NamedTuple):
    name: str
    cases: tuple[Case, ...]


COUNTED = {"failures": CaseKind.FAILED, "errors": CaseKind.ERROR, "skipped": CaseKind.SKIPPED}


def render(name: str, suites: Iterable[Suite]) -> str:
    """The whole document."""
    every = tuple(suites)
    cases = [case for suite in every for case in suite.cases]
    lines = ['<?xml version="1.0" encoding="utf-8"?>']
    lines.append(f"<testsuites name={attribute(name)} {counts(cases)}>")
    for suite in every:
        lines.append(f"  <testsuite name={attribute(suite.name)} {counts(suite.cases)}>")
        lines += map(of_case, suite.cases)
        lines.append("  </testsuite>")
    return "\n".join([*lines, "</testsuites>"]) + "\n"


def counts(cases: Iterable[Case]) -> str:
    kinds = [case.kind for case in cases]
    counted = [f'{name}="{kinds.count(kind)}"' for name, kind in COUNTED.items()]
    return " ".join([f'tests="{len(kinds)}"', *counted])


def of_case(case: Case) -> str:
    head = f"    <testcase name={attribute(case.name)} classname={attribute(case.about)}"
    if case.kind is CaseKind.PASSED and not case.text:
        return f"{head}/>"
    told = "".join(
        f" {name}={attribute(value)}"
        for name, value in (("message", case.message), ("type", case.type))
        if value
    )
    return f"{head}><{case.kind}{told}>{escape(legal(case.text))}</{case.kind}></testcase>"


def attribute(text: str) -> str:
    return quoteattr(legal(text))


def legal(text: str) -> str:
    """XML 1.0 has no way to write control characters."""
    return "\n".join(map(printable, text.split("\n")))
