"""How a report is printed: one module a format, each with `render(report, least, ...) -> str`.

`least` is the level from which findings fail the run.
"""

from collections.abc import Callable

from probe.lint.formats import github, junit, machine, sarif, text
from probe.lint.records import Level, LintReport

FORMATS: dict[str, Callable[[LintReport, Level], str]] = {
    "text": text.render,
    "json": machine.render,
    "sarif": sarif.render,
    "github": github.render,
    "junit": junit.render,
}
