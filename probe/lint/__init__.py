"""What can be seen in review: manifests in, findings out. Pure.

`rules/` is a table, one row a rule; `formats/` prints a report. `check.lint` is the way in.
"""

from probe.lint.check import ALL_RULES, NAMES, lint
from probe.lint.records import Level, LintFinding, LintReport, Place, Rule

__all__ = ["ALL_RULES", "NAMES", "Level", "LintFinding", "LintReport", "Place", "Rule", "lint"]
