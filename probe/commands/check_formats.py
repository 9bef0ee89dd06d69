"""How `probe check` prints its answer for other programs. Pure; loaded when asked for."""

import json
from collections.abc import Callable
from typing import Any

from probe import exits, junit
from probe.commands.check import Checked
from probe.commands.once import CheckResult
from probe.config import Config
from probe.display import printable

WORDS = {
    exits.OK: "healthy",
    exits.WARNING: "warning",
    exits.FAILED: "unhealthy",
    exits.UNKNOWN: "unknown",
}

SERVICE_STATES = {
    exits.OK: "OK",
    exits.WARNING: "WARNING",
    exits.FAILED: "CRITICAL",
    exits.UNKNOWN: "UNKNOWN",
}

KINDS = {exits.FAILED: junit.CaseKind.FAILED, exits.UNKNOWN: junit.CaseKind.ERROR}


def as_json(config: Config, checked: Checked, code: int) -> str:
    """One line. Fields are added and not renamed."""
    document = {
        "status": WORDS[checked.status],
        "exit_status": code,
        "line": checked.line,
        "sidecar": None if config.sidecar is None else str(config.sidecar),
        "targets": [of_target(seen) for seen in checked.targets],
    }
    return json.dumps(document) + "\n"


def of_target(seen: CheckResult) -> dict[str, Any]:
    verdict, trip = seen.verdict, seen.state.round_trip
    return {
        "name": verdict.target,
        "status": WORDS[exits.WARNING if seen.suspect else seen.status],
        "line": seen.line,
        "reason": verdict.reason,
        "stage": verdict.stage,
        "listeners": [
            {"length": watch.length, "limit": watch.limit} for watch in seen.state.watches
        ],
        "round_trip_seconds": None if trip is None else trip.phases.total,
    }


def as_nagios(config: Config, checked: Checked, code: int) -> str:
    """One line, and the figures behind a | as the plugin guidelines have them: value, two
    thresholds that are none of ours to give, least and most.
    """
    del config, code
    line = printable(checked.line).replace("|", "/")
    figures = " ".join(figure for seen in checked.targets for figure in figures_of(seen))
    told = f"PROBE {SERVICE_STATES[checked.status]} - {line}"
    return f"{told} | {figures}\n" if figures else f"{told}\n"


def figures_of(seen: CheckResult) -> list[str]:
    name, watches, trip = seen.verdict.target, seen.state.watches, seen.state.round_trip
    figures = []
    if watches:
        fullest = max(watches, key=lambda watch: watch.length / max(watch.limit or 1, 1))
        most = "" if fullest.limit is None else fullest.limit
        figures.append(f"{name}_queued={fullest.length};;;0;{most}")
    if trip is not None and trip.phases.total is not None:
        figures.append(f"{name}_round_trip={trip.phases.total:.6f}s;;;0")
    return figures


def as_junit(config: Config, checked: Checked, code: int) -> str:
    """A case for each target, or for the sidecar that was asked."""
    del code
    told = [
        (seen.verdict.target, seen.status, seen.line, seen.verdict.reason or "")
        for seen in checked.targets
    ] or [(f"sidecar {config.sidecar}", checked.status, checked.line, "")]
    cases = []
    for name, status, line, reason in told:
        case = junit.Case(name, "probe check", KINDS.get(status, junit.CaseKind.PASSED), text=line)
        if status in KINDS:
            case = case._replace(message=line, type=reason or WORDS[status])
        cases.append(case)
    return junit.render("probe check", [junit.Suite("probe check", tuple(cases))])


FORMATS: dict[str, Callable[[Config, Checked, int], str]] = {
    "json": as_json,
    "nagios": as_nagios,
    "junit": as_junit,
}
