"""What stalls were answered with, for /metrics."""

from collections.abc import Iterator

from probe.imports.prometheus_lean import Collector, CounterMetricFamily, Metric
from probe.response.stalls import Responder, ResponseOutcome


class ResponseCollector(Collector):
    """Reads the responder whenever it is asked."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder

    def collect(self) -> Iterator[Metric]:
        """Yield how often each response was given, and how often it could not be."""
        answers = CounterMetricFamily(
            "acceptprobe_stall_responses",
            "Stalls answered, by response, and whether that could be done.",
            labels=["response", "outcome"],
        )
        for response in self._responder.responses:
            for outcome in ResponseOutcome:
                count = self._responder.counts[response.kind, outcome]
                answers.add_metric([response.kind, outcome], count)
        yield answers
