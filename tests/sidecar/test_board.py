"""The board: what of it the pod depends on, and who hears of targets that come and go."""

import pytest

from probe.model import Condition, Observation, Protocol, Reason, Target, Transition, Verdict
from probe.sidecar.board import Board

FOUND = Target(9000, Protocol.QUEUE, discovered=True)


def publish(board: Board, name: str, condition: Condition, reason: Reason | None = None) -> None:
    well = condition is Condition.HEALTHY
    verdict = Verdict(name, condition, reason, ready=well, started=True)
    board.publish(name, Observation(0.0), verdict, None)


@pytest.mark.parametrize("decide", [False, True])
@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        (Condition.HEALTHY, None),
        (Condition.UNKNOWN, Reason.STARTING),
        (Condition.UNHEALTHY, Reason.ACCEPT_QUEUE_SATURATED),
        (Condition.UNHEALTHY, Reason.ACCEPT_QUEUE_STALLED),
    ],
)
def test_of_what_was_found_only_a_stall_decides_and_only_if_told(
    decide: bool, condition: Condition, reason: Reason | None
) -> None:
    board = Board([Target(8080)], discovered_decide=decide)
    publish(board, "8080", Condition.HEALTHY)
    board.add(FOUND)
    publish(board, "9000", condition, reason)
    stalled = reason is Reason.ACCEPT_QUEUE_STALLED
    assert board.ready is not (decide and stalled)
    assert board.live
    assert board.started
    assert board.is_ready(board.entries["9000"]) is (condition is Condition.HEALTHY)
    board.forget("9000")
    assert board.ready


def test_a_board_of_nothing_is_ready_until_it_shuts_down() -> None:
    board = Board([])
    assert board.ready
    board.shut_down()
    assert not board.ready


def test_who_follows_hears_of_all_there_are_and_of_each_that_comes_and_goes() -> None:
    board = Board([Target(8080)])
    heard: list[tuple[str, str]] = []

    def fails(_: object) -> None:
        raise RuntimeError("a subscriber's own fault")

    board.on_coming(lambda target: heard.append(("came", target.name)))
    board.on_going(lambda name: heard.append(("went", name)))
    board.on_going(fails)
    board.add(FOUND)
    board.forget("9000")
    board.add(FOUND)
    assert heard == [("came", "8080"), ("came", "9000"), ("went", "9000"), ("came", "9000")]
    assert list(board.entries) == ["8080", "9000"]
    transitions: list[Transition] = []
    board.subscribe(transitions.append)
    publish(board, "9000", Condition.HEALTHY)
    assert board.entries["9000"].verdict.condition is Condition.HEALTHY
