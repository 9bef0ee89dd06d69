"""What a capture costs the application, the sidecar and the node: JVMs of 20 and 2,000 threads."""

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from socket import create_connection

from bench.measure import rss_of, table
from probe.evidence.keeper import EvidenceKeeper, Saved
from probe.kernel import open_view
from probe.model import (
    Condition,
    EvidenceOptions,
    Observation,
    Reason,
    Sample,
    Target,
    Transition,
    Verdict,
)
from tests.evidence.programs import Program, program

PORT, HEALTH = 8080, 8081
JAVA = Path(__file__).parent.parent / "tests/java/Incident.java"
ROUNDS = 3


def main() -> None:
    """Print, of some captures, the slowest and the largest."""
    rows: list[Sequence[str]] = [
        (
            *("threads", "capture", "CPU time", "child's RSS", "report", "application held up"),
            *("loop late", "sidecar's RSS before", "peak", "after"),
        )
    ]
    with tempfile.TemporaryDirectory() as classes:
        subprocess.run(("javac", "-d", classes, str(JAVA)), check=True)
        rows += [(f"{threads:,}", *measured(classes, threads)) for threads in (20, 2000)]
    table(rows)


def measured(classes: str, threads: int) -> Sequence[str]:
    options = ("-Xss256k", "-Xmx64m", "-cp", classes, "Incident")
    arguments = (str(PORT), str(HEALTH), "5", str(threads))
    with (
        program("java", *options, *arguments) as application,
        program(sys.executable, "-m", "bench.evidence", ready="learnt") as sidecar,
        ExitStack() as clients,
    ):
        application.tell("die")
        for _ in range(5):
            clients.enter_context(create_connection(("127.0.0.1", PORT)))
        rounds = [one_round(application, sidecar) for _ in range(ROUNDS)]
    worst = {name: max(one[name] for one in rounds) for name in rounds[0]}
    return (
        f"{worst['seconds']:.2f} s",
        f"{worst['cpu']:.2f} s",
        f"{worst['child']:.0f} MiB",
        f"{worst['report'] / 1000:.0f} kB",
        f"{worst['held']:.0f} ms",
        f"{worst['late'] * 1000:.0f} ms",
        *(f"{worst[when]:.1f} MiB" for when in ("before", "peak", "after")),
    )


def one_round(application: Program, sidecar: Program) -> dict[str, float]:
    application.tell("held")
    figures: dict[str, float] = json.loads(sidecar.tell("capture"))
    return {**figures, "held": int(application.tell("held")) / 1000}


async def serve() -> None:
    """The sidecar's part, in a process of its own: learns, then captures at every line of stdin."""
    saved: asyncio.Queue[Saved] = asyncio.Queue()
    target = Target(PORT)
    with tempfile.TemporaryDirectory() as directory, closing(open_view()) as view:
        keeper = EvidenceKeeper(
            [target],
            EvidenceOptions(dir=directory, jvm_attach=True, cooldown=0),
            history=lambda name: (),
            announce=saved.put_nowait,
        )
        running = asyncio.create_task(keeper.run())
        healthy = Verdict(target.name, Condition.HEALTHY, None, started=True)
        keeper.on_transition(Transition(target.name, 0.0, healthy, healthy))
        keeper.on_observation(target.name, Observation(0.0, Sample(view.listeners(PORT))))
        while not keeper.known(target.name):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.05)
        print("learnt", flush=True)
        loop = asyncio.get_running_loop()
        for incident in range(1, ROUNDS + 1):
            await loop.run_in_executor(None, sys.stdin.readline)
            unhealthy = Verdict(
                target.name,
                Condition.UNHEALTHY,
                Reason.ACCEPT_QUEUE_STALLED,
                incident=float(incident),
            )
            keeper.on_transition(Transition(target.name, 0.0, healthy, unhealthy))
            print(json.dumps(await watched(saved)), flush=True)
        running.cancel()


async def watched(saved: "asyncio.Queue[Saved]") -> dict[str, float]:
    """What the loop, the memory and the CPU go through until the evidence is saved."""
    own = os.getpid()
    before, begun = rss_of(own), time.monotonic()
    cpu = cpu_of_children()
    waiting = asyncio.create_task(saved.get())
    late, peak = 0.0, before
    while not waiting.done():
        due = time.monotonic() + 0.005
        await asyncio.sleep(0.005)
        late, peak = max(late, time.monotonic() - due), max(peak, rss_of(own))
    seconds = time.monotonic() - begun
    folder = Path((await waiting).where)
    return {
        "seconds": seconds,
        "cpu": cpu_of_children() - cpu,
        "child": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
        "report": (folder / "report.json").stat().st_size,
        "late": late,
        "before": before,
        "peak": peak,
        "after": rss_of(own),
    }


def cpu_of_children() -> float:
    """CPU seconds of the children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    asyncio.run(serve())
