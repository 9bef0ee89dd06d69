"""GET /metrics: Prometheus text that Prometheus' own parser reads, with labels that stay few."""

import math
from collections import defaultdict

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample as Series

from probe import __version__
from probe.api.metrics import Metrics
from probe.api.status import About
from probe.model import (
    Condition,
    Observation,
    Outcome,
    Policy,
    Protocol,
    Reason,
    RoundTrip,
    Sample,
    Stage,
    Target,
)
from probe.sidecar.board import Board
from tests.api.service import (
    LISTENER,
    Service,
    failed_trip,
    get,
    good_trip,
    healthy,
    seen,
    serving,
    stalled,
)

LABELS: dict[str, set[str]] = {
    "target": {"8080", "9090"},
    "condition": set(Condition),
    "reason": set(Reason),
    "outcome": set(Outcome),
    "stage": set(Stage),
    "phase": {"connect", "tls", "first_byte", "total"},
    "version": {__version__},
    "view": {"sock_diag"},
}
"""Every label and every value it may have; but for `le`, and the version of Python."""


class Bench:
    """Metrics on a board whose clocks the test sets."""

    def __init__(self, *ports: int, full: bool = False) -> None:
        self.now = 0.0
        board = Board(
            [Target(port) for port in ports or (8080, 9090)],
            clock=lambda: self.now,
            wall=lambda: 1_800_000_000.0 + self.now,
        )
        self.metrics = Metrics(board, About("sock_diag", Policy(), began=0.0), full=full)
        self.service = Service(board, self.metrics, None, 0)  # type: ignore[arg-type]

    def observe(self, observation: Observation, target: str = "8080") -> None:
        self.now = observation.at
        self.service.publish(healthy(target), observation)

    def series(self) -> list[Series]:
        text = self.metrics.render().decode()
        return [one for family in text_string_to_metric_families(text) for one in family.samples]

    def value(self, name: str, **labels: str) -> float | None:
        found = [
            one.value
            for one in self.series()
            if one.name == f"acceptprobe_{name}" and labels.items() <= one.labels.items()
        ]
        assert len(found) <= 1, f"{name} {labels} is not one series"
        return found[0] if found else None


