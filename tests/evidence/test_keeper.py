"""When the sidecar captures, what it keeps, and that nothing of it reaches the verdicts."""

import asyncio
import json
import logging
import os
import shutil
import stat
import threading
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from probe.evidence import keeper as module
from probe.evidence.acceptors.baseline import check
from probe.evidence.capture import parent as capture
from probe.evidence.keeper import AcceptorWatch, Cooldown, EvidenceKeeper, Saved
from probe.evidence.proc.tasks import parse_stat, read_once
from probe.evidence.records.audit import Baseline, BaselineEntry
from probe.evidence.records.report import Report, typed
from probe.evidence.store import ID
from probe.kernel import KernelView
from probe.model import (
    Condition,
    EvidenceOptions,
    Listener,
    Observation,
    Outcome,
    Reason,
    RoundTrip,
    Sample,
    Stage,
    Target,
    Transition,
    Verdict,
)
from tests.evidence.programs import queued, server
from tests.support import eventually

PORT = 8080
TARGET = Target(PORT)
LISTENER = Listener(2, "127.0.0.1", PORT, 1, 0, 16, 0, 1, 0)


def verdict(condition: Condition, incident: float | None = None, **fields: Any) -> Verdict:
    reason = None if condition is Condition.HEALTHY else Reason.ACCEPT_QUEUE_STALLED
    base = Verdict("8080", condition, reason, message="8080 accept queue stalled: 6 of 5 queued")
    return base._replace(incident=incident, started=True, **fields)


def transition(after: Verdict) -> Transition:
    return Transition("8080", time.monotonic(), verdict(Condition.HEALTHY), after)


class Sidecar:
    """A keeper at work, fed as the board feeds it."""

    def __init__(self, settings: EvidenceOptions) -> None:
        self.history: list[Observation] = []
        self.leaving = False
        self.saved: asyncio.Queue[Saved] = asyncio.Queue()
        self.keeper = EvidenceKeeper(
            [TARGET],
            settings,
            history=lambda target: self.history,
            announce=self.saved.put_nowait,
            leaving=lambda: self.leaving,
        )

    def becomes(self, condition: Condition, incident: float | None = None, **fields: Any) -> None:
        self.keeper.on_transition(transition(verdict(condition, incident, **fields)))

    def sees(self, *listeners: Listener) -> None:
        sample = Sample(listeners)
        self.keeper.on_observation("8080", Observation(time.monotonic(), sample))

    async def incident(self) -> Saved:
        return await asyncio.wait_for(self.saved.get(), 30)

    async def file(self, saved: Saved, name: str) -> str:
        return (await self.keeper.read(saved.id, name)).decode()


@asynccontextmanager
async def sidecar(settings: EvidenceOptions) -> AsyncIterator[Sidecar]:
    running = Sidecar(settings)
    task = asyncio.create_task(running.keeper.run())
    try:
        yield running
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def test_from_healthy_to_the_report(view: KernelView, tmp_path: Path) -> None:
    """Learns while healthy, captures at the suspicion; the report names the thread that went."""

    async def scenario() -> None:
        settings = EvidenceOptions(dir=str(tmp_path))
        async with sidecar(settings) as running:
            running.becomes(Condition.HEALTHY)
            running.sees(*view.listeners(PORT))
            await eventually(lambda: bool(running.keeper.known("8080")))

            application.tell("break")
            with queued(view, PORT, 3):
                now = time.monotonic()
                running.history += [
                    Observation(now - 2, Sample((LISTENER,), accepts=7)),
                    Observation(
                        now - 1,
                        Sample((LISTENER._replace(length=3),), accepts=7),
                        RoundTrip(now - 1, Outcome.FAILED, Stage.QUEUED),
                    ),
                ]
                running.becomes(Condition.SUSPECT, now - 1)
                assert running.keeper.pending("8080")
                assert running.keeper.holds(verdict(Condition.UNHEALTHY))
                saved = await running.incident()
            assert not running.keeper.pending("8080")

            assert saved.where == f"{tmp_path}/{saved.id}"
            assert saved.id.endswith("-8080-accept_queue_stalled")
            assert saved.line.startswith(
                "port 8080: the thread that accepted connections has exited"
            )
            assert saved.note == ""
            folder = tmp_path / saved.id
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            report = typed(Report, json.loads((folder / "report.json").read_text()))
            assert report.acceptors
            assert report.acceptors.differences[0].entry.name == "acceptor"
            assert [moment.length for moment in report.history] == [0, 3]
            assert [moment.accepts for moment in report.history] == [None, 0]
            assert report.history[1].round_trip == "queued"
            assert report.judgement
            assert report.judgement.condition is Condition.SUSPECT
            assert (
                "the queue was last seen empty 2.0 s before" in (folder / "report.txt").read_text()
            )
            ((incident,), _) = await running.keeper.incidents(9)
            assert incident.id == saved.id
            assert await running.file(saved, "report.txt") == (folder / "report.txt").read_text()

    with server("accept", PORT) as application:
        asyncio.run(scenario())


