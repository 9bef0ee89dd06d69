"""The board as Prometheus has it. Gauges are read off the board; histograms are fed as it hears.

What costs a fleet is the number of its series, and a bucket is one. So the only histogram is the
accept delay, which no other figure tells; of other durations there are the sum and the count, and a
stage has a counter from when it has happened. `full` has all of them as histograms, and every stage
from the start; `_sum` and `_count` are the same in both. Whatever an alert takes the rise of is
there from the start at 0, either way.

Every label value comes from a closed set: a target's port or the path of its socket, or a name from
probe.model. Listeners come and go and a port may have many of them (SO_REUSEPORT), so they are not
told apart: lengths and limits are those of the target's most saturated listener, which is the one
that decides.
"""

import os
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from platform import python_version

from probe.api.status import About, Lag
from probe.imports.prometheus_lean import (
    Collector,
    CollectorRegistry,
    Counter,
    CounterMetricFamily,
    GaugeMetricFamily,
    Histogram,
    InfoMetricFamily,
    Metric,
    Summary,
    disable_created_metrics,
    generate_latest,
)
from probe.model import (
    Condition,
    EvidenceSent,
    Observation,
    Outcome,
    Protocol,
    Reason,
    Stage,
    Target,
    Transition,
)
from probe.sidecar.board import Board
from probe.sidecar.past import SECONDS, most_saturated

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

STATM = Path("/proc/self/statm")
PAGE = os.sysconf("SC_PAGE_SIZE")

DELAYS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
LONG_DELAYS = (*DELAYS, 10.0, 30.0)
ROUGH_DELAYS = (0.01, 0.1, 1.0, 10.0)
"""Taken at once, soon, late, or as good as never."""
SHORT_DELAYS = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, *DELAYS[:9])

DEAR = 0.005
"""Seconds of CPU time. A page that takes more, as that of 20 targets does, is given again..."""

RENDERING_SHARE = 0.1
"""...until rendering has had no more than this share of one core: anybody may ask, and often."""

# The time at which a series began says nothing here, and would double their number.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no types for it


