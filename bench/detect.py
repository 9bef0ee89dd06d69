"""How soon a fault is found and its end noticed, with default settings and no traffic."""

import time

from bench.measure import median, table
from tests.faults.harness import App, Sidecar, application, watched

ROUNDS = 8
FAULTS = (
    ("dead accept loop", "accept off", "accept on", "accept_queue_stalled", 5.0),
    ("handler never answers", "answer hang", "answer ok", "round_trip_failed", 7.0),
)


def main() -> None:
    """Print median and worst of `ROUNDS` faults of each kind, in seconds from the command."""
    rows = [("fault", "found: median", "worst", "bound", "recovered: median", "worst", "bound")]
    for name, begin, end, reason, bound in FAULTS:
        found, recovered = [], []
        with application() as app, watched(app) as sidecar:
            for number in range(ROUNDS):
                time.sleep(1 + number / ROUNDS)  # another phase of the interval each time
                found.append(_until(app, sidecar, begin, reason=reason, ready=False))
                time.sleep(number / ROUNDS)
                recovered.append(_until(app, sidecar, end, condition="healthy", ready=True))
        rows.append(
            (
                *(name, f"{median(found):.1f} s", f"{max(found):.1f} s", f"{bound:.0f} s"),
                *(f"{median(recovered):.1f} s", f"{max(recovered):.1f} s", "3 s"),
            )
        )
    table(rows)


def _until(app: App, sidecar: Sidecar, command: str, **fields: object) -> float:
    begun = time.monotonic()
    app.tell(command)
    sidecar.until(20, **fields)
    return time.monotonic() - begun
