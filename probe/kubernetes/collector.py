"""What the reporter has done and what it was refused, for /metrics."""

from collections.abc import Iterator

from probe.imports.prometheus_lean import Collector, CounterMetricFamily, GaugeMetricFamily, Metric
from probe.kubernetes.quarantine import Phase
from probe.kubernetes.reporter import KubernetesReporter


class ClusterCollector(Collector):
    """Reads the reporter whenever it is asked."""

    def __init__(self, reporter: KubernetesReporter) -> None:
        self._reporter = reporter

    def collect(self) -> Iterator[Metric]:
        """Yield events written and dropped, refusals of the API server, and the quarantine."""
        activity = self._reporter.activity
        written = CounterMetricFamily(
            "acceptprobe_kube_events", "Events written, by reason.", labels=["reason"]
        )
        for reason, count in activity.written.items():
            written.add_metric([reason], count)
        yield written
        yield CounterMetricFamily(
            "acceptprobe_kube_events_dropped",
            "Events given up: too many waited, or they were refused for too long.",
            activity.dropped,
        )
        refused = CounterMetricFamily(
            "acceptprobe_kube_refusals",
            "Requests that the API server refused or did not answer, by what was tried and why.",
            labels=["request", "why"],
        )
        for (request, why), count in activity.troubles.items():
            refused.add_metric([request, why], count)
        yield refused
        phase = GaugeMetricFamily(
            "acceptprobe_quarantine", "1 for the pod's way into quarantine.", labels=["phase"]
        )
        for one in Phase:
            phase.add_metric([one], one is activity.quarantine)
        yield phase
        if activity.floor is not None:
            yield GaugeMetricFamily(
                "acceptprobe_kept_in_service",
                "Whether the pod is kept in service, overloaded as it is (1), by the floor.",
                activity.floor.keeping,
            )
            decisions = CounterMetricFamily(
                "acceptprobe_floor_decisions",
                "What came of the pod's wish to leave its Services, whenever that changed.",
                labels=["outcome"],
            )
            for outcome, count in activity.floor.outcomes.items():
                decisions.add_metric([outcome], count)
            yield decisions
