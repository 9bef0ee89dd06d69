"""The table of rules. A test holds docs/rules.md to it."""

from probe.lint.rules import lifecycle, ports, probes, sidecars

RULES = (*ports.RULES, *probes.RULES, *lifecycle.RULES, *sidecars.RULES)

BY_ID = {rule.id: rule for rule in RULES}
