"""The evidence as pages for a browser: the list of incidents, and the report of one. Pure.

A report is told as its text is, which is made for people: only how that is laid out is known here
(`probe.evidence.report.text`), and nothing of what it says. All of it is put in as text.
"""

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from string import Template
from urllib.parse import quote

from probe.api.html import as_html
from probe.api.requests import Reply
from probe.display import utc
from probe.evidence.listing import Listed

PAGE = Path(__file__).with_name("evidence.html")

POINT = "  - "
"""What a point of a section begins with; it goes on with lines that are as far from the margin."""


def list_page(incidents: Sequence[Listed], older: int) -> Reply:
    """The incidents, the newest first, and how many `older` ones there are."""
    rows = [
        f"<li><h2>{_link(one.incident.id, one.finding or one.why or 'not to be read')}</h2>"
        f'<p class="faint">{escape(one.place)}, {_moment(one)}, '
        f"{escape(one.why.replace('_', ' '))}, {_download(one.incident.id)}</p></li>"
        for one in incidents
    ]
    body = f'<ul class="list">{"".join(rows)}</ul>' if rows else "<p>Nothing is kept yet.</p>"
    if older:
        body += f'<p class="faint">{older} older ones are kept, and not listed.</p>'
    return _page("Evidence", body)


def report_page(identity: str, text: str, files: Iterable[tuple[str, int]]) -> Reply:
    """A report, with what lies beside it."""
    title, begun, *sections = _sections(text)
    beside = "".join(
        f'<li><a href="/evidence/{quote(identity)}/{quote(name)}">{escape(name)}</a> '
        f'<span class="faint">{size} bytes</span></li>'
        for name, size in files
    )
    body = (
        f'<p class="faint">{escape(begun)}</p>'
        f"<p>{_download(identity, 'Download the whole incident')}</p>"
        f"{''.join(sections)}"
        f"<section><h2>Files</h2><ul>{beside}</ul></section>"
    )
    return _page(title, body)


def _page(title: str, body: str) -> Reply:
    page = Template(PAGE.read_text()).substitute(title=escape(title), body=body)
    return as_html(page.encode())


def _link(identity: str, text: str) -> str:
    return f'<a href="/evidence/{quote(identity)}">{escape(text)}</a>'


def _download(identity: str, text: str = "download") -> str:
    address = f"/evidence/{quote(identity)}.tar.gz"
    label = escape(f"{text} {identity}")
    return f'<a href="{address}" download aria-label="{label}">{escape(text)}</a>'


def _moment(one: Listed) -> str:
    at = utc(one.at.timestamp())
    return f'<time datetime="{at}">{at}</time>'


def _sections(text: str) -> Iterator[str]:
    """The title of a report, what stands below it, and then each section as HTML."""
    blocks = [
        list(lines)
        for blank, lines in groupby(text.splitlines(), lambda line: not line)
        if not blank
    ]
    opening = blocks[0] if blocks else [""]
    rule = next((at for at, line in enumerate(opening) if line.startswith("===")), len(opening))
    yield " ".join(opening[:rule])
    yield " ".join(opening[rule + 1 :])
    for heading, *lines in blocks[1:]:
        yield f"<section><h2>{escape(heading)}</h2>{_content(lines)}</section>"


def _content(lines: list[str]) -> str:
    """Points as a list; rows of figures as they are, since their columns are made of blanks."""
    if not lines or not lines[0].startswith(POINT):
        rows = escape("\n".join(line[2:] for line in lines))
        return f'<pre tabindex="0">{rows}</pre>' if rows else ""
    points: list[str] = []
    for line in lines:
        if line.startswith(POINT):
            points.append(line[len(POINT) :])
        else:
            points[-1] += f" {line.strip()}"
    return f"<ul>{''.join(f'<li>{escape(point)}</li>' for point in points)}</ul>"
