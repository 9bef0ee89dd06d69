"""Half an hour of faults that come and go beside one sidecar, and of SIGKILL beside others.

MINUTES=30 of it, after SEED=, which is printed: what comes when is drawn from it. Every transition
must be that of a fault which was raised, every fault must have its own, in time, and nothing may
grow. At the same time, in another namespace, sidecars are killed in every phase of their work, and
started again. Exit 1 at whatever was not as it is promised.
"""

import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from bench.measure import median, rss_of, table
from bench.share import share, waited
from probe import judge
from probe.commands.replay import target as recorded_target
from probe.sidecar import recording
from tests.conftest import fresh_namespace
from tests.faults import test_killed as killing
from tests.faults.harness import App, application, sidecar
from tests.faults.test_faults import traffic
from tests.support import until

MINUTES = float(os.environ.get("MINUTES", "30"))
SEED = os.environ.get("SEED") or str(random.SystemRandom().randrange(10**6))

LIVE_AFTER = 8.0
BUSY = 2.0
"""Seconds that a machine short of CPU may add to what docs/verdict.md promises."""
PATIENCE = 60.0
"""Seconds that are waited for what comes too late."""
RECOVERED = 0.3
LONGEST_PAUSE = 2.8
"""Seconds that it may be frozen for without a verdict."""
EMPTIED = 2.3
"""Seconds more, of a small queue that was full for so long that it was saturated as well."""
WARM = 1 / 3
"""The part of the time after which nothing may grow: what is remembered is so for ten minutes."""

ALLOWED = {
    "RSS, MiB": 1.0,
    "descriptors": 1.0,
    "threads": 3.0,
    "children": 0.0,
    "tasks": 1.0,
    "objects": 1000.0,
}
"""What a figure may grow by from the first quarter to the last of the time after that. Threads of
the pool are begun as they are needed, six on two cores.
"""

STALLED, FAILED = "accept_queue_stalled", "round_trip_failed"
ABSENT, SATURATED, STARTING = "not_listening", "accept_queue_saturated", "starting"

SMALL = "backlog 16"
APPLICATIONS = {
    SMALL: ("--backlog", "16", "--reuseport"),
    "backlog 4096": ("--backlog", "4096", "--reuseport"),
    "three listeners": ("--backlog", "64", "--members", "3"),
}


class Application:
    """An application that can be ended and started again on its port."""

    def __init__(self, options: Sequence[str]) -> None:
        self.options = options
        self.app = App(*options)
        self.port = self.app.port

    def tell(self, command: str) -> None:
        if command == "stop":
            self.app.stop()
        elif command == "continue":
            self.app.resume()
        elif command == "end":
            self.app.end()
        elif command == "start":
            self.app = App("--port", str(self.port), *self.options)
        elif command:
            self.app.tell(command)

    def end(self) -> None:
        self.app.resume()
        self.app.end()


class Fault(NamedTuple):
    """`reason` and `stage` are what it has to be found by, within `found` seconds; "": not at all.

    `also`: what may be said of it beside. `recovered`: seconds from its end, where that takes more
    than one good round trip. `flood`: clients that it takes.
    """

    name: str
    begin: str
    end: str
    reason: str = ""
    stage: str | None = None
    found: float = 0.0
    also: tuple[str, ...] = ()
    recovered: float = RECOVERED
    flood: bool = False


SLOW_TO_FIND = 5.25
BESIDE = (FAILED, SATURATED)
FAULTS = (
    Fault("accepts no more", "accept off", "accept on", STALLED, None, SLOW_TO_FIND, BESIDE),
    Fault("stopped", "stop", "continue", STALLED, None, SLOW_TO_FIND, BESIDE),
    Fault("no descriptors", "emfile", "release", STALLED, None, SLOW_TO_FIND, BESIDE),
    Fault("never answers", "answer hang", "answer ok", FAILED, "unanswered", SLOW_TO_FIND),
    Fault("half an answer", "answer half", "answer ok", FAILED, "unanswered", SLOW_TO_FIND),
    Fault("resets", "answer rst", "answer ok", FAILED, "reset", 2.5),
    Fault("status 503", "answer ok 503", "answer ok", FAILED, "status", 2.5),
    Fault("closes its listener", "close", "listen", ABSENT, None, 1.25, (FAILED, STARTING), 1.3),
    Fault("is ended", "end", "start", ABSENT, None, 1.25, (FAILED, STARTING), 1.3),
    Fault("accepts too slowly", "pace 0.1", "pace 0", SATURATED, None, 7.25, (FAILED,), 2.6, True),
    Fault("is frozen for a moment", "stop", "continue", also=(STALLED, FAILED)),
    Fault("hands its port over", "replace", "", also=(FAILED,)),
)


