"""The view: what is wrong, since when and what happens next, as the judge would have it."""

import json
from importlib.resources import files
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry

from probe import judge
from probe.api.status import About, Lag, Sources
from probe.api.view.document import view
from probe.evidence.records.audit import Access, AccessKind
from probe.model import (
    Condition,
    Hold,
    Listener,
    Observation,
    OnStall,
    Outcome,
    Phases,
    Policy,
    Protocol,
    Reason,
    RoundTrip,
    Sample,
    Stage,
    Target,
    Work,
)
from probe.sidecar.board import Board
from probe.sidecar.past import SECONDS

SCHEMAS = {
    name: json.loads(files("probe").joinpath(f"api/{name}").read_text())
    for name in ("status.schema.json", "view.schema.json")
}
VALIDATOR = Draft202012Validator(
    SCHEMAS["view.schema.json"],
    registry=Registry().with_contents(SCHEMAS.items()),
)

LISTENER = Listener(2, "0.0.0.0", 8080, 0x1F, 0, 5, 0, 4711, 1000)
GOOD = RoundTrip(
    0.0, Outcome.OK, status=200, accepted=True, phases=Phases(accept=0.001, total=0.002)
)
BAD = RoundTrip(0.0, Outcome.FAILED, Stage.STATUS, "503 Service Unavailable", 503, accepted=True)


class Scene:
    """A board that the real judge writes to, on a clock of its own."""

    def __init__(
        self,
        *targets: Target,
        policy: Policy = Policy(),  # noqa: B008
        on_stall: tuple[OnStall, ...] = (),
        **sources: Any,
    ) -> None:
        self.now = 1000.0
        self.policy = policy
        self.board = Board(
            targets or (Target(8080),),
            clock=lambda: self.now,
            wall=lambda: 1_800_000_000 + self.now,
        )
        self.about = About("sock_diag", policy, 990.0, on_stall)
        self.sources = Sources(self.board, self.about, **sources)
        self.states = {
            name: judge.initial(entry.target, self.now)
            for name, entry in self.board.entries.items()
        }
        self.accepts = 100

    def observe(self, name: str = "8080", **observed: Any) -> None:
        observation = Observation(self.now, **observed)
        state, transition = judge.step(self.states[name], observation, self.policy)
        self.states[name] = state
        self.board.publish(name, observation, state.verdict, transition, state)

    def healthy(self, seconds: int = 3, name: str = "8080") -> None:
        for _ in range(seconds):
            self.now += 1.0
            self.accepts += 2
            self.observe(name, sample=Sample((LISTENER,), self.accepts))
            self.observe(name, round_trip=GOOD._replace(at=self.now))

    def queued(self, length: int, seconds: float, *, accepts: int = 0, **observed: Any) -> None:
        for _ in range(round(seconds * 4)):
            self.now += 0.25
            self.accepts += accepts
            listener = LISTENER._replace(length=length)
            self.observe(sample=Sample((listener,), self.accepts), **observed)

    def view(self, *, local: bool = True, seconds: int = SECONDS) -> dict[str, Any]:
        """What is seen, as a client reads it: every one of these is as the schema has it."""
        seen = json.loads(json.dumps(view(self.sources, local=local, seconds=seconds)))
        assert not [fault.message for fault in VALIDATOR.iter_errors(seen)]
        return dict(seen)

    def next(self) -> list[tuple[str, float | None, str]]:
        return [(one["what"], one["in_seconds"], one["text"]) for one in self.view()["next"]]


def test_before_the_first_observation() -> None:
    seen = Scene().view()
    assert seen["headline"] == "Not ready: 8080 has not answered yet"
    assert seen["condition"] == "unknown"
    assert seen["next"] == [
        {"target": None, "what": "nothing", "in_seconds": None, "text": "nothing is due"}
    ]
    assert seen["targets"][0]["history"]["condition"] == ""


def test_while_it_starts() -> None:
    scene = Scene()
    scene.queued(0, 1)
    assert scene.next() == [("ready", None, "/ready becomes good after 1 good round trip")]


def test_all_is_well() -> None:
    scene = Scene()
    scene.healthy(20)
    seen = scene.view()
    assert seen["headline"] == "All is well: ready and live"
    assert (seen["reason"], seen["incident"]) == ("", None)
    assert seen["since"]["seconds_ago"] == 19.0
    assert [one["what"] for one in seen["next"]] == ["nothing"]
    [target] = seen["targets"]
    assert target["queue"] == {"length": 0, "limit": 5, "saturation": 0.0, "full": False}
    assert target["accept_delay"]["p99"] == 0.001
    assert target["round_trip"]["p50"] == 0.002
    assert target["accepts_per_second"] == 2.0
    assert target["history"]["condition"] == "h" * 20
    assert target["history"]["accepts"][-3:] == [2, 2, 2]


