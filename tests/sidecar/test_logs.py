"""The log: one line per transition and per oddity, in either form."""

import json
import logging

import pytest

from probe.model import (
    Condition,
    Observation,
    Outcome,
    Reason,
    RoundTrip,
    Sample,
    Stage,
    Target,
    Transition,
    Verdict,
)
from probe.sidecar.board import Board
from probe.sidecar.logs import JsonFormatter, Narrator, TextFormatter


def board_with_narrator() -> Board:
    board = Board([Target(8080)])
    Narrator(board)
    return board


def publish(board: Board, verdict: Verdict) -> None:
    before = board.entries["8080"].verdict
    board.publish("8080", Observation(1.0), verdict, Transition("8080", 1.0, before, verdict))


STALLED = Verdict(
    "8080", Condition.UNHEALTHY, Reason.ACCEPT_QUEUE_STALLED, message="8080 stalled", live=False
)


def test_a_transition_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        publish(board_with_narrator(), STALLED)
    (record,) = caplog.records
    assert (record.levelname, record.message) == ("ERROR", "8080 stalled; not live")
    said = json.loads(JsonFormatter().format(record))
    assert (said["event"], said["reason"], said["live"]) == (
        "transition",
        "accept_queue_stalled",
        False,
    )
    assert TextFormatter().format(record).endswith("Z ERROR 8080 stalled; not live")


def test_a_listener_that_has_gone_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Unless a restart is asked for on its account."""
    gone = STALLED._replace(reason=Reason.NOT_LISTENING, live=True)
    with caplog.at_level(logging.INFO):
        board = board_with_narrator()
        publish(board, gone)
        publish(board, gone._replace(live=False))
    assert [record.levelname for record in caplog.records] == ["INFO", "ERROR"]


def test_it_says_when_live_is_held(caplog: pytest.LogCaptureFixture) -> None:
    board = board_with_narrator()
    board.gate_live(lambda verdict: True)
    publish(board, STALLED)
    assert [record.message for record in caplog.records] == ["8080 stalled; /live is held"]


def test_an_oddity_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    board = board_with_narrator()
    with caplog.at_level(logging.INFO):
        for error in ("EPERM", "EPERM", "EPERM", "", ""):
            board.publish(
                "8080", Observation(1.0, Sample(error=error)), board.entries["8080"].verdict, None
            )
    assert [record.message for record in caplog.records] == [
        "8080 cannot be seen: EPERM",
        "8080 can be seen again",
    ]


def test_that_it_cannot_be_asked_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    board = board_with_narrator()
    good = RoundTrip(1.0, Outcome.OK)
    failed = RoundTrip(1.0, Outcome.FAILED, Stage.REFUSED, "refused")
    denied = RoundTrip(1.0, Outcome.UNKNOWN, detail="no permission")
    late = denied._replace(detail="no answer from the resolver")
    with caplog.at_level(logging.INFO):
        for trip in (good, denied, late, denied, failed, good):
            board.publish(
                "8080", Observation(1.0, round_trip=trip), board.entries["8080"].verdict, None
            )
    assert [record.message for record in caplog.records] == [
        "8080 cannot be asked: no permission",
        "8080 can be asked again",
    ]
