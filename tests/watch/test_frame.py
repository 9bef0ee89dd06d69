"""What is drawn, without a terminal: every size, and what strangers may send."""

import re
from itertools import pairwise
from typing import Any

import pytest

from probe.watch.cells import width
from probe.watch.controls import HELP, Controls, Sheet
from probe.watch.document import read
from probe.watch.frame import draw, in_sight, snapshot
from probe.watch.lines import news
from probe.watch.scene import Scene, hear, miss
from probe.watch.style import Appearance
from tests.watch.scenes import STALLED, document, known, scene, stalled, target

PLAIN = Appearance(colour=False)
ASCII = Appearance(colour=False, unicode=False)

NOTHING_CHOSEN = Controls()

NAUGHTY = "\x1b[2J\x1b]0;owned\x07 世界 \u202egnp\u0301.exe\r\n\x9b31m é̂ " + "x" * 300


def row_of(name: str, lines: list[str]) -> str:
    (row,) = (line for line in lines if re.match(rf"[> ] {name} ", line) and "  " in line[3:])
    return row.rstrip()


def drawn(
    of: Scene, columns: int = 80, lines: int = 24, controls: Controls = NOTHING_CHOSEN
) -> list[str]:
    return draw(of, controls, columns, lines, PLAIN, now=14.0)