@pytest.fixture(autouse=True)
def cheap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No page is given again because a busy machine made it dear, but where that is tested."""
    if "dear" not in request.node.name:
        monkeypatch.setattr("probe.api.metrics.DEAR", math.inf)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture(params=["brief", "full"])
def busy(request: pytest.FixtureRequest) -> Bench:
    """Return metrics with something in every family."""
    bench = Bench(full=request.param == "full")
    for target in ("8080", "9090"):
        fill(bench, target)
    bench.service.publish(stalled("9090"))
    return bench


def fill(bench: Bench, target: str) -> None:
    """Have a target seen in every way but for the failures, of which there is one."""
    bench.observe(seen(1.0), target)
    bench.observe(over_tls(good_trip(2.0)), target)
    bench.observe(failed_trip(3.0), target)
    bench.metrics.sampled(0.00003)
    bench.metrics.pulse(0.002)


def over_tls(observation: Observation) -> Observation:
    trip = observation.round_trip
    assert trip is not None
    return observation._replace(round_trip=trip._replace(phases=trip.phases._replace(tls=0.002)))


def test_names_are_as_prometheus_has_them(busy: Bench) -> None:
    families = list(text_string_to_metric_families(busy.metrics.render().decode()))
    assert len(families) > 20
    for family in families:
        assert family.name.startswith("acceptprobe_"), "nothing of the library's own leaks in"
        assert family.documentation.endswith("."), family.name
        assert not family.name.endswith("_created")
        if family.type == "counter":
            assert all(one.name.endswith("_total") for one in family.samples), family.name
        else:
            assert not family.name.endswith("_total"), family.name
        assert not family.name.endswith(("_milliseconds", "_ms", "_percent", "_kb"))
    names = [family.name for family in families]
    assert len(names) == len(set(names))


def test_labels_come_from_closed_sets(busy: Bench) -> None:
    for one in busy.series():
        for label, value in one.labels.items():
            if label not in ("le", "python"):
                assert value in LABELS[label], one


def test_a_thousand_listeners_make_no_more_series_than_one(busy: Bench) -> None:
    before = len(busy.series())
    for cookie in range(1, 1001):
        listener = LISTENER._replace(
            cookie=cookie, inode=cookie + 10**6, address=f"10.0.{cookie % 256}.1", uid=cookie
        )
        busy.observe(seen(3.0 + cookie, listener, listener._replace(cookie=cookie + 10**6)))
        busy.observe(good_trip(3.0 + cookie))
    assert len(busy.series()) == before


def test_one_target_makes_few_series() -> None:
    brief, full = Bench(8080), Bench(8080, full=True)
    for bench in (brief, full):
        fill(bench, "8080")
    assert len(brief.series()) <= 60
    assert sum("le" in one.labels for one in brief.series()) <= 5
    assert len(full.series()) > 2 * len(brief.series())
    names = {(one.name, *one.labels) for one in brief.series()}
    assert names <= {(one.name, *one.labels) for one in full.series()}, "it only adds"


def test_a_stage_is_a_series_from_its_first_failure_on_and_always_in_full(bench: Bench) -> None:
    fill(bench, "8080")
    before = len(bench.series())
    for stage in (Stage.UNREAD, Stage.RESET, Stage.RESET):
        bench.observe(failed_trip(4.0, stage))
    assert len(bench.series()) == before + 2
    full = Bench(full=True)
    for stage in Stage:
        assert full.value("round_trip_failures_total", target="8080", stage=stage) == 0


@pytest.mark.parametrize("full", [False, True])
def test_whatever_an_alert_takes_the_rise_of_is_there_before_it_rises(full: bool) -> None:
    bench = Bench(8080, full=full)
    bench.observe(seen(1.0))
    for name in ("accept_queue_drops", "samples_unknown", "evidence_saved"):
        assert bench.value(f"{name}_total", target="8080") == 0
    for outcome in Outcome:
        assert bench.value("round_trips_total", target="8080", outcome=outcome) == 0
    for condition in {*Condition} - {Condition.HEALTHY}:
        assert bench.value("transitions_total", target="8080", condition=condition) == 0
    for reason in Reason:
        assert bench.value("reason", target="8080", reason=reason) is not None


def test_the_answers_and_the_condition_are_gauges(bench: Bench) -> None:
    service = bench.service
    assert bench.value("ready", target="8080") == 0
    assert bench.value("condition", target="8080", condition="unknown") == 1
    service.publish(stalled(live=False))
    service.publish(healthy("9090"))
    for target, ready, live, condition in [("8080", 0, 0, "unhealthy"), ("9090", 1, 1, "healthy")]:
        assert bench.value("ready", target=target) == ready
        assert bench.value("live", target=target) == live
        assert bench.value("started", target=target) == 1
        states = {
            name: bench.value("condition", target=target, condition=name) for name in Condition
        }
        assert states == {name: float(name == condition) for name in Condition}
    assert bench.value("reason", target="8080", reason="accept_queue_stalled") == 1
    assert bench.value("reason", target="9090", reason="accept_queue_stalled") == 0
    service.board.shut_down()
    assert bench.value("ready", target="9090") == 0
    assert bench.value("reason", target="9090", reason="shutting_down") == 1


def test_the_most_saturated_listener_stands_for_its_group(bench: Bench) -> None:
    bench.observe(
        seen(
            1.0,
            LISTENER._replace(cookie=1, length=90, limit=4096),
            LISTENER._replace(cookie=2, length=4, limit=5),
            LISTENER._replace(cookie=3, length=0, limit=5),
        )
    )
    assert bench.value("listeners", target="8080") == 3
    assert bench.value("accept_queue_length", target="8080") == 4
    assert bench.value("accept_queue_limit", target="8080") == 5
    assert bench.value("accept_queue_saturation_ratio", target="8080") == 0.8


def test_what_proc_does_not_tell_is_absent_and_not_zero(bench: Bench) -> None:
    bench.observe(seen(1.0, LISTENER._replace(limit=None, drops=None)))
    assert bench.value("accept_queue_length", target="8080") == 3
    for name in ("limit", "saturation_ratio", "drops_total"):
        assert bench.value(f"accept_queue_{name}", target="8080") is None


def test_a_target_that_was_not_seen_yet_has_no_queue(bench: Bench) -> None:
    for name in ("listeners", "accept_queue_length", "last_observation_timestamp_seconds"):
        assert bench.value(name, target="8080") is None
    bench.observe(Observation(1.0, Sample()))
    assert bench.value("listeners", target="8080") == 0
    assert bench.value("accept_queue_length", target="8080") is None


def test_drops_never_go_backwards_over_restarts(bench: Bench) -> None:
    seen_drops = []
    for at, cookie, drops in [
        (1.0, 1, 7),  # dropped before we came
        (2.0, 1, 9),
        (3.0, 2, 0),  # a new listener, whose counter begins anew
        (4.0, 2, 4),
        (5.0, 2, 4),
    ]:
        bench.observe(seen(at, LISTENER._replace(cookie=cookie, drops=drops)))
        seen_drops.append(bench.value("accept_queue_drops_total", target="8080"))
    assert seen_drops == [7, 9, 9, 13, 13]
    bench.observe(Observation(6.0, Sample()))
    assert bench.value("accept_queue_drops_total", target="8080") == 13, "while nobody listens"
    bench.observe(Observation(7.0, Sample(error="cannot tell")))
    bench.observe(
        seen(8.0, LISTENER._replace(cookie=3, drops=1), LISTENER._replace(cookie=4, drops=2))
    )
    assert bench.value("accept_queue_drops_total", target="8080") == 16, "summed over a group"


def test_accepts_are_counted_from_our_first_sample_and_never_backwards(bench: Bench) -> None:
    counts = []
    for at, accepts in enumerate([1000, 1005, None, 1004, 1010]):
        bench.observe(Observation(float(at), Sample((LISTENER,), accepts=accepts)))
        counts.append(bench.value("namespace_accepts_total"))
    assert counts == [0, 5, 5, 5, 10]


def test_round_trips_by_outcome_and_failures_by_stage(bench: Bench) -> None:
    bench.observe(good_trip(1.0))
    assert bench.value("round_trip_failures_total", target="8080", stage="queued") is None
    bench.observe(failed_trip(2.0, Stage.QUEUED))
    bench.observe(failed_trip(3.0, Stage.QUEUED))
    bench.observe(Observation(4.0, round_trip=RoundTrip(4.0, Outcome.UNKNOWN)))
    outcomes = {
        name: bench.value("round_trips_total", target="8080", outcome=name) for name in Outcome
    }
    assert outcomes == {"ok": 1, "failed": 2, "unknown": 1}
    assert bench.value("round_trip_failures_total", target="8080", stage="queued") == 2
    assert bench.value("round_trips_total", target="9090", outcome="ok") == 0


@pytest.mark.parametrize("full", [False, True])
def test_phases_and_the_accept_delay_are_summed_and_counted(full: bool) -> None:
    bench = Bench(full=full)
    bench.observe(good_trip(1.0))
    bench.observe(failed_trip(2.0))
    count = "round_trip_phase_seconds_count"
    assert bench.value(count, target="8080", phase="connect") == 2
    assert bench.value(count, target="8080", phase="first_byte") == 1
    assert bench.value(count, target="8080", phase="tls") is None
    assert bench.value("accept_delay_seconds_count", target="8080") == 2
    assert bench.value("accept_delay_seconds_sum", target="8080") == pytest.approx(0.0004)
    soonest = "0.0005" if full else "0.01"
    assert bench.value("accept_delay_seconds_bucket", target="8080", le=soonest) == 2
    buckets = {one.name for one in bench.series() if "le" in one.labels}
    assert ("acceptprobe_round_trip_phase_seconds_bucket" in buckets) == full


def test_a_connection_that_was_accepted_late_counts_with_what_it_waited(bench: Bench) -> None:
    bench.observe(failed_trip(2.0, Stage.QUEUED)._replace(round_trip=None))
    bench.observe(seen(3.0)._replace(own_queued_for=3.0))
    bench.observe(failed_trip(3.5)._replace(round_trip=None))
    bench.observe(seen(12.0)._replace(own_queued_for=12.0))
    assert bench.value("own_connection_queued_seconds", target="8080") == 12
    assert bench.value("accept_delay_seconds_count", target="8080") is None
    bench.observe(seen(12.5)._replace(accepted=True))
    assert bench.value("accept_delay_seconds_sum", target="8080") == 12
    assert bench.value("own_connection_queued_seconds", target="8080") == 0
    bench.observe(seen(13.5)._replace(accepted=True))
    assert bench.value("accept_delay_seconds_count", target="8080") == 1, "it waited once"


def test_samples_and_unknowns_are_counted(bench: Bench) -> None:
    bench.observe(seen(1.0))
    bench.observe(Observation(2.0, Sample(error="cannot tell")))
    bench.now = 5.0
    assert bench.value("samples_total", target="8080") == 2
    assert bench.value("samples_unknown_total", target="8080") == 1
    assert bench.value("last_observation_timestamp_seconds", target="8080") == 1_800_000_002


def test_transitions_by_the_condition_they_led_to(bench: Bench) -> None:
    for verdict in (healthy(), stalled(), healthy(), healthy()):
        bench.service.publish(verdict)
    by_condition = defaultdict(
        float,
        {
            name: bench.value("transitions_total", target="8080", condition=name)
            for name in Condition
        },
    )
    assert by_condition == {"unknown": 0, "healthy": 2, "suspect": 0, "unhealthy": 1}


def test_the_sidecar_tells_of_itself(busy: Bench) -> None:
    assert busy.value("build_info", version=__version__, view="sock_diag") == 1
    assert busy.value("loop_lag_seconds_count") == 2
    assert busy.value("loop_lag_seconds_sum") == 0.004
    assert busy.metrics.loop_lag == 0.002
    assert busy.value("sample_duration_seconds_sum") == pytest.approx(0.00006)
    assert busy.value("process_start_time_seconds") == 1_800_000_000
    resident = busy.value("process_resident_memory_bytes")
    assert resident is not None
    assert 10 << 20 < resident < 1 << 30
    used = busy.value("process_cpu_seconds_total")
    for _ in range(20_000):
        pass
    busy.metrics.pulse(0.0)
    later = busy.value("process_cpu_seconds_total")
    assert used is not None
    assert later is not None
    assert 0 < used < later


async def test_it_is_served_as_the_text_format() -> None:
    async with serving() as service:
        service.publish(healthy(), seen(service.board.clock()))
        reply = await get(service.port, "/metrics")
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name for family in text_string_to_metric_families(reply.text)}
    assert {"acceptprobe_ready", "acceptprobe_accept_queue_length"} <= families


def test_two_sidecars_in_one_process_do_not_share_figures() -> None:
    one, other = Bench(), Bench()
    one.observe(good_trip(1.0))
    assert one.value("round_trips_total", target="8080", outcome="ok") == 1
    assert other.value("round_trips_total", target="8080", outcome="ok") == 0


def test_a_page_that_is_dear_is_given_again_and_a_cheap_one_is_not() -> None:
    few, many = Bench(8080), Bench(*range(8000, 8200))
    for bench, again in ((few, False), (many, True)):
        first = bench.metrics.render()
        bench.metrics.evidence_saved("8080")
        assert (bench.metrics.render() == first) is again


def test_a_target_that_comes_and_goes_takes_its_series_along(bench: Bench) -> None:
    board = bench.service.board
    before = {(one.name, *one.labels.values()) for one in bench.series()}
    for _ in range(2):
        board.add(Target(9000, Protocol.QUEUE, discovered=True))
        bench.observe(seen(1.0, LISTENER._replace(drops=7)), "9000")
        bench.metrics.evidence_saved("9000")
        names = {one.name for one in bench.series() if one.labels.get("target") == "9000"}
        assert bench.value("accept_queue_length", target="9000") == 3
        assert bench.value("accept_queue_drops_total", target="9000") == 7, "of this one alone"
        assert bench.value("evidence_saved_total", target="9000") == 1
        assert not {name for name in names if "round_trip" in name or "own_connection" in name}
        assert not names & {"acceptprobe_ready", "acceptprobe_live", "acceptprobe_started"}
        board.forget("9000")
        bench.metrics.evidence_saved("9000")
        assert {(one.name, *one.labels.values()) for one in bench.series()} == before