def test_a_stall_from_suspicion_to_the_restart() -> None:
    scene = Scene()
    scene.healthy()
    scene.queued(3, 1.5)
    seen = scene.view()
    assert seen["headline"] == "Ready, but suspect: 8080 accepts no connections"
    [event] = seen["next"]
    assert event["what"] == "not_ready"
    assert event["in_seconds"] == pytest.approx(3.0 - 1.25, abs=0.26)
    assert event["text"] == (
        "/ready fails, and traffic goes elsewhere, unless it accepts a connection first"
    )
    scene.queued(3, 10.0)
    seen = scene.view()
    assert seen["headline"] == "Not ready: 8080 accepts no connections"
    assert "3 of 5 queued, nothing accepted for" in seen["reason"]
    assert seen["incident"]["seconds_ago"] == pytest.approx(10.25, abs=0.5)
    live, ready = seen["next"]
    assert live["what"] == "not_live"
    assert live["in_seconds"] == pytest.approx(30 - 11.25, abs=0.3)
    assert live["text"].startswith("/live fails, and kubelet restarts the container, unless")
    assert ready["what"] == "ready"
    before = live["in_seconds"]
    # It is counted down between two observations, too.
    scene.now += 0.2
    assert scene.view()["next"][0]["in_seconds"] == pytest.approx(before - 0.2, abs=0.11)
    scene.queued(3, 20.0)
    seen = scene.view()
    assert seen["headline"] == "Not ready and not live: 8080 accepts no connections"
    assert seen["next"][0]["in_seconds"] == 0.0
    assert seen["answers"]["live"].startswith("not live: accept_queue_stalled")
    assert seen["targets"][0]["history"]["condition"].startswith("hhh")
    assert seen["targets"][0]["history"]["condition"].endswith("xxxx")


def test_what_is_promised_is_what_comes() -> None:
    """Whenever a time is told, the verdict changes when it is over, and not before."""
    scene = Scene()
    scene.healthy()
    told = []
    for _ in range(140):
        scene.queued(5, 0.25)
        told += [(what, scene.now + left) for what, left, _ in scene.next() if left]
    became = {"not_ready": 0.0, "not_live": 0.0}
    for recorded in scene.board.entries["8080"].transitions:
        transition = recorded.transition
        if transition.before.ready and not transition.after.ready:
            became["not_ready"] = transition.at
        if transition.before.live and not transition.after.live:
            became["not_live"] = transition.at
    assert {what for what, _ in told} == {"not_ready", "not_live"}
    for what, at in told:
        assert at == pytest.approx(became[what], abs=0.3), what


@pytest.mark.parametrize(
    ("work", "why"),
    [
        (Work(2, served=2, sent_ago=0.5), "2 connections are served, until none is for 30 s"),
        (Work(1, working=1), "1 request is worked on, until 300 s"),
    ],
)
def test_a_busy_application_is_said_to_stay_live(work: Work, why: str) -> None:
    scene = Scene()
    scene.healthy()
    scene.queued(5, 32.0, work=work)
    [what, _, text], *_ = scene.next()
    assert what == "stays_live"
    assert text.startswith(f"/live stays good: {why}")


def test_saturation_restarts_nobody_and_says_how_it_ends() -> None:
    scene = Scene()
    scene.healthy()
    scene.queued(5, 3.0, accepts=3)
    assert scene.view()["headline"] == "Ready, but suspect: 8080 accepts connections too slowly"
    [[what, left, _]] = scene.next()
    assert what == "not_ready"
    assert left == pytest.approx(2.25, abs=0.26)
    scene.queued(5, 3.0, accepts=3)
    assert [what for what, _, _ in scene.next()] == ["stays_live", "ready"]
    assert scene.next()[1][2].startswith("/ready becomes good once the queue was below 50%")
    scene.queued(1, 1.0, accepts=3)
    what, left, _ = scene.next()[1]
    assert what == "ready"
    assert left == pytest.approx(1.25, abs=0.26)


def test_a_round_trip_that_fails() -> None:
    scene = Scene()
    scene.healthy()
    for _ in range(2):
        scene.now += 1.0
        scene.observe(sample=Sample((LISTENER,), 100))
        scene.observe(round_trip=BAD._replace(at=scene.now))
    seen = scene.view()
    assert seen["headline"] == "Not ready: 8080 answers with an error"
    assert [what for what, _, _ in scene.next()] == ["stays_live", "ready"]
    assert seen["targets"][0]["last_failure"]["stage"] == "status"
    assert list(seen["targets"][0]["history"]["stage"].values()) == ["status", "status"]


