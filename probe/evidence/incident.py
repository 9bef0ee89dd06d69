"""The two files of an incident, a report as JSON and as text: written and named here. Pure."""

import json
from typing import NamedTuple

from probe.evidence.records.audit import plain
from probe.evidence.records.report import Report
from probe.evidence.report.claims import Conclusion
from probe.evidence.report.text import text
from probe.evidence.store import RECORD, REPORT

HEAD = 4096
"""Bytes at the beginning of a report.json, in which its finding is."""


class Told(NamedTuple):
    """What a report comes to, as report.json has it; `code` is one of `report.claims.Code`."""

    code: str
    headline: str


def files(report: Report, conclusion: Conclusion) -> dict[str, bytes]:
    """The files of an incident, by name."""
    record = {
        "finding": plain(Told(conclusion.code, conclusion.headline)),
        **plain(report),
        "patterns": plain(conclusion.patterns),
    }
    return {
        RECORD: json.dumps(record).encode(),
        REPORT: text(report, conclusion).encode(),
    }


def finding(head: bytes) -> Told | None:
    """The finding from the HEAD of a report.json; None where it does not begin with one.

    The file may have been put there by anybody who can write to the directory.
    """
    known = head[:HEAD].decode("utf-8", "replace")
    opening = '{"finding": '
    if not known.startswith(opening):
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(known, len(opening))
        return Told(str(found["code"]), str(found["headline"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
