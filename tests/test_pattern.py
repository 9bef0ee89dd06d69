"""Patterns are held against Python's `re`, and to a bound that no pattern and no text can break."""

import re
import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from probe.pattern import PLACES, BadPattern, LinearPattern, TooDear

ATOMS = st.sampled_from(
    ["a", "b", "1", ".", "[ab]", "[^a]", "[a-c]", r"\d", r"\W", r"\n", "(a|b)", "(?:ab|c)", "(a*b)"]
)
COUNTS = st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,3}", "{0,2}", "{2,}", "*?", "{0}"])
NONE = st.sampled_from(["*", "?", "{0,2}", "*?", "{0}"])
optional = st.lists(st.tuples(ATOMS, NONE).map("".join), min_size=1, max_size=5).map("".join)
rows = st.lists(st.tuples(ATOMS, COUNTS).map("".join), min_size=1, max_size=5).map("".join)
anchored = st.tuples(st.sampled_from(["", "^"]), rows, st.sampled_from(["", "$"])).map("".join)
patterns = st.lists(anchored, min_size=1, max_size=3).map("|".join)
texts = st.text("abc1 \n", max_size=12).map(str.encode)


@given(patterns, texts, st.sampled_from(["", "(?i)", "(?s)"]))
def test_matches_what_python_matches(pattern: str, text: bytes, flag: str) -> None:
    theirs = re.compile((flag + pattern.replace("$", r"\Z")).encode())
    line = text.removesuffix(b"\n")
    assume(theirs.search(b"") is None)
    found = theirs.search(text) or theirs.search(line)
    assert LinearPattern(flag + pattern).matches(text) == (found is not None)


@given(optional)
def test_what_matches_nothing_at_all_matches_everything(pattern: str) -> None:
    with pytest.raises(BadPattern, match="even nothing"):
        LinearPattern(pattern)


@given(st.text(st.sampled_from("ab(|)[]^-*+?{}1,.\\dx$:=é"), max_size=40))
def test_anything_is_a_pattern_or_an_error_in_one_line(text: str) -> None:
    told = ""
    try:
        LinearPattern(text)
    except BadPattern as error:
        told = str(error)
    assert told.isprintable()


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r'"status":\s*"(ok|up)"', b'{"status": "up", "db": 1}', True),
        (r'"status":\s*"(ok|up)"', b'{"status": "down"}', False),
        ("^ok$", b"ok\r\n", True),
        ("^ok$", b"not ok\n", False),
        ("(?i)HEALTHY", b"is Healthy", True),
        ("a.b", b"a\nb", False),
        ("(?s)a.b", b"a\nb", True),
        ("gesünd|fermé", "fermé".encode(), True),
        ("é+!", "ééé!".encode(), True),
        (r"\x00\xff", b"1\x00\xff2", True),
        (r"[\]\-x]\[", b"-[", True),
        ("^$", b"", True),
        ("^$", b"x", False),
        ("[]a]}", b"]}", True),
        ('^{"a{b}{,}', b'{"a{b}{,}', True),
    ],
)
def test_what_people_write(pattern: str, text: bytes, found: bool) -> None:
    assert LinearPattern(pattern).matches(text) is found


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("", "1 to 512 characters"),
        ("a" * 513, "1 to 512 characters"),
        (r"(a)\1", r"\1 is not one of"),
        ("a(?=b)", "of what begins with (?"),
        ("(?m)a", "of what begins with (?"),
        ("a**", "a repetition is repeated"),
        ("a{2}{3}", "a repetition is repeated"),
        ("+a", "+ has nothing to repeat"),
        ("(a", "a ( without its )"),
        ("a)", "a ) without its ("),
        ("[a", "a [ without its ]"),
        ("[z-a]", "from one character to a later one"),
        (r"[\d-z]", "from one character to a later one"),
        ("[é]", "only ASCII"),
        ("[[:digit:]]", r"\d \w \s are"),
        ("a{2,1}", "from the lesser to the greater"),
        (r"\xfg", "two hexadecimal digits"),
        ("a\\", "is not one of"),
        ("a^b", "^ stands at the beginning"),
        ("(a$)", "$ stands at the end"),
        ("(" * 30 + "a" + ")" * 30, "groups within each other"),
        ("((a{100}){100}){100}", f"more than {PLACES} places"),
    ],
)
def test_every_mistake_says_what_it_is(pattern: str, why: str) -> None:
    with pytest.raises(BadPattern, match=re.escape(why)):
        LinearPattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("(a+)+$", b"a" * 65535 + b"b"),
        ("(x+x+)+y", b"x" * 65536),
        ("(a|a)*b", b"a" * 65536),
        (".*.*.*.*.*=", b"x" * 65536),
    ],
)
def test_what_explodes_elsewhere_is_read_once(pattern: str, text: bytes) -> None:
    begun = time.process_time()
    assert not LinearPattern(pattern).matches(text)
    assert time.process_time() - begun < 1  # 5 ms; of `re`, years


def test_what_has_too_many_ways_is_given_up() -> None:
    """In letters without an order, no two of them meet the same places again."""
    letters, state = bytearray(), 1
    for _ in range(65536):
        state = state * 1103515245 + 12345 & 0x7FFFFFFF
        letters.append(b"ab"[state >> 16 & 1])
    begun = time.process_time()
    with pytest.raises(TooDear):
        LinearPattern("a(a|b){400}c").matches(bytes(letters))
    assert time.process_time() - begun < 1  # 30 ms: WORK bounds it, not the clock
