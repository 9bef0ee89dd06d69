"""What is printed where there is no terminal."""

from probe.watch.lines import news
from probe.watch.scene import Scene, hear, miss
from tests.watch.scenes import STALLED, document, known, scene, stalled, target, transition

EPOCH = 1_795_701_760.0
"""2026-11-26T14:02:40Z"""


def test_first_what_is_so_then_what_changes() -> None:
    nothing = Scene("here")
    first = scene(stalled(), target("9000"), transitions=[])
    assert news(nothing, first, EPOCH) == [
        f"2026-11-26T14:02:31Z  unhealthy  not-ready live      8080 {STALLED}",
        "2026-11-26T14:02:31Z  healthy    ready live          9000 healthy",
    ]
    assert news(first, hear(first, known(stalled(), transitions=[]), 1.0), EPOCH) == []
    changed = [
        transition("14:02:34", "8080", "healthy", "healthy: 0 of 5 queued"),
        transition("14:02:33", "8080", "suspect", "accept queue stalled"),
    ]
    after = hear(first, known(stalled(), transitions=changed), 1.0)
    assert news(first, after, EPOCH) == [
        "2026-11-26T14:02:33Z  suspect    ready live          8080 accept queue stalled",
        "2026-11-26T14:02:34Z  healthy    ready live          8080 healthy: 0 of 5 queued",
    ]


def test_that_nobody_tells_anything_is_said_once() -> None:
    heard = scene(target("8080"))
    lost = miss(heard, "no sidecar answers at 127.0.0.1:9809", 1.0)
    assert news(heard, lost, EPOCH) == [
        "2026-11-26T14:02:40Z  sidecar    no sidecar answers at 127.0.0.1:9809",
    ]
    assert news(lost, miss(lost, "no answer in time", 2.0), EPOCH) == []
    again = hear(lost, known(target("8080")), 5.0)
    assert news(lost, again, EPOCH) == [
        "2026-11-26T14:02:31Z  sidecar    the sidecar answers again after 4 s",
    ]


def test_no_line_of_a_stranger_moves_a_cursor() -> None:
    shown = scene(target("8080", "suspect", "\x1b[2J\nforged line"))
    (line,) = news(Scene("here"), shown, EPOCH)
    assert line.endswith("8080 \\x1b[2J\\nforged line")


def test_a_document_keeps_its_shape() -> None:
    assert document(target("8080"))["ready"] is True