def unpainted(line: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", line)


def test_an_incident_on_eighty_by_twenty_four() -> None:
    """What is wrong, since when, and what will happen next, from the top."""
    assert [line.rstrip() for line in drawn(scene(stalled()))] == [
        "probe 0.1.0 at 127.0.0.1:9809 by sock_diag, up 2 h                  14:02:31 UTC",
        "Not ready: 8080 accepts no connections, since 14:01:58 (33 s)",
        "  8080 accept queue stalled: 6 of 5 queued, nothing accepted for 12 s",
        "  Next, in 17 s: /live fails, and kubelet restarts the container",
        "",
        "  TARGET  STATE      QUEUE            ACC/S   DELAY     P99  DROPS    ROUND TRIP",
        "  8080    unhealthy  ███████     6/5     12  0.2 ms   12 ms      4   queued 11 s",
        "",
        "8080, THE LAST 10 MINUTES",
        "  state  ············································▒███",
        "  queue  ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁████ up to 6, limit 5",
        "  delay  █████████████████████████████████████████████    up to 0.2 ms",
        "",
        "TRANSITIONS",
        "  14:02:01  8080   unhealthy  not ready: accept queue stalled: 2 of 5 queued",
        "  14:01:58  8080   suspect    accept queue stalled: 1 of 5 queued",
        "  12:00:01  8080   healthy    healthy: 0 of 5 queued, round trip 6 ms",
        *[""] * 6,
        "e evidence  d diagnose  p pause  q quit  ? help",
    ]


def test_all_is_well() -> None:
    lines = drawn(scene(target("8080")))
    assert lines[1] == "All is well: ready and live, since 14:01:58 (33 s)"
    assert lines[2].strip() == "Next: nothing is due"
    assert row_of("8080", lines).split() == [
        *("8080", "healthy", "░░░░░░░", "0/50", "12"),
        *("0.2", "ms", "12", "ms", "0", "2.0", "ms"),
    ]


@pytest.fixture(scope="module")
def crowded() -> list[Scene]:
    """One target and fifty, long reasons, and what strangers may send."""
    others = [target(str(9000 + number)) for number in range(49)]
    naughty = target(
        f"/run/{NAUGHTY}.sock",
        "suspect",
        NAUGHTY,
        unknown=NAUGHTY,
        kept_ready=NAUGHTY,
        accepts_of="target",
        history={"step": 1, "last": 3, "condition": "\x1b[3", "queue": [1, None, 10**12]},
    )
    following = [{"text": NAUGHTY, "in_seconds": None}] * 5
    scenes = [
        scene(stalled()),
        scene(stalled(), *others),
        scene(naughty, stalled(), *others, headline=NAUGHTY, reason=NAUGHTY, next=following),
        scene(naughty, sidecar={"cannot_see": [NAUGHTY] * 9}),
        Scene("at 127.0.0.1:9809"),
    ]
    return [*scenes, miss(scenes[2], NAUGHTY, 1.0)]


@pytest.mark.parametrize("look", [ASCII, Appearance()], ids=["ascii", "colour"])
@pytest.mark.parametrize("lines", [1, 5, 24, 60])
@pytest.mark.parametrize("columns", [1, 40, 200])
def test_every_size_is_filled_and_never_overrun(
    columns: int, lines: int, look: Appearance, crowded: list[Scene]
) -> None:
    sheet = Sheet(NAUGHTY, (NAUGHTY,) * 90, ids=("", "20261122T084958Z-8080-x") * 45, chosen=1)
    for shown in crowded:
        for controls in (
            Controls(),
            Controls(selected="9040", busy="diagnosing 9040"),
            Controls(sheet=sheet),
            Controls(sheet=HELP, paused=shown),
        ):
            frame = draw(shown, controls, columns, lines, look, now=14.0)
            assert len(frame) == lines
            for line in map(unpainted, frame):
                assert line.isprintable()
                assert width(line) <= columns, line


def foreign(told: Any, text: str) -> Any:
    """The same document with this for every text but those of which there is a closed set."""
    if isinstance(told, dict):
        closed = ("condition", "outcome", "stage")
        return {name: told[name] if name in closed else foreign(told[name], text) for name in told}
    if isinstance(told, list):
        return [foreign(item, text) for item in told]
    return text if isinstance(told, str) else told


@pytest.mark.parametrize("text", [NAUGHTY, "\x1bT\x1b[2J\x1b]0", "", "T\r\n\r\n"])
def test_whatever_any_text_of_it_is_no_cursor_moves(text: str) -> None:
    told = foreign(document(stalled(), found={"id": "", "text": ""}), text)
    shown = hear(Scene("here"), read(told), 0.0)
    lines = [*drawn(shown, 100, 40), *snapshot(shown, read(told), 100, PLAIN)]
    assert all(line.isprintable() for line in lines)
    assert all(line.isprintable() for line in news(Scene("here"), shown, 0.0))


def test_what_comes_next_is_said_of_whom() -> None:
    """Where there is more than one; and what is due is not counted down to."""
    others = [
        {"text": "/live fails", "in_seconds": 0.1, "target": "8080"},
        {"text": "/live stays good", "in_seconds": None, "target": "9000"},
        {"text": "the hold ends", "in_seconds": 90.0, "target": None},
    ]
    lines = drawn(scene(stalled(), target("9000"), next=others), lines=40)
    assert [line.strip() for line in lines[3:6]] == [
        "Now, of 8080: /live fails",
        "Next, of 9000: /live stays good",
        "Next, in 90 s: the hold ends",
    ]


def test_what_the_evidence_has_found_is_said_where_there_is_room() -> None:
    found = {"id": "20261126T140158Z-8080-x", "text": "the thread that accepted has exited"}
    told = "  Found: the thread that accepted has exited"
    assert drawn(scene(stalled(), found=found))[3] == told
    assert told not in drawn(scene(stalled(), found=found), lines=12)


def test_without_colour_no_escape_is_sent() -> None:
    frame = draw(scene(stalled()), Controls(), 80, 24, PLAIN, now=0.0)
    assert not any("\x1b" in line for line in frame)
    painted = draw(scene(stalled()), Controls(), 80, 24, Appearance(), now=0.0)
    assert [unpainted(line) for line in painted] == frame
    assert "\x1b[31munhealthy\x1b[0m" in "".join(painted)


def test_without_unicode_all_of_it_is_ascii() -> None:
    lines = draw(scene(stalled()), Controls(), 60, 24, ASCII, now=0.0)
    assert all(line.isascii() for line in lines)
    assert f"  state  {'.' * 26}##" in lines
    assert f"  queue  {'.' * 26}## up to 6, limit 5" in lines


def test_forty_columns_tell_the_same_in_fewer() -> None:
    lines = drawn(scene(stalled()), 40, 24)
    assert lines[1] == "Not ready: 8080 accepts no connections,…"
    assert [line.strip() for line in lines[2:6]] == [
        "8080 accept queue stalled: 6 of 5",
        "queued, nothing accepted for 12 s",
        "Next, in 17 s: /live fails, and",
        "kubelet restarts the container",
    ]
    assert "  8080    unhealthy      6/5      4" in lines


def test_two_hundred_columns_have_the_past_of_every_target() -> None:
    lines = drawn(scene(stalled(), target("8081")), 200, 24)
    heading = next(line for line in lines if "TARGET" in line)
    assert heading.split() == [
        *("TARGET", "STATE", "QUEUE", "DELAY", "P99", "DROPS"),
        *("ROUND", "TRIP", "P50", "P99", "LAST", "10", "MINUTES"),
    ]
    assert row_of("8080", lines).endswith("·····████")
    assert row_of("8081", lines).endswith("······")


def test_a_young_history_is_shown_in_its_own_scale() -> None:
    young = {"step": 1, "last": 30, "condition": "h" * 29 + "x", "queue": [0] * 30}
    lines = drawn(scene(target("8080", history=young)))
    at = lines.index("8080, THE LAST MINUTE")
    # Half of a minute in half of the cells.
    assert lines[at + 1] == f"  state  {' ' * 24}{'·' * 23}█"


def test_of_fifty_targets_the_worst_are_in_sight_and_the_rest_is_counted() -> None:
    others = [target(str(9000 + number)) for number in range(48)]
    shown = scene(*others, target("7000", "suspect", "not listening"), stalled())
    lines = drawn(shown)
    names = [line[2:6] for line in lines if re.match(r"[> ] \d{4}  ", line)]
    assert names[:3] == ["8080", "7000", "9000"]
    hidden = 50 - len(names)
    assert f"  and {hidden} more healthy: up and down show them" in lines
    assert "    not listening" in lines
    assert "TRANSITIONS" in lines
    # The accepts of all ports are counted together, so no line of one can tell them.
    assert "  12 accepts a second, of all ports together" in lines
    assert "ACC/S" not in "".join(lines)


def test_the_chosen_target_is_in_sight() -> None:
    others = [target(str(9000 + number)) for number in range(48)]
    lines = drawn(scene(*others, stalled()), controls=Controls(selected="9047"))
    (chosen,) = (line for line in lines if line.startswith("> "))
    assert chosen.startswith("> 9047")
    assert any(
        re.fullmatch(r"  and 1 more unhealthy, \d+ more healthy: .*", line) for line in lines
    )


def test_what_fits_is_shown_from_the_chosen_one_backwards() -> None:
    assert in_sight([1, 1, 1], 0, 3) == (0, 3)
    assert in_sight([1, 1, 1, 1], 0, 3) == (0, 2)
    assert in_sight([1, 1, 1, 1], 3, 3) == (2, 4)
    assert in_sight([9, 9], 1, 3) == (1, 2)


def test_a_reason_stands_below_the_line_of_its_target() -> None:
    """But what the top of the screen says already is not said again."""
    kept = target("8081", "suspect", STALLED, kept_ready="2 of 3 others are not ready")
    lines = drawn(scene(stalled(), kept), 120, 30)
    below = lines[next(n for n, line in enumerate(lines) if line.startswith("  8081")) + 1]
    assert below == f"    {STALLED}; kept in service: 2 of 3 others are not ready"
    assert sum(STALLED in line for line in lines) == 2


def test_where_a_round_trip_hangs() -> None:
    cases = {
        "unanswered": target("8080", "unhealthy", "round trip failed"),
        "queued 11 s": stalled(),
        "2.0 ms": target("8080"),
        "unknown": target("8080", round_trip={"outcome": "unknown"}),
        "-": target("8080", round_trip={}),
    }
    for text, told in cases.items():
        assert row_of("8080", drawn(scene(told))).endswith(f"  {text}")


def test_a_long_name_is_told_by_its_end() -> None:
    """As the path of a socket is; other names than a port have accepts of their own."""
    path = "/run/some/where/very/deep/down/app.sock"
    lines = drawn(scene(target(path, accepts_of="target"), target("8080")), 100)
    assert any(line.startswith("> …very/deep/down/app.sock  healthy") for line in lines)
    assert "ACC/S" in "".join(lines)


def test_what_nobody_tells_is_a_dash() -> None:
    blind = target(
        "8080",
        queue={"length": 3, "limit": None, "full": False},
        drops={"last_10_minutes": None},
        accepts_per_second=None,
        accept_delay={},
    )
    gone = target("8081", "unhealthy", "not listening", queue=None, accepts_of="target")
    lines = drawn(scene(blind, gone))
    assert row_of("8080", lines).split()[:6] == ["8080", "healthy", "3/?", "-", "-", "-"]
    assert row_of("8081", lines).split()[:4] == [">", "8081", "unhealthy", "-"]


def test_news_that_are_missed_are_told_above_what_was_last_heard() -> None:
    shown = miss(scene(stalled()), "no sidecar answers at 127.0.0.1:9809", now=0.0)
    lines = drawn(miss(shown, "no sidecar answers at 127.0.0.1:9809", now=13.0))
    assert lines[:2] == [
        "No news for 14 s: no sidecar answers at 127.0.0.1:9809. Asked again every",
        "second; below is what was last heard.",
    ]
    assert lines[3].startswith("Not ready: 8080")


def test_a_restart_is_told_in_words() -> None:
    shown = miss(scene(stalled()), "no sidecar answers at 127.0.0.1:9809", now=0.0)
    again = known(
        target("8080"),
        at="2026-11-26T14:02:40.000Z",
        started_at={"at": "2026-11-26T14:02:38.000Z", "seconds_ago": 2.0},
        transitions=[],
    )
    lines = drawn(hear(shown, again, now=9.0), 100)
    said = "the sidecar was restarted, and answers after 9 s: its memory begins…"
    assert f"  14:02:40  sidecar  restarted  {said}" in lines
    assert "  14:02:01  8080   unhealthy  not ready: accept queue stalled: 2 of 5 queued" in lines


def test_what_cannot_be_seen_is_said() -> None:
    shown = scene(target("8080"), sidecar={"cannot_see": ["limits and drops: refused"]})
    assert "  not seen: limits and drops: refused" in drawn(shown)


def test_paused_is_what_was_shown_then() -> None:
    paused = Controls(paused=scene(stalled()))
    lines = drawn(scene(target("8080")), controls=paused)
    assert lines[0].endswith(" PAUSED at 14:02:31 UTC")
    assert lines[1].startswith("Not ready")
    assert lines[-1] == "e evidence  d diagnose  p go on  q quit  ? help"


def test_a_sheet_goes_on_telling_the_verdict() -> None:
    sheet = Sheet("diagnosis of 8080", tuple(f"line {number}" for number in range(90)), top=10)
    lines = drawn(scene(stalled()), lines=10, controls=Controls(sheet=sheet))
    assert lines == [
        "Not ready: 8080 accepts no connections, since 14:01:58 (33 s)",
        "diagnosis of 8080, lines 11 to 17 of 90",
        *(f"line {number}" for number in range(10, 17)),
        "up/down  q back  ctrl-c quit",
    ]


def test_printed_once_every_target_is_there() -> None:
    targets = [stalled(), *(target(str(9000 + number)) for number in range(49))]
    shown = scene(*targets)
    lines = snapshot(shown, read(document(*targets)), 80, PLAIN)
    names = [line[2:6] for line in lines if re.match(r"[> ] \d{4}  ", line)]
    assert len(names) == 50
    assert lines[-3].startswith("  14:02:01  8080   unhealthy")
    assert all(width(line) <= 80 for line in lines)


def test_the_next_frame_of_the_same_is_the_same() -> None:
    """So that nothing is sent for it."""
    frames = [drawn(scene(stalled())) for _ in range(2)]
    for one, other in pairwise(frames):
        assert one == other