class Moment(NamedTuple):
    at: float
    waited: float
    """Seconds that the sidecar has waited for a core by then."""


class Outcome(NamedTuple):
    fault: Fault
    found: float | None
    recovered: float
    given_up: float | None
    """After how many seconds it was not live any more."""


class Soak:
    """The faults beside one sidecar that lives through all of them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.random = random.Random(SEED)
        self.folder = folder
        self.surprises: list[str] = []
        self.outcomes: list[Outcome] = []
        self.figures: list[tuple[float, dict[str, float]]] = []
        self.evidence = 0
        self.suspicions: list[str] = []
        """Of what was no fault, and came to nothing: the target stayed ready."""
        self.transitions: Counter[str] = Counter()
        self.applications = {}
        for name, options in APPLICATIONS.items():
            started = self.applications[name] = Application(options)
            stack.callback(started.end)
            stack.enter_context(traffic(started.port, rate=10, clients=20))
        self.counts = folder / "counts"
        ports = (f"--port={started.port}" for started in self.applications.values())
        files = ("--record", str(folder / "recording"), "--evidence-dir", str(folder / "evidence"))
        often = ("--live-after", f"{LIVE_AFTER}s", "--evidence-cooldown", "0s")
        own = stack.enter_context(share(1))
        counted = (*own, sys.executable, "-m", "bench.counted", str(self.counts))
        self.probe = stack.enter_context(sidecar(*ports, *files, *often, wrapper=counted))
        self.healthy: dict[str, bool] = {}
        self.about, self.allowed, self.may_be_given_up = "", frozenset[str](), False
        self.began = time.monotonic()
        if not self.hear(
            30, lambda event: len(self.healthy) == len(APPLICATIONS) and all(self.healthy.values())
        ):
            raise SystemExit("the applications were not found healthy")
        self.began = time.monotonic()

    def surprise(self, what: str) -> None:
        line = f"{time.monotonic() - self.began:.1f} s: {what}"
        self.surprises.append(line)
        print(line, file=sys.stderr, flush=True)

    # --- what is said

    def hear(self, seconds: float, matches: Callable[[dict[str, Any]], bool]) -> bool:
        """Whether there was such a transition; all others are held to what is allowed."""
        deadline = time.monotonic() + seconds
        while (event := self.probe.next(max(deadline - time.monotonic(), 0))) is not None:
            if event.get("event") == "evidence":
                self.evidence += 1
            elif event.get("event") == "transition":
                self.hold_to_account(event)
                if matches(event):
                    return True
            elif event["level"] not in {"info", "debug"}:
                self.surprise(f"{event['level']}: {event['message']} {event.get('exception', '')}")
        if self.probe.process.poll() is not None:
            raise SystemExit(f"the sidecar ended with {self.probe.process.poll()}")
        return False

    def hold_to_account(self, event: dict[str, Any]) -> None:
        self.transitions[event["target"]] += 1
        good = event["condition"] == "healthy" and event["ready"] and event["live"]
        self.healthy[event["target"]] = good
        if not self.figures and not self.outcomes and event["condition"] in {"unknown", "healthy"}:
            return
        ours = event["target"] == self.about
        known = not event["reason"] or event["reason"] in self.allowed
        said = f"{event['target']} {event['condition']}: {event['message']}"
        if (not ours or not known) and event["ready"]:
            self.suspicions.append(f"{time.monotonic() - self.began:.1f} s: {said}")
        elif not ours or not known or not (event["live"] or self.may_be_given_up):
            self.surprise(f"unexpected: {said}")

    def now(self) -> Moment:
        return Moment(time.monotonic(), waited(self.probe.process.pid))

    def hold_to(self, promised: float, began: Moment, what: str) -> float:
        """Seconds since it began; a surprise if they are more than promised, and waited for CPU."""
        took, waited_for = (after - before for after, before in zip(self.now(), began, strict=True))
        if took > promised + BUSY + waited_for:
            self.surprise(
                f"{what} after {took:.1f} s, not {promised:g} s; {waited_for:.1f} s without a core"
            )
        return took

    # --- what happens

    def run(self) -> None:
        """Faults one after the other, each kind as often as any other, until the time is over."""
        faults: list[Fault] = []
        while time.monotonic() < self.began + 60 * MINUTES:
            if not faults:
                faults = self.random.sample(FAULTS, len(FAULTS))
            fault = faults.pop()
            self.raise_fault(fault, SMALL if fault.flood else self.random.choice([*APPLICATIONS]))
            self.rest()

    def raise_fault(self, fault: Fault, name: str) -> None:
        app = self.applications[name]
        self.about = str(app.port)
        self.allowed = frozenset((fault.reason, *fault.also)) - {""}
        what = f"{name}, {fault.name}:"
        lasting = fault.reason == STALLED and self.random.random() < 0.5
        flood = traffic(app.port, rate=100) if fault.flood else nullcontext()
        found: float | None = None
        given_up: float | None = None
        with flood:
            begun = self.now()
            app.tell(fault.begin)
            if fault.reason:
                if not self.hear(fault.found + PATIENCE, lambda event: tells_of(fault, event)):
                    self.surprise(f"{what} not found")
                found = self.hold_to(fault.found, begun, f"{what} found")
                if self.status("/ready") != 503:
                    self.surprise(f"{what} /ready is not 503")
            if lasting:
                self.may_be_given_up = True
                if not self.hear(LIVE_AFTER + PATIENCE, lambda event: not event["live"]):
                    self.surprise(f"{what} still live")
                given_up = time.monotonic() - begun.at
            else:
                left = LIVE_AFTER - 1 - (found or 0) if fault.reason == STALLED else LONGEST_PAUSE
                longest = max(min(left, LONGEST_PAUSE), 0.2)
                self.hear(self.random.uniform(0.2, longest), lambda event: False)
            ended = self.now()
            app.tell(fault.end)
        if not fault.reason:
            self.hear(1.5, lambda event: False)
        recovered = 0.0
        if not self.healthy[self.about]:
            self.hear(fault.recovered + PATIENCE, lambda event: self.healthy[self.about])
            promised = fault.recovered
            if fault.reason == STALLED and name == SMALL:
                promised += EMPTIED
            recovered = self.hold_to(promised, ended, f"{what} healthy again")
        self.outcomes.append(Outcome(fault, found, recovered, given_up))
        self.may_be_given_up = False

    def rest(self) -> None:
        """Nothing is said while nothing happens; and see what the sidecar holds."""
        self.about, self.allowed = "", frozenset()
        self.hear(self.random.uniform(2, 6), lambda event: False)
        for path in ("/ready", "/live", "/started"):
            if self.status(path) != 200:
                self.surprise(f"{path} is not 200 at rest")
        pid = self.probe.process.pid
        until(lambda: not killing.children(pid), "the end of its children")
        self.counts.unlink(missing_ok=True)
        os.kill(pid, signal.SIGUSR1)
        until(self.counts.exists, "the counts")
        self.figures.append(
            (
                time.monotonic() - self.began,
                {
                    "RSS, MiB": rss_of(pid),
                    "descriptors": len([*Path(f"/proc/{pid}/fd").iterdir()]),
                    "threads": len([*Path(f"/proc/{pid}/task").iterdir()]),
                    "children": len(killing.children(pid)),
                    **json.loads(self.counts.read_text()),
                },
            )
        )

    def status(self, path: str) -> int:
        return self.probe.get(path)[0]

    # --- what came of it

    def replay(self) -> Counter[str]:
        """By target, the transitions that come of the recording."""
        header, observations = recording.read(self.folder / "recording")
        states = {name: judge.initial(recorded_target(name)) for name in header.targets}
        found: Counter[str] = Counter()
        for name, observation in observations:
            states[name], transition = judge.step(states[name], observation, header.policy)
            found[name] += transition is not None
        return found


def tells_of(fault: Fault, event: dict[str, Any]) -> bool:
    """Whether it is not ready for this reason. A stall may be told by our own connection before it
    is proven: while clients keep coming, and other ports accept, the proof may take longer.
    """
    told = (event["reason"], event["stage"])
    waits = fault.reason == STALLED and told == (FAILED, "queued")
    return not event["ready"] and (waits or told == (fault.reason, fault.stage))


# --- SIGKILL

ANY_MOMENT = "at any moment"
PATIENT = ("--live-after", f"{LIVE_AFTER}s", "--evidence-cooldown", "0s")


def kill(folder: Path, end: float, took: dict[str, list[float]], surprises: list[str]) -> None:
    """Kill sidecars in one phase after the other, in a namespace of their own."""
    drawn = random.Random(f"{SEED} kill")

    def any_moment(*_: object) -> bool:
        time.sleep(drawn.uniform(0, 6))
        return True

    killing.SIGHTS[ANY_MOMENT] = any_moment
    phases: list[str] = []
    with fresh_namespace():
        while time.monotonic() < end:
            if not phases:
                phases = [*killing.CALLS, *killing.SIGHTS, ANY_MOMENT, ANY_MOMENT]
                drawn.shuffle(phases)
            phase = phases.pop()
            with (
                tempfile.TemporaryDirectory(dir=folder) as scratch,
                application("--backlog", "16") as app,
            ):
                try:
                    seconds = killing.killed_and_restarted(app, phase, Path(scratch), *PATIENT)
                    took[phase].append(seconds)
                except BaseException as error:  # noqa: BLE001 - pytest's own are no Exception
                    surprises.append(f"killed {phase}: {str(error)[:2000]}")
                    print(surprises[-1], file=sys.stderr, flush=True)


def main() -> None:
    """Print tables of faults, figures and kills; exit 1 at a surprise."""
    print(f"SEED={SEED} MINUTES={MINUTES:g}", flush=True)
    took: dict[str, list[float]] = defaultdict(list)
    surprises: list[str] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        soak = Soak(folder, stack)
        end = soak.began + 60 * MINUTES
        killer = threading.Thread(target=kill, args=(folder, end, took, surprises))
        killer.start()
        try:
            soak.run()
        finally:
            killer.join()
        soak.hear(0, lambda event: False)
        killing.require_whole(folder)
        if soak.replay() != soak.transitions:
            soak.surprise(f"it said {soak.transitions}, and recorded {soak.replay()}")
        kept = len([*(folder / "evidence").glob("2*")])
    print(
        f"\n{len(soak.outcomes)} faults, {soak.transitions.total()} transitions, {soak.evidence} "
        f"captures of evidence, of which {kept} are kept:\n"
    )
    table_of_faults(soak.outcomes)
    print(f"\nWhat the sidecar holds at rest, from {60 * MINUTES * WARM:.0f} s on:\n")
    surprises += soak.surprises + table_of_figures(soak.figures)
    print("\nKilled, and started again beside an application that accepts nothing:\n")
    table_of_kills(took)
    print(f"\n{len(soak.suspicions)} suspicions of what was no fault, which came to nothing.")
    for suspicion in soak.suspicions:
        print(f"- {suspicion}")
    print(f"\n{len(surprises)} surprises.")
    for surprise in surprises:
        print(f"- {surprise}")
    raise SystemExit(bool(surprises))


def table_of_faults(outcomes: Sequence[Outcome]) -> None:
    head = ("fault", "times", "found after: median", "worst", "promised")
    rows: list[Sequence[str]] = [(*head, "healthy after: median", "worst", "promised", "not live")]
    for fault in FAULTS:
        raised = [outcome for outcome in outcomes if outcome.fault == fault]
        found = [outcome.found for outcome in raised if outcome.found is not None]
        again = [outcome.recovered for outcome in raised]
        cells: tuple[str, ...] = ("no verdict", *(5 * ("",)))
        if found:
            cells = (
                *typical(found),
                f"{fault.found:g} s",
                *typical(again),
                f"{fault.recovered:g} s",
            )
        given_up = [outcome.given_up for outcome in raised if outcome.given_up is not None]
        last = f"{len(given_up)}, after {max(given_up):.1f} s at most" if given_up else ""
        rows.append((fault.name, f"{len(raised)}", *cells, last))
    table(rows)


def table_of_figures(figures: Sequence[tuple[float, dict[str, float]]]) -> list[str]:
    """Print the mean of each quarter of the time that is looked at; return what has grown."""
    warm = [seen for at, seen in figures if at >= 60 * MINUTES * WARM] or [
        seen for _, seen in figures
    ]
    quarters = [warm[len(warm) * part // 4 : len(warm) * (part + 1) // 4] for part in range(4)]
    head = ("", *(f"quarter {number}" for number in range(1, 5)), "most", "growth", "allowed")
    rows: list[Sequence[str]] = [head]
    grown = []
    for name, allowed in ALLOWED.items():
        means = [fmean([seen[name] for seen in quarter or warm]) for quarter in quarters]
        growth = means[-1] - means[0]
        cells = (*(f"{mean:.5g}" for mean in means), f"{max(seen[name] for seen in warm):.5g}")
        rows.append((name, *cells, f"{growth:+.2f}", f"{allowed:g}"))
        if growth > allowed:
            grown.append(f"{name}: {growth:.2f} more in the last quarter than in the first")
    table(rows)
    return grown


def table_of_kills(took: dict[str, list[float]]) -> None:
    rows: list[Sequence[str]] = [("killed", "times", "found after: median", "worst", "promised")]
    for phase, seconds in sorted(took.items()):
        rows.append((phase, f"{len(seconds)}", *typical(seconds), f"{SLOW_TO_FIND} s"))
    table(rows)


def typical(seconds: Sequence[float]) -> tuple[str, str]:
    return f"{median(seconds):.1f} s", f"{max(seconds):.1f} s"


if __name__ == "__main__":
    main()
