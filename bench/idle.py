"""Ten minutes of an idle application: CPU time and memory, and that nothing happens."""

import time

from bench.measure import cpu_of_process, rss_of, table
from tests.faults.harness import application, watched

MINUTES = 10


def main() -> None:
    """Print a row a minute; fail at a transition."""
    rows = [("minute", "CPU of one core", "RSS")]
    with application() as app, watched(app) as sidecar:
        pid = sidecar.process.pid
        for minute in range(1, MINUTES + 1):
            before, begun = cpu_of_process(pid), time.monotonic()
            sidecar.throughout(60, ready=True, condition="healthy")
            busy = (cpu_of_process(pid) - before) / (time.monotonic() - begun)
            rows.append((str(minute), f"{busy:.2%}", f"{rss_of(pid):.1f} MiB"))
    table(rows)