class Metrics:
    """All that /metrics gives, in a registry of its own. Listens to the board from the start."""

    def __init__(self, board: Board, about: About, *, full: bool = False) -> None:
        self._page = b""
        self._page_until = float("-inf")
        self.loop_lag = 0.0
        """Seconds by which the event loop was late when it was last measured."""
        self._lags = array("f", [0.0]) * SECONDS
        self._pulses = 0
        self.accepts = 0
        """Accepts in the namespace since the first sample."""
        self.usage = Usage()
        self._full = full
        self._accepts_base: int | None = None
        self._own_queued_for: dict[str, float | None] = {}
        self._unix: set[str] = set()
        """The targets whose samples tell accepts of their own, and not the namespace's."""
        self._registry = registry = CollectorRegistry()
        registry.register(_Present(board, about, self))
        self._round_trips = Counter(
            "acceptprobe_round_trips",
            "Round trips that have ended, by outcome; unknown: it could not be told.",
            ["target", "outcome"],
            registry=registry,
        )
        self._failures = Counter(
            "acceptprobe_round_trip_failures",
            "Round trips that failed, by where they were stuck or what was wrong.",
            ["target", "stage"],
            registry=registry,
        )
        self._phases = self._durations(
            "round_trip_phase_seconds",
            "How long each part of a round trip took: connect, tls, first_byte, and total.",
            DELAYS if full else None,
            "target",
            "phase",
        )
        self._accept_delay = Histogram(
            "acceptprobe_accept_delay_seconds",
            "From the end of the handshake until the application accepted our connection.",
            ["target"],
            buckets=LONG_DELAYS if full else ROUGH_DELAYS,
            registry=registry,
        )
        self._transitions = Counter(
            "acceptprobe_transitions",
            "Changes of the verdict, by the condition they led to.",
            ["target", "condition"],
            registry=registry,
        )
        self._sample_duration = self._durations(
            "sample_duration_seconds",
            "How long it took to read the listeners from the kernel, for all targets at once.",
            SHORT_DELAYS if full else None,
        )
        self._loop_lag = self._durations(
            "loop_lag_seconds",
            "By how much the sidecar's own event loop was late, about once a second.",
            DELAYS if full else None,
        )
        self._evidence = Counter(
            "acceptprobe_evidence_saved",
            "Incidents of which evidence was saved.",
            ["target"],
            registry=registry,
        )
        board.on_coming(self._add)
        board.on_going(self._forget)
        board.observe(self._observed)
        board.subscribe(self._changed)

    def _add(self, target: Target) -> None:
        name = target.name
        self._own_queued_for[name] = None
        if target.socket:
            self._unix.add(name)
        self._evidence.labels(name)
        # From the start at 0, so that the first of its kind is a rise that can be seen.
        for condition in Condition:
            self._transitions.labels(name, condition)
        if target.protocol is Protocol.QUEUE:
            return  # No round trip is ever made.
        for outcome in Outcome:
            self._round_trips.labels(name, outcome)
        for stage in Stage if self._full else ():
            self._failures.labels(name, stage)

    def _forget(self, name: str) -> None:
        """Let the series of a target that was never asked end: who listens there next is somebody
        else.
        """
        self._own_queued_for.pop(name)
        self._evidence.remove(name)
        for condition in Condition:
            self._transitions.remove(name, condition)

    def _durations(
        self, name: str, about: str, buckets: tuple[float, ...] | None, *labels: str
    ) -> Summary | Histogram:
        name = f"acceptprobe_{name}"
        if buckets is None:
            return Summary(name, about, labels, registry=self._registry)
        return Histogram(name, about, labels, buckets=buckets, registry=self._registry)

    def render(self) -> bytes:
        """Return the Prometheus text format; its content type is CONTENT_TYPE."""
        if time.monotonic() >= self._page_until:
            began = time.thread_time()
            self._page = generate_latest(self._registry)
            took = time.thread_time() - began
            again_for = took / RENDERING_SHARE if took > DEAR else 0.0
            self._page_until = time.monotonic() + again_for
        return self._page

    def register(self, collector: Collector) -> None:
        """Have a collector of another room's figures asked as well."""
        self._registry.register(collector)

    def evidence_saved(self, target: str) -> None:
        """Count an incident whose evidence was saved."""
        if target in self._own_queued_for:  # It may have been forgotten meanwhile.
            self._evidence.labels(target).inc()

    def sampled(self, seconds: float) -> None:
        """Count one reading of the listeners, by how long it took."""
        self._sample_duration.observe(seconds)

    def pulse(self, lag: float) -> None:
        """Measure the sidecar itself once: by how many seconds its loop was late, and what it
        uses. To be called about once a second, so that /metrics need ask nobody.
        """
        self.loop_lag = self._lags[self._pulses % SECONDS] = lag
        self._pulses += 1
        self._loop_lag.observe(lag)
        self.usage.measure()

    @property
    def lag(self) -> Lag:
        """By how much the loop was late, last and at worst: a pulse is a second or so."""
        return Lag(self.loop_lag, max(self._lags))

    def _observed(self, name: str, observation: Observation) -> None:
        sample = observation.sample
        if (
            sample is not None
            and not sample.error
            and sample.accepts is not None
            and name not in self._unix
        ):
            self._count_accepts(sample.accepts)
        round_trip = observation.round_trip
        if round_trip is not None:
            self._round_trips.labels(name, round_trip.outcome).inc()
            if round_trip.outcome is Outcome.FAILED and round_trip.stage is not None:
                self._failures.labels(name, round_trip.stage).inc()
            for phase, seconds in round_trip.phases._asdict().items():
                if seconds is None:
                    continue
                if phase == "accept":
                    self._accept_delay.labels(name).observe(seconds)
                else:
                    self._phases.labels(name, phase).observe(seconds)
        waited = self._own_queued_for[name]
        if observation.accepted and waited is not None:
            # Its round trip had ended without an accept delay: too late for that, but not for us.
            self._accept_delay.labels(name).observe(waited)
        if sample is not None:
            self._own_queued_for[name] = observation.own_queued_for

    def _changed(self, transition: Transition) -> None:
        self._transitions.labels(transition.target, transition.after.condition).inc()

    def _count_accepts(self, accepts: int) -> None:
        """Follow the highest count seen: targets are sampled in turn, but may report out of it."""
        if self._accepts_base is None:
            self._accepts_base = accepts
        self.accepts = max(self.accepts, accepts - self._accepts_base)


class Usage:
    """What this process uses, when it was last measured."""

    def __init__(self) -> None:
        self.cpu = 0.0
        """Seconds."""
        self.resident = float("nan")
        """Bytes; NaN where there is no /proc that tells."""
        self.measure()

    def measure(self) -> None:
        self.cpu = time.process_time()
        with suppress(OSError):
            self.resident = int(STATM.read_text().split()[1]) * PAGE


class SentCollector(Collector):
    """What came of sending evidence away; registered where it is."""

    def __init__(self, sent: Callable[[], EvidenceSent]) -> None:
        self._sent = sent

    def collect(self) -> Iterator[Metric]:
        sent = self._sent()
        yield CounterMetricFamily(
            "acceptprobe_evidence_sent", "Incidents of which evidence was sent away.", sent.sent
        )
        yield CounterMetricFamily(
            "acceptprobe_evidence_send_failures", "Attempts to send some that failed.", sent.failed
        )
        yield CounterMetricFamily(
            "acceptprobe_evidence_given_up", "Incidents of which none is sent.", sent.given_up
        )
        yield GaugeMetricFamily(
            "acceptprobe_evidence_waiting", "Incidents that wait to be sent.", sent.waiting
        )