def test_what_a_suspicion_takes_to_become_a_fault() -> None:
    scene = Scene(policy=Policy(failure_threshold=3))
    scene.healthy()
    scene.now += 1.0
    scene.observe(round_trip=BAD._replace(at=scene.now))
    [told] = scene.next()
    fails = "/ready fails, and traffic goes elsewhere, after 2 more"
    assert told == ("not_ready", None, f"{fails} failed round trips")
    scene.healthy()
    scene.now += 1.0
    scene.observe(sample=Sample())
    [told] = scene.next()
    assert told == ("not_ready", None, f"{fails} samples without a listener")


def test_no_answer_and_a_restart_is_asked_for() -> None:
    scene = Scene(policy=Policy(live_on=frozenset({"unanswered"})))
    scene.healthy()
    silent = BAD._replace(stage=Stage.UNANSWERED, status=None)
    for _ in range(3):
        scene.now += 1.0
        scene.observe(sample=Sample((LISTENER,), 100))
        scene.observe(round_trip=silent._replace(at=scene.now))
    [what, left, text], *_ = scene.next()
    assert (what, left) == ("not_live", 28.0)
    assert text.endswith("unless a round trip is good first")


def test_nobody_listens_and_a_restart_is_asked_for() -> None:
    scene = Scene(policy=Policy(live_on=frozenset({"vanished"})))
    scene.healthy()
    for _ in range(10):
        scene.now += 1.0
        scene.observe(sample=Sample())
    assert scene.view()["headline"] == "Not ready: nothing listens on 8080"
    [what, left, _], *_ = scene.next()
    assert what == "not_live"
    assert left == pytest.approx(21.0)


def test_nobody_listens_and_a_restart_is_not_asked_for() -> None:
    scene = Scene()
    scene.healthy()
    for _ in range(10):
        scene.now += 1.0
        scene.observe(sample=Sample())
    [what, left, text], *_ = scene.next()
    assert (what, left) == ("stays_live", None)
    assert "--live-on vanished" in text


def test_a_round_trip_that_fails_of_a_stall_is_a_stall() -> None:
    """Before it has lasted long enough to be told as one, it is known what it will come to."""
    scene = Scene()
    scene.healthy()
    scene.queued(3, 1.25, own_queued_for=2.0)
    scene.queued(3, 0.5, own_queued_for=4.0)
    assert scene.view()["targets"][0]["verdict"]["reason"] == "round_trip_failed"
    [what, left, _], *_ = scene.next()
    assert what == "not_live"
    assert left == pytest.approx(28.4, abs=0.3)


def test_an_application_that_never_accepted_is_not_restarted() -> None:
    scene = Scene()
    scene.queued(3, 10.0)
    [what, _, text], *_ = scene.next()
    assert what == "stays_live"
    assert "never seen to accept" in text


def test_a_listener_that_was_found_restarts_nobody() -> None:
    found = Target(8080, Protocol.QUEUE, discovered=True)
    scene = Scene(found, policy=Policy(live_after=float("inf")))
    scene.board = board = Board([found], discovered_decide=True, clock=lambda: scene.now)
    scene.about = About("sock_diag", Policy(), 990.0)
    scene.sources = Sources(board, scene.about)
    scene.queued(0, 1.0, accepts=1, unasked=True)
    scene.queued(3, 0.5, accepts=1, unasked=True)
    scene.queued(2, 10.0, unasked=True)
    assert scene.view()["headline"] == "Not ready: 8080 accepts no connections"
    [what, left, text], *_ = scene.next()
    assert (what, left) == ("stays_live", None)
    assert "nobody asked for a restart" in text


@pytest.mark.parametrize(
    ("on_stall", "what", "said"),
    [
        ((), "not_live", "kubelet restarts the container, as soon as the evidence is saved"),
        ((OnStall.HOLD,), "stays_live", "nothing is restarted"),
        ((OnStall.EVICT, OnStall.RESTART), "stays_live", "under way: the pod is deleted"),
    ],
)
def test_what_keeps_live_good_after_a_stall(
    on_stall: tuple[OnStall, ...], what: str, said: str
) -> None:
    scene = Scene(on_stall=on_stall)
    scene.board.gate_live(lambda _: True)
    scene.healthy()
    scene.queued(5, 35.0)
    [kind, left, text], *_ = scene.next()
    assert (kind, left) == (what, None)
    assert said in text


def test_a_hold_and_the_floor_are_told() -> None:
    scene = Scene()
    scene.board.gate_ready(lambda verdict: "kept by the floor: 1 of 2 endpoints is ready")
    scene.healthy()
    scene.queued(5, 35.0)
    scene.board.hold(Hold(scene.now + 60, 1_800_000_000, by="uid 0"))
    seen = scene.view()
    assert seen["headline"] == "Kept ready: 8080 accepts no connections"
    assert seen["held"]["seconds_left"] == 60
    assert [one["what"] for one in seen["next"]] == [
        *("hold_ends", "stays_ready", "stays_live", "ready")
    ]
    assert "kubelet restarts the container" in seen["next"][0]["text"]


