r"""Regular expressions over bytes, in a time that no pattern and no text can make explode. Pure.

Python's `re` tries one way after the other: `(a+)+$` takes years for a line of 60 letters, nothing
ends it from within the process, and its import costs `probe check` more than the round trip. Here
all ways are followed at once, as the bits of one number: the places in the pattern at which a match
may have arrived (Glushkov's automaton). A byte of text takes one step, whatever the pattern.

What there is: literals, `.`, `[a-z]`, `[^a-z]`, `\d \w \s` and their opposites, groups, `|`,
`* + ? {2,5}`, `^` and `$` for the beginning and the end of the whole text, and `(?i)`, `(?s)` in
front. What cannot be followed like that is refused: back references and looking around.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from probe.imports.typing_lite import NamedTuple

LONGEST = 512
"""Characters of a pattern."""

PLACES = 1000
"""Places that it may have, counted ones as often as they are counted."""

DEEPEST = 20
"""Groups within groups."""

WORK = 200_000
"""Places that may be looked at in one search: 30 ms. Who meets the same places again looks once."""

REMEMBERED = 4096
"""Sets of places that are remembered."""

BEGIN, END = 256, 257
"""What stands before and after the bytes of every text, for ^ and $."""

ANY = (1 << 256) - 1
BLANKS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13}
GROUPS = "of what begins with (? there are (?:...), and (?i), (?s), (?is) in front of all"
COUNTED: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


class BadPattern(ValueError):
    """One line that says what is wrong."""


class TooDear(Exception):
    """The pattern has more ways through this text than are followed."""


def letters(characters: Iterable[int]) -> int:
    """A set of bytes, as bits."""
    return sum(1 << code for code in set(characters))


DIGITS = letters(b"0123456789")
WORD = DIGITS | letters(b"_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
SPACE = letters(b" \t\n\r\f\v")
CLASSES = {"d": DIGITS, "w": WORD, "s": SPACE}
CLASSES |= {name.upper(): ANY & ~members for name, members in CLASSES.items()}


class Node(NamedTuple):
    """A part of a pattern: a set of bytes, or other parts in a row, as a choice or repeated."""

    kind: str
    members: int = 0
    parts: tuple[Node, ...] = ()
    least: int = 1
    most: int | None = 1


SET, ROW, CHOICE, REPEAT = "set", "row", "choice", "repeat"


class PatternReader:
    """Reads a pattern from left to right. Raises BadPattern."""

    def __init__(self, text: str) -> None:
        if not 1 <= len(text) <= LONGEST:
            raise BadPattern(f"1 to {LONGEST} characters")
        self._text = text
        self._at = 0
        self._flags = self._read_flags()

    def read(self) -> Node:
        found = self._choice(0)
        if self._at < len(self._text):
            raise BadPattern("a ) without its (")
        return found

    def _read_flags(self) -> str:
        if not self._text.startswith("(?") or self._text[2:3] == ":":
            return ""
        flags, _, _ = self._text[2:].partition(")")
        if not flags or set(flags) - set("is"):
            raise BadPattern(GROUPS)
        self._at = len(flags) + 3
        return flags

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        self._at += 1
        return self._text[self._at - 1 : self._at]

    def _take(self, text: str) -> bool:
        taken = self._text.startswith(text, self._at)
        self._at += len(text) * taken
        return taken

    def _choice(self, depth: int) -> Node:
        if depth > DEEPEST:
            raise BadPattern(f"more than {DEEPEST} groups within each other")
        ways = [self._row(depth)]
        while self._take("|"):
            ways.append(self._row(depth))
        return ways[0] if len(ways) == 1 else Node(CHOICE, parts=tuple(ways))

    def _row(self, depth: int) -> Node:
        parts = []
        if depth == 0 and self._take("^"):
            parts.append(Node(SET, 1 << BEGIN))
        while self._peek() not in ("", "|", ")"):
            if depth == 0 and self._text[self._at :].partition("|")[0] == "$":
                self._at += 1
                parts.append(Node(SET, 1 << END))
            else:
                parts.append(self._counted(self._one(depth)))
        return Node(ROW, parts=tuple(parts))

    def _counted(self, node: Node) -> Node:
        count = self._count()
        if count is None:
            return node
        self._take("?")  # As few as possible: to the question whether it matches that is the same.
        if self._count() is not None:
            raise BadPattern("a repetition is repeated; put it in a group")
        return Node(REPEAT, 0, (node,), *count)

    def _count(self) -> tuple[int, int | None] | None:
        """Take how often what stands before is to come; None: nothing is said of that."""
        if self._peek() in COUNTED:
            return COUNTED[self._next()]
        inside, closed, _ = self._text[self._at + 1 :].partition("}")
        least, comma, most = inside.partition(",")
        numbers = [number for number in (least, most) if number]
        if self._peek() != "{" or not closed or not numbers:
            return None
        if not all(number.isascii() and number.isdecimal() for number in numbers):
            return None  # It is just that sign.
        self._at += len(inside) + 2
        low = int(least or 0)
        high = (int(most) if most else None) if comma else low
        if max(low, high or 0) > PLACES or (high is not None and high < low):
            raise BadPattern(f"a count goes from the lesser to the greater, up to {PLACES}")
        return low, high

    def _one(self, depth: int) -> Node:
        sign = self._next()
        if sign == "(":
            if self._take("?") and not self._take(":"):
                raise BadPattern(GROUPS)
            found = self._choice(depth + 1)
            if not self._take(")"):
                raise BadPattern("a ( without its )")
            return found
        if sign == "[":
            return Node(SET, self._members())
        if sign == ".":
            return Node(SET, ANY if "s" in self._flags else ANY & ~(1 << BLANKS["n"]))
        if sign == "\\":
            return Node(SET, self._folded(self._escaped()))
        if sign in ("^", "$"):
            raise BadPattern(
                f"{sign} stands at the {'beginning' if sign == '^' else 'end'} of the pattern, or "
                rf"of a choice outside of groups; the sign itself is \{sign}"
            )
        if sign in COUNTED:
            raise BadPattern(rf"{sign} has nothing to repeat; the sign itself is \{sign}")
        codes = [self._folded(1 << byte) for byte in sign.encode(errors="surrogateescape")]
        return Node(ROW, parts=tuple(Node(SET, code) for code in codes))

    def _folded(self, members: int) -> int:
        """With both cases of each letter, where that is asked for."""
        if "i" not in self._flags:
            return members
        lower, upper = (
            letters(range(ord("a"), ord("z") + 1)),
            letters(range(ord("A"), ord("Z") + 1)),
        )
        return members | (members & lower) >> 32 | (members & upper) << 32

    def _escaped(self) -> int:
        sign = self._next()
        if sign in CLASSES:
            return CLASSES[sign]
        if sign in BLANKS:
            return 1 << BLANKS[sign]
        if sign == "x":
            digits = self._next() + self._next()
            try:
                return 1 << bytes.fromhex(digits)[0]
            except (ValueError, IndexError):
                raise BadPattern(r"two hexadecimal digits follow \x") from None
        if not sign.isascii() or sign.isalnum() or not sign:
            raise BadPattern(rf"\{sign} is not one of \d \w \s \D \W \S \t \n \r \f \v \xHH")
        return 1 << ord(sign)

    def _members(self) -> int:
        """What stands in square brackets."""
        others = self._take("^")
        members, first = 0, True
        while first or self._peek() != "]":
            first = False
            low = self._member()
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                high = self._member()
                if low & (low - 1) or high & (high - 1) or high < low:
                    raise BadPattern("a range in [...] goes from one character to a later one")
                low = (high << 1) - low
            members |= low
        self._at += 1
        members = self._folded(members)
        return ANY & ~members if others else members

    def _member(self) -> int:
        if self._take("[:"):
            raise BadPattern(r"[:...:] is not known; \d \w \s are")
        sign = self._next()
        if not sign:
            raise BadPattern("a [ without its ]")
        if not sign.isascii():
            raise BadPattern("only ASCII stands in [...]; others stand in a choice: (ä|ö)")
        return self._escaped() if sign == "\\" else 1 << ord(sign)


class Ends(NamedTuple):
    """Of a part of a pattern: whether it matches nothing at all, and the places, as bits, at which
    a match begins and ends.
    """

    empty: bool
    first: int
    last: int


class LinearPattern:
    """A compiled pattern. Raises BadPattern, also for one that matches whatever there is."""

    def __init__(self, text: str) -> None:
        self._reach = [0] * (END + 1)
        """Of each byte: the places that take it."""
        self._after: list[int] = []
        """Of each place: the places that may come next."""
        ends = self._build(PatternReader(text).read())
        if ends.empty:
            raise BadPattern("it matches whatever there is, even nothing")
        self._first, self._last = ends.first, ends.last

    def matches(self, data: bytes) -> bool:
        """Whether it matches anywhere in the data. A line break at its end may be left out, so that
        `^ok$` is good for "ok" and a line feed. Raises TooDear.
        """
        found = self._search(data)
        line = data.removesuffix(b"\n").removesuffix(b"\r")
        return found or (line != data and self._search(line))

    def _search(self, data: bytes) -> bool:
        reach, first, last = self._reach, self._first, self._last
        known: dict[int, int] = {}
        work, may_be = 0, first
        for symbol in (BEGIN, *data, END):
            at = may_be & reach[symbol]
            if at & last:
                return True
            if at not in known:
                work += at.bit_count()
                if work > WORK:
                    raise TooDear
                if len(known) == REMEMBERED:
                    known.clear()
                known[at] = first | self._next(at)
            may_be = known[at]
        return False

    def _next(self, at: int) -> int:
        found = 0
        while at:
            lowest = at & -at
            found |= self._after[lowest.bit_length() - 1]
            at ^= lowest
        return found

    def _build(self, node: Node) -> Ends:
        if node.kind == SET:
            return self._place(node.members)
        if node.kind == CHOICE:
            ways = [self._build(part) for part in node.parts]
            first, last = 0, 0
            for way in ways:
                first, last = first | way.first, last | way.last
            return Ends(any(way.empty for way in ways), first, last)
        if node.kind == ROW:
            return self._row(self._build(part) for part in node.parts)
        (part,) = node.parts
        most = node.least if node.most is None else node.most
        whole = [self._build(part) for _ in range(max(most, 1))]
        if node.most is None:
            self._join(whole[-1].last, whole[-1].first)
        for number in range(node.least, len(whole)):
            whole[number] = whole[number]._replace(empty=True)
        if node.most == 0:
            return Ends(True, 0, 0)
        return self._row(whole)

    def _place(self, members: int) -> Ends:
        if len(self._after) == PLACES:
            raise BadPattern(
                f"more than {PLACES} places, counted ones as often as they are counted"
            )
        place = 1 << len(self._after)
        self._after.append(0)
        for symbol in range(END + 1):
            if members >> symbol & 1:
                self._reach[symbol] |= place
        return Ends(False, place, place)

    def _row(self, parts: Iterable[Ends]) -> Ends:
        row = Ends(True, 0, 0)
        for part in parts:
            self._join(row.last, part.first)
            row = Ends(
                row.empty and part.empty,
                row.first | part.first if row.empty else row.first,
                row.last | part.last if part.empty else part.last,
            )
        return row

    def _join(self, ends: int, begins: int) -> None:
        while ends:
            lowest = ends & -ends
            self._after[lowest.bit_length() - 1] |= begins
            ends ^= lowest


@lru_cache(maxsize=64)
def compiled(text: str) -> LinearPattern:
    """A pattern that is asked again and again. Raises BadPattern."""
    return LinearPattern(text)
