"""The kept incidents as people see them listed: on the page and on the command line. Pure."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from probe.evidence.incident import finding
from probe.evidence.store import Incident, parse_id
from probe.evidence.wording import age, file_size, printable

HEADLINE = 300
"""Characters of a finding that are told at most."""


class Listed(NamedTuple):
    """An incident in a list: `why` is its first symptom, `code` and `finding` what its report comes
    to, "" where that cannot be read.
    """

    incident: Incident
    at: datetime
    place: str
    why: str
    code: str
    finding: str


def listed(incident: Incident, record: bytes) -> Listed:
    """An incident with what its id tells, and what its report comes to: of `record`, its
    report.json, HEAD bytes are enough.
    """
    known = parse_id(incident.id)
    if known is None:
        raise ValueError(f"{incident.id} is no incident's id")
    told = [printable(word)[:HEADLINE] for word in finding(record) or ("", "")]
    return Listed(incident, *known, *told)


def as_json(incidents: Iterable[Listed]) -> list[dict[str, Any]]:
    return [
        {
            "id": one.incident.id,
            "at": one.at.isoformat().replace("+00:00", "Z"),
            "port": int(one.place) if one.place.isdecimal() else None,
            "place": one.place,
            "why": one.why,
            "code": one.code,
            "finding": one.finding,
            "size": one.incident.size,
            "files": [{"name": name, "size": size} for name, size in one.incident.files],
        }
        for one in incidents
    ]


def as_table(incidents: Sequence[Listed], older: int, now: datetime) -> list[str]:
    """Two lines for each, the newest first: what it is called, and what was found; and how many
    `older` ones there are.
    """
    if not incidents:
        return ["no incident was kept"]
    width = max(len(one.incident.id) for one in incidents)
    lines = [f"{'ID':<{width}}  {'AGE':>8}  {'SIZE':>7}  FILES"]
    for one in incidents:
        past = age((now - one.at).total_seconds()) if one.at <= now else "to come"
        size, files = file_size(one.incident.size), len(one.incident.files)
        lines.append(f"{one.incident.id:<{width}}  {past:>8}  {size:>7}  {files:>5}")
        lines.append(f"    {one.finding or 'its finding cannot be read'}")
    return [*lines, f"and {older} older"] if older else lines