def test_the_end_is_told_before_all_else() -> None:
    scene = Scene()
    scene.healthy()
    scene.board.shut_down()
    assert scene.view()["headline"] == "Shutting down: not ready"
    assert scene.next() == [("ends", None, "the sidecar ends")]


def test_transitions_lead_to_the_evidence_of_their_incident() -> None:
    scene = Scene()
    scene.healthy()
    for identity in ("first", "second"):
        scene.queued(5, 8.0)
        scene.board.evidence_saved("8080", identity, f"found by the {identity}")
        assert scene.view()["found"] == {"id": identity, "text": f"found by the {identity}"}
        scene.healthy(5)
    scene.board.evidence_saved("gone", "of a target that was forgotten", "")
    assert scene.view()["found"] is None
    told = scene.view()["transitions"]
    kept = [(one["before"], one["after"], one["evidence"]) for one in told]
    assert kept[0] == ("unhealthy", "healthy", "second")
    middle = kept.index(("unhealthy", "healthy", "first"))
    assert kept[middle - 1] == ("healthy", "suspect", "second")
    assert {evidence for _, _, evidence in kept[:middle]} == {"second"}
    assert kept[-2:] == [("healthy", "suspect", "first"), ("unknown", "healthy", None)]
    last = scene.view()["last_incident"]
    assert (last["target"], last["found"]["id"]) == ("8080", "second")
    assert 8.0 < last["seconds"] < 11.0
    assert "5 of 5 queued" in last["text"]
    outside = scene.view(local=False)
    assert outside["last_incident"]["found"] is None
    assert {one["evidence"] for one in outside["transitions"]} == {None}


def test_what_is_for_the_pod_alone() -> None:
    other = LISTENER._replace(port=9090, cookie=0x2F)
    access = Access(AccessKind.PYTHON_STACKS, False, "process 7 `app` is root's")
    scene = Scene(listeners=lambda: (LISTENER, other), evidence=lambda name: (access,))
    scene.healthy()
    seen = scene.view()
    assert seen["unprobed"] == [{"port": 9090, "address": "0.0.0.0", "length": 0, "limit": 5}]
    assert seen["sidecar"]["cannot_see"] == ["8080: Python stacks: process 7 `app` is root's"]
    outside = scene.view(local=False)
    assert outside["unprobed"] is None
    assert outside["sidecar"]["cannot_see"] == []


def test_what_cannot_be_seen_is_said() -> None:
    scene = Scene(
        Target(8080, Protocol.QUEUE), lag=lambda: Lag(0.001, 0.25), listeners=lambda: None
    )
    scene.board.accepts_unknown = "accepts are not counted: no /proc"
    scene.observe(sample=Sample(error="sock_diag: permission denied"))
    seen = scene.view()
    assert seen["unprobed"] is None
    assert seen["sidecar"]["loop_lag_max_seconds"] == 0.25
    assert seen["sidecar"]["cannot_see"] == [
        "accepts are not counted: no /proc",
        "8080: sock_diag: permission denied",
        "8080: whether it answers, since it is never asked",
    ]


def test_of_many_targets_the_document_stays_bounded() -> None:
    targets = [Target(port) for port in range(8000, 8100)]
    scene = Scene(*targets)
    for _ in range(SECONDS // 10 + 1):
        scene.now += 10.0
        for target in targets:
            scene.observe(target.name, sample=Sample((LISTENER,), 100))
    seen = scene.view()
    histories = [target["history"] for target in seen["targets"]]
    assert sum(len(history["condition"]) for history in histories) <= 6100
    assert {history["step"] for history in histories} == {10}
    # A point lasts longer than what a later document tells, and is told once more when it is over.
    later = [target["history"]["condition"] for target in scene.view(seconds=10)["targets"]]
    assert {len(condition) for condition in later} == {2}
    assert seen["condition"] == Condition.UNKNOWN
    assert Reason.STARTING in seen["answers"]["ready"]


def test_what_lies_between_two_samples_is_what_was_last_seen() -> None:
    scene = Scene(policy=Policy(interval=5.0))
    scene.healthy(1)
    scene.now += 4.0
    scene.healthy(1)
    scene.now += 40.0
    scene.healthy(1)
    history = scene.view()["targets"][0]["history"]
    assert history["condition"] == "h" * 6 + "h" * 10 + " " * 30 + "h"
    assert history["limit"][:16] == [5] * 16
    assert history["limit"][16] is None


def test_of_a_later_document_the_points_go_on() -> None:
    scene = Scene()
    scene.healthy(30)
    whole = scene.view()["targets"][0]["history"]
    scene.healthy(5)
    later = scene.view(seconds=10)["targets"][0]["history"]
    assert len(later["condition"]) == 10
    assert later["last"] == whole["last"] + 5
