"""What the sentences of a report claim, and which of them cannot both be true. Pure.

The facts of a report were gathered one after the other, a second or two apart, and each pattern
looks at some of them. So two patterns that are right by themselves may contradict each other. Each
says what it claims; one that denies what was said before it is left out.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple


class Code(StrEnum):
    """What a report comes to, in a word: a pattern, or that there is none."""

    NOT_LISTENING = "not_listening"
    ACCEPTOR_GONE = "acceptor_gone"
    ACCEPTOR_STOPPED = "acceptor_stopped"
    ACCEPTOR_BLOCKED = "acceptor_blocked"
    FROZEN = "frozen"
    OUT_OF_DESCRIPTORS = "out_of_descriptors"
    NOBODY_WAITS = "nobody_waits"
    SOME_STOPPED = "some_stopped"
    UNINTERRUPTIBLE = "uninterruptible"
    CAUSE_HIDDEN = "cause_hidden"
    OWNER_HIDDEN = "owner_hidden"
    BUSY = "busy"
    UNANSWERED = "unanswered"
    ANSWERED_BADLY = "answered_badly"
    OVERFLOW = "overflow"
    FULL = "full"
    HALF_OPEN = "half_open"
    ENDED_IN_QUEUE = "ended_in_queue"
    UNCLOSED = "unclosed"
    THROTTLED = "throttled"
    SHORT_OF_MEMORY = "short_of_memory"
    LIMIT_AT_SYSCTL = "limit_at_sysctl"

    NO_FAULT = "no_fault"
    CAUSE_NOT_SEEN = "cause_not_seen"
    AUDIT_ALONE = "audit_alone"
    """There is no verdict to compare with: what the audit says is all there is to say."""
    NOTHING_FOUND = "nothing_found"


class Claim(StrEnum):
    """What a sentence says of the application, as far as another sentence could deny it.

    What is claimed of a queue and of who accepts is claimed of one listener, the one that the
    headline is about.
    """

    NO_LISTENER = "no_listener"
    OWNER_SEEN = "owner_seen"
    OWNER_HIDDEN = "owner_hidden"
    ACCEPTS = "accepts"
    """Connections are taken out of the queue, or would be at once."""
    NOT_ACCEPTING = "not_accepting"
    """Something is queued, and nothing is taken out."""
    SOMEBODY_WAITS = "somebody_waits"
    NOBODY_WAITS = "nobody_waits"
    ACCEPTOR_EXITED = "acceptor_exited"
    """Of those who accepted while all was well nobody is left."""
    ACCEPTOR_LIVES = "acceptor_lives"
    ALL_STOPPED = "all_stopped"
    """No thread of those who hold the listener gets to run."""
    SOME_RUN = "some_run"
    QUEUE_FULL = "queue_full"
    QUEUE_EMPTY = "queue_empty"
    SOMETHING_QUEUED = "something_queued"


DENIES: dict[Claim, tuple[Claim, ...]] = {
    Claim.NO_LISTENER: (
        Claim.OWNER_SEEN,
        Claim.OWNER_HIDDEN,
        Claim.ACCEPTS,
        Claim.NOT_ACCEPTING,
        Claim.SOMEBODY_WAITS,
        Claim.NOBODY_WAITS,
        Claim.QUEUE_FULL,
        Claim.QUEUE_EMPTY,
        Claim.SOMETHING_QUEUED,
    ),
    Claim.OWNER_SEEN: (Claim.OWNER_HIDDEN,),
    Claim.ACCEPTS: (Claim.NOT_ACCEPTING, Claim.ACCEPTOR_EXITED, Claim.ALL_STOPPED),
    Claim.SOMEBODY_WAITS: (Claim.NOBODY_WAITS, Claim.ACCEPTOR_EXITED),
    Claim.ACCEPTOR_EXITED: (Claim.ACCEPTOR_LIVES,),
    Claim.ALL_STOPPED: (Claim.SOME_RUN,),
    Claim.QUEUE_EMPTY: (Claim.QUEUE_FULL, Claim.NOT_ACCEPTING, Claim.SOMETHING_QUEUED),
}
"""What cannot be true beside a claim; each pair stands here once."""


def contradict(first: Iterable[Claim], second: Iterable[Claim]) -> bool:
    """Whether some claim of the one denies some claim of the other."""
    others = tuple(second)
    return any(
        other in DENIES.get(claim, ()) or claim in DENIES.get(other, ())
        for claim in first
        for other in others
    )


class Pattern(NamedTuple):
    """One thing that is the matter: what it means, what proves it, what to look at next."""

    name: Code
    title: str
    meaning: str
    proof: tuple[str, ...]
    look_at: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    claims: frozenset[Claim] = frozenset()


class Conclusion(NamedTuple):
    """What a report comes to: as a word, as a sentence, and every pattern that fits."""

    code: Code
    headline: str
    patterns: tuple[Pattern, ...] = ()
