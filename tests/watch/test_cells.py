"""Text in cells: wide letters, marks, what is cut and what is wrapped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.watch import cells

TEXTS = st.text(alphabet=st.one_of(st.characters(), st.sampled_from("ab 世界\u0301…")), max_size=40)


@pytest.mark.parametrize(
    ("text", "width"), [("abc", 3), ("世界", 4), ("e\u0301", 1), ("", 0), ("…", 1), ("Ａ", 2)]
)
def test_width(text: str, width: int) -> None:
    assert cells.width(text) == width


@pytest.mark.parametrize(
    ("text", "room", "shown"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdef", 5, "abcd…"),
        ("世界世界", 8, "世界世界"),
        ("世界世界", 7, "世界世…"),
        ("世界世界", 6, "世界…"),
        ("abc", 1, "…"),
        ("abc", 0, ""),
        ("a\x1b[2Jb", 20, "a\\x1b[2Jb"),
    ],
)
def test_fit(text: str, room: int, shown: str) -> None:
    assert cells.fit(text, room, "…") == shown


@given(TEXTS, st.integers(0, 30), st.sampled_from(["…", "..."]))
def test_nothing_is_wider_than_its_room_nor_moves_a_cursor(
    text: str, room: int, ellipsis: str
) -> None:
    for shown in (cells.fit(text, room, ellipsis), *cells.wrap(text, room, 3, ellipsis)):
        assert cells.width(shown) <= max(room, 0) or room == 1
        assert shown.isprintable()
    for place in (cells.left, cells.right):
        assert cells.width(place(text, room, ellipsis)) == room


@pytest.mark.parametrize(
    ("text", "room", "most", "lines"),
    [
        ("one two three", 7, 3, ["one two", "three"]),
        ("one two three", 7, 1, ["one tw…"]),
        ("abcdefgh ij", 3, 9, ["abc", "def", "gh", "ij"]),
        ("  much   room ", 40, 2, ["much room"]),
        ("", 10, 2, []),
        ("世界世界", 5, 2, ["世界", "世界"]),
        ("x", 0, 2, []),
    ],
)
def test_wrap(text: str, room: int, most: int, lines: list[str]) -> None:
    assert cells.wrap(text, room, most, "…") == lines


def test_a_painted_line_is_clipped_with_its_colours() -> None:
    painted = "ab\x1b[31mcd\x1b[0mef"
    assert cells.clip(painted, 6) == painted
    assert cells.clip(painted, 3) == "ab\x1b[31mc\x1b[0m"
    assert cells.clip(painted, 1) == "a\x1b[31m\x1b[0m"
