"""README.zh-CN.md says what README.md says: what can be compared without knowing Chinese is.

A section of one has the anchor, the commands and their output, the links, the code and the figures
of the other's. Comments in a block of code may be in either language.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.test_docs import anchor

ROOT = Path(__file__).parent.parent
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"

ADVICE = """
You need no Chinese to mend this. Commands, output, links, `code` and figures are the same in both
pages: make in one what was changed in the other, in the section with the same anchor. A sentence
that is new or says something else now: change what can be seen to correspond, write it in English
where you cannot write it in Chinese, and say so in the pull request; somebody will translate it.
A new heading in README.zh-CN.md begins with the English one's anchor: ## <a id="try-it"></a>Title.
"""

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"(?:^|\s+)#.*$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"\s]+)\"")
CODE = re.compile(r"`([^`]+)`")
FIGURE = re.compile(r"(?<![\w.])\d[\d,.]*\d|(?<![\w.])\d")
TABLE = re.compile(r"^\|.*\|$", re.MULTILINE)


class Section(NamedTuple):
    """A heading's level and anchor, and what both languages have below it."""

    level: int
    anchor: str
    things: dict[str, Counter[str]]


def sections(page: str, languages: str) -> Iterator[Section]:
    """`languages`: the line at the top that leads from one page to the other."""
    assert languages in page.splitlines()[:5], f"the first lines lack: {languages}"
    blocks: list[str] = []

    def put_away(block: re.Match[str]) -> str:
        blocks.append(COMMENT.sub("", block[2]))
        return f"\0{len(blocks) - 1}\0"

    page = BLOCK.sub(put_away, page.replace(languages, "", 1))
    for part in re.split(r"^(?=#+ )", page, flags=re.MULTILINE):
        heading, _, body = part.partition("\n")
        if not heading:
            continue
        marks, _, title = heading.partition(" ")
        explicit = re.match(r'<a id="([^"]+)"></a>', title)
        prose = LINK.sub("] ", re.sub(r"\0\d+\0", "", CODE.sub("", body)))
        things = {
            "link": Counter(found[1] or found[2] for found in LINK.finditer(body)),
            "code": Counter(CODE.findall(body)),
            "figure": Counter(FIGURE.findall(prose)),
            "row of a table with columns": Counter(
                str(row.count("|") - 1) for row in TABLE.findall(body)
            ),
            "line of a block": Counter(
                line
                for number in re.findall(r"\0(\d+)\0", body)
                for line in blocks[int(number)].splitlines()
            ),
        }
        yield Section(len(marks), explicit[1] if explicit else anchor(title), things)


def differences(english: str, chinese: str) -> list[str]:
    ours = list(sections(english, "English | [简体中文](README.zh-CN.md)"))
    theirs = list(sections(chinese, "[English](README.md) | 简体中文"))
    shown = [[(section.level, section.anchor) for section in page] for page in (ours, theirs)]
    if shown[0] != shown[1]:
        only = [
            f"README.md alone has {'#' * level} {name}"
            for level, name in shown[0]
            if (level, name) not in shown[1]
        ]
        only += [
            f"README.zh-CN.md alone has {'#' * level} {name}"
            for level, name in shown[1]
            if (level, name) not in shown[0]
        ]
        return only or ["the sections stand in another order"]
    return [
        f"#{mine.anchor}: {page} alone has the {kind} {thing!r}"
        for mine, yours in zip(ours, theirs, strict=True)
        for kind in mine.things
        for page, more in (
            ("README.md", mine.things[kind] - yours.things[kind]),
            ("README.zh-CN.md", yours.things[kind] - mine.things[kind]),
        )
        for thing in more
    ]


def test_the_chinese_readme_is_in_step() -> None:
    found = differences(ENGLISH.read_text(), CHINESE.read_text())
    assert not found, "\n".join(["README.md and README.zh-CN.md differ.", *found, ADVICE])


@pytest.mark.parametrize(
    ("changed", "into", "found"),
    [
        ("make demo ", "make show ", "#try-it: README.md alone has the line of a block 'make show"),
        ("docs/motivation.md", "docs/incident.md", "has the link 'docs/motivation.md'"),
        ("`/ready` says so", "`/live` says so", "has the code '/ready'"),
        ("about 5 seconds", "about 6 seconds", "has the figure '6'"),
        ("\n## Limits\n", "\n## Bounds\n", "README.md alone has ## bounds"),
        ("\n## Limits\n", "\n### Limits\n", "README.md alone has ### limits"),
    ],
)
def test_a_change_in_one_alone_is_found(changed: str, into: str, found: str) -> None:
    english = ENGLISH.read_text()
    assert changed in english
    assert any(
        found in line for line in differences(english.replace(changed, into), CHINESE.read_text())
    )