def test_the_loop_goes_on_meanwhile(
    view: KernelView, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loop that reaches the verdicts is not held up by a capture, nor does it grow for long."""

    async def scenario() -> tuple[float, list[int]]:
        async with sidecar(EvidenceOptions(dir=str(tmp_path))) as running:
            sizes = [resident()]
            running.becomes(Condition.SUSPECT, 1.0)
            task = asyncio.create_task(running.incident())
            worst = peak = 0.0
            while not task.done():
                before = time.monotonic()
                await asyncio.sleep(0.005)
                worst = max(worst, time.monotonic() - before - 0.005)
                peak = max(peak, resident())
            return worst, [*sizes, int(peak), resident()]

    with server("accept", PORT) as application:
        application.tell("break")
        with queued(view, PORT, 3):
            worst, sizes = asyncio.run(scenario())
    with capsys.disabled():
        print(
            f"\na capture: the loop was late by at most {worst * 1000:.1f} ms; RSS before, during"
            f" and after {', '.join(f'{size >> 10} kB' for size in sizes)}"
        )
    assert worst < 0.5
    assert max(sizes) - sizes[0] < 16 << 20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_without_a_directory_it_is_kept_in_memory() -> None:
    async with sidecar(EvidenceOptions()) as running:
        running.becomes(Condition.UNHEALTHY, 1.0)
        saved = await running.incident()
        assert saved.where == "memory"
        assert saved.line == "port 8080: nothing listens on port 8080 (the kernel lists no" + (
            " LISTEN socket for port 8080)"
        )
        assert "What is seen" not in await running.file(saved, "report.txt")
        assert "nothing listens" in await running.file(saved, "report.txt")
        with pytest.raises(KeyError):
            await running.keeper.read(saved.id, "../report.txt")


@pytest.mark.parametrize("leaves", [True, False])
async def test_of_an_application_that_has_gone_is_told_when_the_sidecar_stays(
    monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    """A native sidecar learns that its pod is deleted after the application has ended."""
    monkeypatch.setattr(module, "TOLD_WITHIN", 0.3)
    async with sidecar(EvidenceOptions()) as running:
        running.becomes(Condition.SUSPECT, 1.0, reason=Reason.NOT_LISTENING)
        await running.keeper.saved("8080")
        assert not running.keeper.pending("8080")
        assert running.saved.empty()
        running.leaving = leaves
        if not leaves:
            assert (await running.incident()).id.endswith("not_listening")
            return
        running.becomes(Condition.HEALTHY)
        running.becomes(Condition.UNHEALTHY, 2.0, live=False)
        await running.keeper.saved("8080")
        await asyncio.sleep(0.4)
        assert running.saved.empty()


async def test_a_directory_that_fails_is_told_and_survived(tmp_path: Path) -> None:
    async with sidecar(EvidenceOptions(dir=str(tmp_path / "nowhere"))) as running:
        running.becomes(Condition.UNHEALTHY, 1.0)
        saved = await running.incident()
        assert saved.where == "memory"
        assert saved.note == f"{tmp_path}/nowhere: No such file or directory"
        told = "".join((await running.file(saved, "report.txt")).split())
        assert "".join(saved.note.split()) in told
        kept, _ = await running.keeper.incidents(9)
        assert [incident.id for incident in kept] == [saved.id]


def test_a_directory_that_goes_in_the_middle(tmp_path: Path, view: KernelView) -> None:
    """Begun there, ended in memory."""
    directory = tmp_path / "evidence"
    directory.mkdir()

    async def scenario() -> None:
        async with sidecar(EvidenceOptions(dir=str(directory))) as running:
            running.becomes(Condition.UNHEALTHY, 1.0)
            await eventually(lambda: any(directory.iterdir()))
            shutil.rmtree(directory)
            saved = await running.incident()
            assert saved.where == "memory"
            assert "No such file" in saved.note

    with server("accept", PORT):
        asyncio.run(scenario())


def test_what_a_crash_left_is_cleared_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".20261122T084958Z-8080-suspect").mkdir()
    (tmp_path / "20261122T084958Z-8080-suspect").symlink_to("/etc")

    async def scenario() -> None:
        async with sidecar(EvidenceOptions(dir=str(tmp_path))):
            await eventually(lambda: len(list(tmp_path.iterdir())) == 1)
            await eventually(lambda: "is not a folder of ours" in caplog.text)

    asyncio.run(scenario())


def test_a_fault_of_the_evidence_stays_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The gate opens, the next incident is captured, and nobody outside hears of it."""
    gather = capture.gather
    faults = [ZeroDivisionError("a bug")]

    async def faulty(*arguments: Any, **options: Any) -> Any:
        if faults:
            raise faults.pop()
        return await gather(*arguments, **options)

    monkeypatch.setattr(module, "gather", faulty)

    async def scenario() -> None:
        async with sidecar(EvidenceOptions(cooldown=0)) as running:
            running.becomes(Condition.UNHEALTHY, 1.0)
            await eventually(lambda: not running.keeper.pending("8080"))
            assert "a fault of the evidence" in caplog.text
            running.becomes(Condition.UNHEALTHY, 2.0)
            assert (await running.incident()).line

    asyncio.run(scenario())


def test_the_gate_opens_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Liveness waits for the evidence, but not for ever."""

    async def stuck(*arguments: Any, **options: Any) -> Any:
        await asyncio.sleep(60)

    monkeypatch.setattr(module, "gather", stuck)

    async def scenario() -> None:
        async with sidecar(EvidenceOptions(deadline=0.3)) as running:
            running.becomes(Condition.UNHEALTHY, 1.0)
            assert running.keeper.pending("8080")
            await asyncio.sleep(0.35)
            assert not running.keeper.pending("8080")
            assert not running.keeper.pending("another")

    asyncio.run(scenario())


def test_one_capture_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    gather = capture.gather
    under_way = most = 0

    async def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await gather(*arguments, **options)
        finally:
            under_way -= 1

    monkeypatch.setattr(module, "gather", counted)
    targets = [Target(port) for port in range(9000, 9010)]
    saved: list[Saved] = []

    async def scenario() -> None:
        keeper = EvidenceKeeper(
            targets, EvidenceOptions(), history=lambda target: (), announce=saved.append
        )
        task = asyncio.create_task(keeper.run())
        for target in targets:
            after = verdict(Condition.UNHEALTHY, 1.0)._replace(target=target.name)
            keeper.on_transition(Transition(target.name, 1.0, after, after))
        waiting = [target.name for target in targets if keeper.pending(target.name)]
        await eventually(lambda: len(saved) == len(waiting))
        assert len(waiting) == module.WAITING
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert most == 1


def test_the_users_command(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    script = 'cat "$1/report.txt" | head -1; echo "$PROBE_INCIDENT_ID" "$PROBE_INCIDENT_TARGET"'

    async def scenario() -> None:
        settings = EvidenceOptions(dir=str(tmp_path), on_incident=("sh", "-c", script, "sh"))
        async with sidecar(settings) as running:
            running.becomes(Condition.UNHEALTHY, 1.0)
            saved = await running.incident()
            output = tmp_path / saved.id / "on-incident.txt"
            await eventually(lambda: "8080: --on-incident: done" in caplog.messages)
            assert output.read_text() == (
                f"Port 8080: nothing listens on port 8080\n{saved.id} 8080\n[done]\n"
            )
            assert stat.S_IMODE(output.stat().st_mode) == 0o600
            assert await running.file(saved, "on-incident.txt") == output.read_text()

    asyncio.run(scenario())


async def test_the_users_command_without_a_directory(caplog: pytest.LogCaptureFixture) -> None:
    script = 'echo "$# [$PROBE_INCIDENT_DIR] $PROBE_INCIDENT_LINE"; exit 4'
    async with sidecar(EvidenceOptions(on_incident=("sh", "-c", script, "sh"))) as running:
        running.becomes(Condition.UNHEALTHY, 1.0)
        saved = await running.incident()
        await eventually(lambda: "--on-incident: exit code 4" in caplog.text)
        kept = await running.file(saved, "on-incident.txt")
        assert kept == f"0 [] {saved.line}\n[exit code 4]\n"


def test_nobody_waits_for_the_users_command_and_four_run_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    os.mkfifo(tmp_path / "go")
    go = os.open(tmp_path / "go", os.O_RDWR)
    command = ("sh", "-c", f"read line < {tmp_path}/go")

    async def scenario() -> None:
        async with sidecar(EvidenceOptions(cooldown=0, on_incident=command)) as running:
            for incident in range(1, module.COMMANDS + 2):
                running.becomes(Condition.UNHEALTHY, float(incident))
                await running.incident()
                assert not running.keeper.pending("8080")
            await eventually(lambda: "8080: --on-incident not run, 4 still run" in caplog.messages)
            assert "8080: --on-incident: done" not in caplog.messages
            os.write(go, b"\n" * module.COMMANDS)
            await eventually(lambda: caplog.messages.count("8080: --on-incident: done") == 4)
            running.becomes(Condition.UNHEALTHY, 9.0)
            os.write(go, b"\n")
            await eventually(lambda: caplog.messages.count("8080: --on-incident: done") == 5)

    asyncio.run(scenario())
    os.close(go)


# --- when


def test_two_in_one_second_do_not_meet() -> None:
    running = Sidecar(EvidenceOptions(cooldown=0))
    names = []
    for incident in (1.0, 2.0):
        running.becomes(Condition.UNHEALTHY, incident)
        names.append(running.keeper._captures.pop().report.id)
        running.keeper._due.clear()
    assert names[1] == f"{names[0]}-2" or names[0][:16] != names[1][:16]
    assert len(set(names)) == 2
    assert all(ID.fullmatch(name) for name in names)


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        (Condition.HEALTHY, None),
        (Condition.UNKNOWN, Reason.STARTING),
        (Condition.UNHEALTHY, Reason.SHUTTING_DOWN),
    ],
)
def test_no_incident(condition: Condition, reason: Reason | None) -> None:
    running = Sidecar(EvidenceOptions())
    running.becomes(condition, 1.0, reason=reason)
    assert not running.keeper.pending("8080")
    running.becomes(Condition.SUSPECT, 1.0)
    assert running.keeper.pending("8080")


def test_once_per_incident() -> None:
    cooldown = Cooldown(300)
    assert cooldown.allows(verdict(Condition.SUSPECT, 10.0), 10.0)
    assert not cooldown.allows(verdict(Condition.UNHEALTHY, 10.0), 13.0)
    assert not cooldown.allows(verdict(Condition.SUSPECT, 10.0), 500.0)
    assert cooldown.allows(verdict(Condition.SUSPECT, 501.0), 501.0)


def test_a_false_alarm_does_not_cost_the_incident_its_evidence() -> None:
    cooldown = Cooldown(300)
    assert cooldown.allows(verdict(Condition.SUSPECT, 10.0), 10.0)
    assert not cooldown.allows(verdict(Condition.SUSPECT, 50.0), 50.0)
    assert cooldown.allows(verdict(Condition.UNHEALTHY, 50.0), 53.0)


def test_flapping_is_captured_within_the_cooldown_once() -> None:
    cooldown = Cooldown(300)
    taken = [
        (second, condition)
        for second in range(0, 600, 20)
        for condition in (Condition.SUSPECT, Condition.UNHEALTHY)
        if cooldown.allows(verdict(condition, float(second)), second)
    ]
    assert taken == [(0, Condition.SUSPECT), (300, Condition.SUSPECT)]


def test_what_is_left_out_is_said_and_made_up_for(caplog: pytest.LogCaptureFixture) -> None:
    """A pause, and within the cooldown the acceptor dies: the restart is for the second."""
    running = Sidecar(EvidenceOptions(cooldown=300))
    running.becomes(Condition.SUSPECT, 10.0)
    running.becomes(Condition.UNHEALTHY, 10.0)
    running.keeper._captures.clear()
    running.keeper._due.clear()
    running.becomes(Condition.HEALTHY)
    assert not caplog.records
    running.becomes(Condition.SUSPECT, 50.0)
    running.becomes(Condition.UNHEALTHY, 50.0)
    (left_out,) = caplog.messages
    assert left_out == (
        "8080: evidence not captured: one was 0 s ago; it will be before /live fails"
    )
    assert not running.keeper.pending("8080")
    dead = verdict(Condition.UNHEALTHY, 50.0, live=False)
    running.keeper.on_transition(transition(dead))
    assert running.keeper.holds(dead)
    (job,) = running.keeper._captures
    assert job.report.judgement
    assert not job.report.judgement.live
    running.keeper._captures.clear()
    running.keeper.on_transition(transition(dead._replace(ready=True)))
    assert not running.keeper._captures  # its evidence is under way


def test_a_capture_that_failed_is_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    async def faulty(*arguments: Any, **options: Any) -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(module, "gather", faulty)

    async def scenario() -> None:
        async with sidecar(EvidenceOptions()) as running:
            running.becomes(Condition.UNHEALTHY, 1.0)
            await eventually(lambda: not running.keeper.pending("8080"))
            running.becomes(Condition.UNHEALTHY, 1.0, live=False)
            assert running.keeper.pending("8080")

    asyncio.run(scenario())


def test_evidence_is_made_up_for_however_many_wait() -> None:
    targets = [Target(port) for port in range(9000, 9010)]
    keeper = EvidenceKeeper(targets, EvidenceOptions(), history=lambda target: ())
    for target in targets:
        after = verdict(Condition.UNHEALTHY, 1.0)._replace(target=target.name)
        keeper.on_transition(Transition(target.name, 1.0, after, after))
    assert not keeper.pending("9009")
    after = verdict(Condition.UNHEALTHY, 1.0, live=False)._replace(target="9009")
    keeper.on_transition(Transition("9009", 31.0, after, after))
    assert keeper.pending("9009")


def test_a_target_that_is_forgotten_has_nothing_pending_and_nothing_to_be_learnt() -> None:
    keeper = EvidenceKeeper([TARGET], EvidenceOptions(), history=lambda target: ())
    keeper.add(Target(9000, discovered=True))
    for name in ("8080", "9000"):
        after = verdict(Condition.HEALTHY)._replace(target=name)
        keeper.on_transition(Transition(name, 1.0, after, after))
        keeper.on_observation(name, Observation(1.0, Sample((LISTENER,))))
        after = verdict(Condition.SUSPECT, 1.0)._replace(target=name)
        keeper.on_transition(Transition(name, 1.0, after, after))
    assert [recollection.port for recollection in keeper.recollections()] == [8080, 9000]
    keeper.forget("9000")
    assert (keeper.pending("8080"), keeper.pending("9000")) == (True, False)
    assert [job.target.name for job in keeper._captures] == ["8080"]
    assert list(keeper._learn) == ["8080"]
    assert [recollection.port for recollection in keeper.recollections()] == [8080]
    assert keeper.acceptors_gone("9000") is None
    keeper.add(Target(9000, discovered=True))
    assert not keeper.pending("9000")


# --- learning


def test_it_looks_again_when_the_listener_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, then not before things have settled, then hardly ever."""
    now = 1000.0
    looks: list[float] = []
    keeper = EvidenceKeeper(
        [TARGET], EvidenceOptions(), history=lambda target: (), clock=lambda: now
    )
    keeper.on_transition(transition(verdict(Condition.HEALTHY)))

    def second(*listeners: Listener) -> None:
        nonlocal now
        now += 1
        keeper.on_observation("8080", Observation(now, Sample(listeners)))
        if keeper._learn:
            keeper._learn.clear()
            looks.append(now)

    for _ in range(70):
        second(LISTENER)
    assert looks == [1001, 1011, 1031]  # nothing was learnt so far: it asks again, less and less
    looks.clear()
    for _ in range(30):
        second(LISTENER._replace(cookie=2))
    assert looks == [1071, 1091]
    keeper.on_transition(transition(verdict(Condition.SUSPECT, 5.0)))
    looks.clear()
    for _ in range(2000):
        second(LISTENER._replace(cookie=3))
    assert looks == []  # only while all is well


def test_of_those_that_were_found_one_is_learnt_after_the_other() -> None:
    now = 1000.0
    targets = [Target(port, discovered=True) for port in (9000, 9001, 9002)]
    keeper = EvidenceKeeper(
        [TARGET, *targets], EvidenceOptions(), history=lambda target: (), clock=lambda: now
    )
    learnt = []
    for after in ("8080", "9000", "9001", "9002"):
        well = verdict(Condition.HEALTHY)._replace(target=after)
        keeper.on_transition(Transition(after, now, well, well))
    for _ in range(25):
        for name in ("9002", "9001", "9000", "8080"):
            keeper.on_observation(name, Observation(now, Sample((LISTENER,))))
        learnt += [(now - 1000.0, name) for name in keeper._learn]
        keeper._learn.clear()
        now += 1
    found = [(at, name) for at, name in learnt if name != "8080"]
    assert found == [(0, "9002"), (10, "9002"), (20, "9001")]
    assert (0, "8080") in learnt, "which was asked for, and waits for nobody"


def test_a_pool_that_is_never_the_same_is_learnt_more_and_more_seldom() -> None:
    known = AcceptorWatch()
    looks = []
    for second in range(600):
        known.restless()
        if known.due(second):
            looks.append(second)
    assert looks[:6] == [0, 10, 30, 70, 150, 230]
    for second in range(600, 5000):  # and once it is calm, soon again
        known.due(second)
    known.restless()
    assert known.due(5000)
    assert known.churn == 20


BASELINE = Baseline(PORT, 1, "127.0.0.1", 100.0, (BaselineEntry(7, 1, "a", 8, 2, "b", "accept"),))


@pytest.mark.parametrize(
    ("observation", "accepted"),
    [
        (Observation(12.0, round_trip=RoundTrip(11.5, Outcome.OK, accepted=True)), 11.5),
        (Observation(12.0, round_trip=RoundTrip(11.5, Outcome.FAILED, Stage.QUEUED)), None),
        (Observation(12.0, Sample((LISTENER,)), accepted=True), 11.0),  # since the last sample
        (Observation(12.0, Sample((LISTENER._replace(length=2),))), 11.0),  # it was 3
        (Observation(12.0, Sample((LISTENER._replace(length=3),), accepts=9)), None),
        (Observation(12.0, Sample(error="refused")), None),
    ],
)
def test_which_accepts_are_proven(observation: Observation, accepted: float | None) -> None:
    """The earliest moment that the last of them can have been; other ports' are none of ours."""
    known = AcceptorWatch()
    known.learnt((BASELINE,), ())
    waiting = LISTENER._replace(length=3)
    known.apply_observation(Observation(11.0, Sample((waiting,), accepts=7)))
    known.apply_observation(observation)
    assert known.witnesses()[0].accepted == accepted


def test_an_accept_of_a_group_is_laid_to_nobody() -> None:
    known = AcceptorWatch()
    known.learnt((BASELINE,), ())
    pair = (LISTENER, LISTENER._replace(cookie=2))
    known.apply_observation(Observation(11.0, Sample(pair)))
    trip = RoundTrip(11.5, Outcome.OK, accepted=True)
    known.apply_observation(Observation(12.0, Sample(pair), trip, accepted=True))
    assert known.witnesses()[0].accepted is None


def test_who_was_seen_alive(view: KernelView) -> None:
    """The keeper dates the last sight by itself, after each of our accepts and once a second."""

    async def scenario() -> None:
        async with sidecar(EvidenceOptions()) as running:
            running.becomes(Condition.HEALTHY)
            running.sees(*view.listeners(PORT))
            await eventually(lambda: bool(running.keeper.known("8080")))
            learnt = running.keeper.known("8080")[0].entries[0].last_alive
            assert learnt is not None

            def later() -> bool:
                (entry,) = running.keeper.known("8080")[0].entries
                return entry.waited and (entry.last_alive or 0) > learnt + 1

            await eventually(later)
            assert running.keeper.acceptors_gone("8080") is None  # nothing waits
            application.tell("break")
            with queued(view, PORT, 2):
                running.sees(*view.listeners(PORT))
                # Python's join() returns a moment before the thread has left the kernel.
                await eventually(lambda: running.keeper.acceptors_gone("8080") is True)

    with server("accept", PORT) as application:
        asyncio.run(scenario())


def test_who_accepts_for_several_targets_is_checked_once_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And what is seen of each thread is known of every target that it accepts for."""
    asked: list[list[BaselineEntry]] = []

    def counting(entries: Iterable[BaselineEntry]) -> list[bool | None]:
        asked.append(list(entries))
        return check(asked[-1])

    monkeypatch.setattr(module, "check", counting)
    pid, tid = os.getpid(), threading.get_native_id()
    born = parse_stat(read_once(f"/proc/{pid}/task/{tid}/stat")).start_time
    lives = BaselineEntry(pid, born, "", tid, born, "", "accept4", waited=False)
    gone = lives._replace(start_time=born + 1)
    targets = [AcceptorWatch() for _ in range(50)]
    for cookie, known in enumerate(targets):
        known.learnt((Baseline(8080, cookie, "", 0.0, (lives, gone), ()),), ())
    keeper = EvidenceKeeper(
        [TARGET], EvidenceOptions(), history=lambda target: (), clock=lambda: 7.0
    )
    asyncio.run(keeper._check(targets))
    assert asked == [[lives, gone]]
    for known in targets:
        assert known.baselines[0].entries == (lives._replace(last_alive=7.0), gone)
        assert known.gone == {(tid, born + 1): 7.0}
