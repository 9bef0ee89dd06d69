"""The judge's sentences."""

from __future__ import annotations

from probe.judge.state import State, Watch


def seconds(duration: float) -> str:
    """Write a duration for people: `350 ms`, `1.5 s`, `12 s`."""
    if duration < 1:
        return f"{duration * 1000:.0f} ms"
    return f"{duration:.1f} s" if duration < 10 and duration % 1 >= 0.05 else f"{duration:.0f} s"


def _queue(watch: Watch) -> str:
    return f"{watch.length} of {'?' if watch.limit is None else watch.limit} queued"


def instead(state: State) -> str:
    """What is there instead of a listener, as the end of a sentence."""
    return f": {state.absence}" if state.absence else ""


def stalled(state: State, watches: list[Watch]) -> str:
    worst = max(watches, key=lambda watch: watch.stalled_for)
    return (
        f"{state.verdict.target} accept queue stalled: {_queue(worst)}, "
        f"nothing accepted for {seconds(worst.stalled_for)}{_share(state, watches)}"
    )


def saturated(state: State, watches: list[Watch], at: float) -> str:
    worst = max(watches, key=lambda watch: watch.length / max(watch.limit or 1, 1))
    lasting = "" if worst.high_since is None else f" for {seconds(at - worst.high_since)}"
    return (
        f"{state.verdict.target} accept queue saturated: {_queue(worst)}{lasting}"
        f"{_share(state, watches)}"
    )


def _share(state: State, watches: list[Watch]) -> str:
    if len(state.watches) == 1:
        return ""
    return f" ({len(watches)} of {len(state.watches)} listeners)"


def failed(state: State) -> str:
    round_trip = state.round_trip
    if round_trip is None or round_trip.stage is None:
        return f"{state.verdict.target} round trip failed: our connection is still queued"
    times = f", {state.failures} times in a row" if state.failures > 1 else ""
    return (
        f"{state.verdict.target} round trip failed: {round_trip.stage}: {round_trip.detail}{times}"
    )


def healthy(state: State) -> str:
    parts = [_queue(watch) for watch in state.watches[:1]]
    if len(state.watches) > 1:
        parts = [f"{sum(watch.length for watch in state.watches)} queued"]
        parts.append(f"{len(state.watches)} listeners")
    if state.round_trip is not None and state.round_trip.phases.total is not None:
        parts.append(f"round trip {seconds(state.round_trip.phases.total)}")
    if state.round_trip is not None and state.round_trip.detail:
        parts.append(state.round_trip.detail)
    if state.unasked:
        parts.append("never asked, so whether it answers is not known")
    return f"{state.verdict.target} healthy: {', '.join(parts)}" if parts else "healthy"