class _Present(Collector):
    """What is true at this moment, read off the board when it is asked for."""

    def __init__(self, board: Board, about: About, metrics: Metrics) -> None:
        self._board = board
        self._about = about
        self._metrics = metrics
        # Once: the clock on the wall may be set, and a start must not move.
        self._began = board.wall() - (board.clock() - about.began)

    def collect(self) -> Iterator[Metric]:
        yield from self._answers()
        yield from self._conditions()
        yield from self._listeners()
        yield from self._counts()
        yield from self._sidecar()

    def _answers(self) -> Iterator[Metric]:
        board = self._board
        ready = _gauge("ready", "Whether the target is ready (1) or not (0).")
        live = _gauge("live", "Whether the target is live (1) or not (0).")
        started = _gauge("started", "Whether the target has started (1) or not (0).")
        for name, entry in board.entries.items():
            if entry.target.discovered:
                continue  # Nobody asks whether it is.
            ready.add_metric([name], board.is_ready(entry))
            live.add_metric([name], board.is_live(entry))
            started.add_metric([name], entry.verdict.started)
        yield from (ready, live, started)

    def _conditions(self) -> Iterator[Metric]:
        conditions = _gauge("condition", "1 for the condition the target is in.", "condition")
        reasons = _gauge("reason", "1 for the reason why the target is not healthy.", "reason")
        for name, entry in self._board.entries.items():
            for condition in Condition:
                conditions.add_metric([name, condition], condition is entry.verdict.condition)
            present = self._board.reason(entry)
            for reason in Reason:
                reasons.add_metric([name, reason], reason is present)
        yield from (conditions, reasons)

    def _listeners(self) -> Iterator[Metric]:
        count = _gauge("listeners", "Listeners on the target's port; several with SO_REUSEPORT.")
        length = _gauge(
            "accept_queue_length",
            "Connections that wait to be accepted, at the target's most saturated listener.",
        )
        limit = _gauge(
            "accept_queue_limit",
            "The limit of that accept queue: the lesser of the backlog and somaxconn.",
        )
        saturation = _gauge(
            "accept_queue_saturation_ratio", "The length of that accept queue by its limit."
        )
        for name, entry in self._board.entries.items():
            if entry.sample is None:
                continue
            count.add_metric([name], len(entry.listeners))
            if not entry.listeners:
                continue
            worst = most_saturated(entry.listeners)
            length.add_metric([name], worst.length)
            if worst.limit is not None and worst.saturation is not None:
                limit.add_metric([name], worst.limit)
                saturation.add_metric([name], worst.saturation)
        yield from (count, length, limit, saturation)

    def _counts(self) -> Iterator[Metric]:
        board = self._board
        drops = _counter(
            "accept_queue_drops",
            "Connections that the target's listeners dropped, for whatever cause; over all their "
            "restarts.",
        )
        samples = _counter("samples", "Times that the target's listeners were sampled.")
        unknowns = _counter("samples_unknown", "Samples that could not tell anything.")
        own_queued = _gauge(
            "own_connection_queued_seconds",
            "How long our own connection has waited to be accepted; 0 when it does not.",
        )
        observed = _gauge("last_observation_timestamp_seconds", "When the target was last sampled.")
        for name, entry in board.entries.items():
            if entry.past.drops is not None:
                drops.add_metric([name], entry.past.drops)
            samples.add_metric([name], entry.samples)
            unknowns.add_metric([name], entry.unknowns)
            if entry.target.protocol is not Protocol.QUEUE:
                own_queued.add_metric([name], entry.own_queued_for or 0.0)
            if entry.history:
                age = board.clock() - entry.history[-1].at
                observed.add_metric([name], board.wall() - age)
        yield from (drops, samples, unknowns, own_queued, observed)
        yield CounterMetricFamily(
            "acceptprobe_namespace_accepts",
            "Connections accepted in the namespace, not by the sidecar, since the first sample.",
            self._metrics.accepts,
        )

    def _sidecar(self) -> Iterator[Metric]:
        held = self._board.held
        build = {
            "version": self._about.version,
            "view": self._about.view,
            "python": python_version(),
        }
        usage = self._metrics.usage
        yield InfoMetricFamily("acceptprobe_build", "The sidecar, and how it sees.", build)
        yield GaugeMetricFamily(
            "acceptprobe_process_start_time_seconds", "When the sidecar started.", self._began
        )
        yield GaugeMetricFamily(
            "acceptprobe_hold_remaining_seconds",
            "For how long `probe hold` still keeps every target live; 0 when it does not.",
            0.0 if held is None else held.until - self._board.clock(),
        )
        yield CounterMetricFamily(
            "acceptprobe_process_cpu_seconds", "CPU time the sidecar has used.", usage.cpu
        )
        yield GaugeMetricFamily(
            "acceptprobe_process_resident_memory_bytes",
            "Memory the sidecar holds, as last measured.",
            usage.resident,
        )


def _gauge(name: str, about: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"acceptprobe_{name}", about, labels=["target", *labels])


def _counter(name: str, about: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"acceptprobe_{name}", about, labels=["target"])
