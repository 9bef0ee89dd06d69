"""The sidecar's part of the evidence: when to capture, what to keep, what to tell. asyncio.

Fed by the board's transitions and observations; captures run one at a time in a child process.
Nothing that goes wrong here reaches the monitor or changes a verdict: it is logged and told in
`Saved.note`.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple, NoReturn

from probe.evidence import on_incident
from probe.evidence.acceptors.baseline import WATCHED, check, exit_proven, newcomers
from probe.evidence.acceptors.owners import Owners
from probe.evidence.capture.parent import LEARN, Gathered, assemble, gather
from probe.evidence.incident import files
from probe.evidence.proc.files import reason
from probe.evidence.proc.tasks import pid_namespace
from probe.evidence.records.audit import Baseline, BaselineEntry
from probe.evidence.records.report import (
    CaptureRequest,
    Judgement,
    Missing,
    Recollection,
    Report,
    TimelineEntry,
    typed,
)
from probe.evidence.report.claims import Conclusion
from probe.evidence.report.patterns import conclude
from probe.evidence.report.text import summary
from probe.evidence.store import (
    FILE_LIMIT,
    FolderStore,
    Incident,
    Kept,
    MemoryStore,
    Store,
    by_time,
)
from probe.model import (
    Condition,
    EvidenceOptions,
    Listener,
    Observation,
    Reason,
    Target,
    Transition,
    Verdict,
)

logger = logging.getLogger(__name__)

SAVING = 1.0
"""Seconds of the deadline that are left for writing."""

TOLD_WITHIN = 5.0
"""Seconds after the end of an application in which a sidecar gets SIGTERM if its pod is deleted."""

WAITING = 4
"""Captures that may wait while another runs."""

COMMANDS = 4
"""Commands of the user that may run at once."""

RENEW = 600.0
"""Seconds after which the acceptors are learnt anew while all is well: threads come and go."""

SETTLE = 10.0
"""Seconds from one learning of the acceptors to the next, however often listeners change."""

RESTLESS = 80.0
"""The same at most for a pool that is never the same for long: learning costs 150 ms of CPU."""

CHECK = 1.0
"""Seconds from one check of the acceptors to the next, and one follows each accept of ours."""

ROLL_CALL = 10.0
"""Seconds after which it is seen whether somebody new holds a listener: 20 us a process."""


class Saved(NamedTuple):
    """An incident whose evidence was saved: what the log, an Event and the metrics tell of it.

    `line` is one bounded line with the finding; `where` the folder, or "memory"; `note` says why
    it is not where it should be, or what of it was lost.
    """

    target: str
    id: str
    where: str
    line: str
    seconds: float
    note: str = ""
    files: tuple[str, ...] = ()


Deliver = Callable[[str, str, tuple[str, ...], float], Awaitable[None]]
"""Sends an incident away: of a target, by its id and the names of its files, within seconds."""


class Job(NamedTuple):
    """A capture that is due. `due` is when liveness stops waiting for it."""

    target: Target
    report: Report
    due: float
    reason: Reason | None


class AcceptorWatch:
    """What is known of one target's acceptors from healthy time, and when to learn them anew.

    Between two learnings, each check says who of them is alive, and each proven accept strikes out
    those that had been seen to be gone before: somebody else has accepted since, and all that may
    be said of a stall is said of those who remain. Whom an accept finds among the living may die
    of it, so the check after each accept is what dates their last sight.
    """

    def __init__(self) -> None:
        self.healthy = False
        self.reason: Reason | None = None
        self.listeners: tuple[Listener, ...] = ()
        """Those that were there last."""
        self.cookies: frozenset[int] = frozenset()
        self.sampled = float("-inf")
        self.accepted: dict[int, float] = {}
        """By the listener's cookie, since when at the earliest the last proven accept was."""
        self.checked_at = float("-inf")
        self.gone: dict[tuple[int, int], float] = {}
        """By thread id and start time, when a check had found it gone."""
        self.stalled: float | None = None
        """Since when it is proven, without a break, that nothing is accepted."""
        self.churn = SETTLE
        """Seconds from one learning to the next because somebody came or went."""
        self.stirred = False
        """Somebody did, since the last learning."""
        self.looked = float("-inf")
        self.pause = 0.0
        """Seconds from the last look to the next; grows while nothing is found."""
        self.baselines: tuple[Baseline, ...] = ()
        self.counters: tuple[tuple[str, int], ...] = ()
        self.missing: tuple[Missing, ...] = ()
        """What the last look could not have: told when it changes, not every time."""

    def learnt(
        self, baselines: tuple[Baseline, ...], counters: tuple[tuple[str, int], ...]
    ) -> None:
        """Take what was learnt."""
        self.baselines = baselines
        self.counters = counters
        there = {(entry.tid, entry.start_time) for one in baselines for entry in one.entries}
        self.gone = {thread: at for thread, at in self.gone.items() if thread in there}
        self.strike_out()
        if self.cookies <= {baseline.cookie for baseline in self.baselines}:
            self.pause = RENEW

    def due(self, now: float) -> bool:
        """Whether to learn now; True is taken as done."""
        waited = now - self.looked
        if waited < self.pause:
            return False
        self.looked = now
        self.pause = min(max(self.pause * 2, SETTLE), RENEW)
        if self.stirred:
            self.churn = min(self.churn * 2, RESTLESS) if waited < 2 * self.churn else 2 * SETTLE
        self.stirred = False
        return True

    def apply_observation(self, observation: Observation) -> bool:
        """Take note of the accepts that it proves; whether a connection of ours was accepted.

        One of ours is laid to a listener only where there is no other, and a queue that became
        shorter to its own. What the whole namespace accepted is not counted: it may be a health
        port with a thread of its own.
        """
        sample, trip = observation.sample, observation.round_trip
        alone = self.listeners[0].cookie if len(self.listeners) == 1 else None
        proven: dict[int, float] = {}
        ours = observation.accepted or (trip is not None and trip.accepted)
        if ours and alone is not None:
            proven[alone] = trip.at if trip is not None and trip.accepted else self.sampled
        if sample is not None and not sample.error:
            before = {one.cookie: one.length for one in self.listeners}
            for listener in sample.listeners:
                if listener.length < before.get(listener.cookie, 0):
                    proven[listener.cookie] = self.sampled
            self.listeners, self.sampled = sample.listeners, observation.at
        for cookie, at in proven.items():
            self.accepted[cookie] = max(at, self.accepted.get(cookie, at))
        if proven:
            self.strike_out()
        return ours

    def strike_out(self) -> None:
        """Forget whom a check had found gone before an accept, and ask to learn the others."""
        baselines = []
        for baseline in self.baselines:
            accepted = self.accepted.get(baseline.cookie, float("-inf"))
            entries = tuple(
                entry
                for entry in baseline.entries
                if self.gone.get((entry.tid, entry.start_time), accepted) >= accepted
            )
            if entries != baseline.entries:
                self.restless()
            if entries:
                baselines.append(baseline._replace(entries=entries))
        self.baselines = tuple(baselines)

    def restless(self) -> None:
        """Somebody came or went: learn anew, soon, but the more seldom the more often it is so."""
        self.stirred = True
        self.pause = min(self.pause, self.churn)

    def watched(self) -> list[BaselineEntry]:
        """Whom a check sees after."""
        return [entry for one in self.baselines for entry in one.entries][:WATCHED]

    def checked(self, seen: dict[tuple[int, int], bool | None], began: float, ended: float) -> None:
        """Take what a check saw of each thread, by its id and start time: see baseline.check."""
        for thread, waits in seen.items():
            if waits is None:
                self.gone.setdefault(thread, ended)
        self.baselines = tuple(
            baseline._replace(
                entries=tuple(
                    entry
                    if (waits := seen.get((entry.tid, entry.start_time))) is None
                    else entry._replace(last_alive=began, waited=waits)
                    for entry in baseline.entries
                )
            )
            for baseline in self.baselines
        )

    def witnesses(self) -> tuple[Baseline, ...]:
        """What is known, with the last accept that is proven."""
        return tuple(one._replace(accepted=self.accepted.get(one.cookie)) for one in self.baselines)


class Cooldown:
    """Once per incident, and not too often; but once for each that a target is not live of.

    A suspicion that came to nothing must not cost the incident after it its evidence, so the two
    have a cooldown each: two captures of a target within one cooldown at the most. An incident
    that neither allows is captured when its target is no longer live, before the restart.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._incident: float | None = None
        self._taken = 0.0
        self._last: dict[Condition, float] = {}

    def allows(self, verdict: Verdict, now: float) -> bool:
        """Whether to capture at this verdict; True is taken as done."""
        if verdict.incident == self._incident:
            # What was captured at its suspicion is the evidence of the whole incident.
            self._last[verdict.condition] = self._taken
            return False
        if verdict.live and self.since(verdict, now) < self._seconds:
            return False
        self._incident = verdict.incident
        self._last[verdict.condition] = self._taken = now
        return True

    def covers(self, verdict: Verdict) -> bool:
        """Whether the evidence of this verdict's incident is taken."""
        return verdict.incident == self._incident

    def since(self, verdict: Verdict, now: float) -> float:
        """Seconds since the capture that this verdict has to keep its distance from."""
        return now - self._last.get(verdict.condition, float("-inf"))

    def failed(self) -> None:
        """The last capture came to nothing: its incident has no evidence yet."""
        self._incident = None


class EvidenceKeeper:
    """Captures at the transition to suspect or unhealthy, keeps it, and learns while healthy.

    Wire `on_transition` to the board's subscribers, `on_observation` to its observers and `holds`
    to its liveness gate, and run `run()` in the composition root. `history` gives the recent
    observations of a target, oldest first; `announce` is told of every incident saved, unless the
    application is `leaving` by then.
    """

    def __init__(
        self,
        targets: Iterable[Target],
        options: EvidenceOptions,
        *,
        history: Callable[[str], Iterable[Observation]],
        announce: Callable[[Saved], None] = lambda saved: None,
        leaving: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._options = options
        self._targets: dict[str, Target] = {}
        self._history = history
        self._announce = announce
        self._leaving = leaving
        self._clock = clock
        self._wall = wall
        self._memory = MemoryStore()
        self._store: Store = self._memory
        if options.dir:
            self._store = FolderStore(options.dir, count=options.max_count, size=options.max_size)
        self._acceptors: dict[str, AcceptorWatch] = {}
        self._cooldowns: dict[str, Cooldown] = {}
        self._captures: deque[Job] = deque()
        self._due: dict[str, float] = {}
        self._learn: dict[str, None] = {}
        self._found_next = float("-inf")
        """When the next discovered target may be learnt: of them there may be many at once."""
        self._left_out: dict[str, float | None] = {}
        """By target, the incident that was last told to be left out."""
        self._work = asyncio.Event()
        self._captured = asyncio.Event()
        self._accepted = asyncio.Event()
        self._accepted_by: set[str] = set()
        self._owners = Owners()
        self._roll_called_at = float("-inf")
        self._commands = 0
        self._names: Counter[str] = Counter()
        self._deliver: Deliver | None = None
        for target in targets:
            self.add(target)

    def deliver_by(self, deliver: Deliver) -> None:
        """Have every incident sent away once it is saved; liveness waits for that, too."""
        self._deliver = deliver

    # --- what the board calls

    def add(self, target: Target) -> None:
        """Keep the evidence of this target too, from now on."""
        self._targets[target.name] = target
        self._acceptors[target.name] = AcceptorWatch()
        self._cooldowns[target.name] = Cooldown(self._options.cooldown)

    def forget(self, name: str) -> None:
        """There is no such target any more. What was saved of it stays."""
        for kept in (self._targets, self._acceptors, self._cooldowns, self._due, self._left_out):
            kept.pop(name, None)
        self._learn.pop(name, None)
        self._accepted_by.discard(name)
        self._captures = deque(job for job in self._captures if job.target.name != name)

    def on_transition(self, transition: Transition) -> None:
        """Take note of a verdict, and have the evidence captured where one is due."""
        verdict = transition.after
        name = transition.target
        known = self._acceptors[name]
        known.healthy = verdict.condition is Condition.HEALTHY
        known.reason = verdict.reason
        if verdict.reason is not Reason.ACCEPT_QUEUE_STALLED:
            known.stalled = None
        elif known.stalled is None:
            known.stalled = transition.at
        if verdict.condition not in (Condition.SUSPECT, Condition.UNHEALTHY):
            return
        if verdict.reason is Reason.SHUTTING_DOWN:
            return
        cooldown, now = self._cooldowns[name], self._clock()
        if verdict.live and len(self._captures) >= WAITING and not cooldown.covers(verdict):
            self._leave_out(verdict, f"{WAITING} captures wait")
        elif cooldown.allows(verdict, now):
            job = self._job(self._targets[name], verdict)
            self._captures.append(job)
            self._due[name] = job.due
            self._work.set()
        elif not cooldown.covers(verdict):
            self._leave_out(verdict, f"one was {cooldown.since(verdict, now):.0f} s ago")

    def _leave_out(self, verdict: Verdict, why: str) -> None:
        """Say once for each incident that it has no evidence for now."""
        if self._left_out.get(verdict.target) != verdict.incident:
            self._left_out[verdict.target] = verdict.incident
            discovered = self._targets[verdict.target].discovered
            later = "" if discovered else "; it will be before /live fails"
            logger.warning("%s: evidence not captured: %s%s", verdict.target, why, later)

    def on_observation(self, name: str, observation: Observation) -> None:
        """See whether the acceptors of a healthy target are to be learnt, or learnt anew."""
        known = self._acceptors[name]
        if known.apply_observation(observation):
            self._accepted_by.add(name)
            self._accepted.set()
        sample = observation.sample
        if not known.healthy or sample is None or not sample.listeners:
            return
        cookies = frozenset(listener.cookie for listener in sample.listeners)
        if cookies != known.cookies:
            known.cookies = cookies
            known.pause = min(known.pause, SETTLE)
        now = self._clock()
        found = self._targets[name].discovered
        if found and now < self._found_next:
            return
        if known.due(now):
            self._learn[name] = None
            self._work.set()
            if found:
                self._found_next = now + SETTLE

    def known(self, target: str) -> tuple[Baseline, ...]:
        """Who accepted on a target's listeners when it was last seen to be healthy."""
        return self._acceptors[target].witnesses()

    def acceptors_gone(self, target: str) -> bool | None:
        """Whether the exit of who accepted is proven, at a listener where connections wait now.

        That is: who accepted was alive at the last proven accept and is gone, nobody else of those
        who accepted lives, and every process that holds the listener is known. False where one of
        them lives, None where it cannot be told. It reads /proc, 5 to 7 us for each descriptor in
        sight and 20 us for each thread: call it in a thread, not on the loop. Raises nothing.
        """
        known = self._acceptors.get(target)
        if known is None:
            return None  # It has just been forgotten.
        until = self._clock() if known.stalled is None else known.stalled
        waiting = {one.cookie: one for one in known.listeners if one.length}
        try:
            found = [
                exit_proven(one, waiting[one.cookie], until)
                for one in known.witnesses()
                if one.cookie in waiting
            ]
        except OSError:
            return None
        if True in found:
            return True
        return False if found and None not in found else None

    def recollections(self) -> tuple[Recollection, ...]:
        """What is remembered of every target, for `probe diagnose`."""
        now = self._clock()
        return tuple(self._recollection(target, now) for target in self._targets.values())

    def _recollection(self, target: Target, now: float) -> Recollection:
        known = self._acceptors[target.name]
        baselines = known.witnesses()
        if self._options.redact:
            baselines = tuple(
                one._replace(entries=tuple(entry._replace(name="") for entry in one.entries))
                for one in baselines
            )
        return Recollection(
            port=target.port,
            socket=target.socket,
            pid_namespace=pid_namespace(),
            baselines=baselines,
            counters=known.counters,
            history=moments(self._history(target.name), now),
            redacted=self._options.redact,
        )

    def pending(self, target: str) -> bool:
        """Whether a target's evidence is still being saved, and its deadline has not passed."""
        return self._due.get(target, 0.0) > self._clock()

    async def saved(self, target: str) -> None:
        """Wait until a target's evidence is saved, or its deadline has passed."""
        while (left := self._due.get(target, 0.0) - self._clock()) > 0:
            self._captured.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._captured.wait()

    def holds(self, verdict: Verdict) -> bool:
        """The gate: liveness waits while this is true."""
        return self.pending(verdict.target)

    # --- the worker

    async def run(self) -> NoReturn:
        """Capture and learn, one child at a time, for ever."""
        async with asyncio.TaskGroup() as commands:
            commands.create_task(self._watch(), name="acceptors")
            await self._prepare()
            while True:
                await self._work.wait()
                try:
                    await self._turn(commands)
                except Exception:
                    logger.exception("a fault of the evidence; verdicts go on without it")
        raise AssertionError("the loop above ends by cancellation only")

    async def _watch(self) -> NoReturn:
        """Check the acceptors of all targets every second, and those of one after each connection
        of ours that it has accepted.
        """
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(CHECK):
                    await self._accepted.wait()
            self._accepted.clear()
            accepted, self._accepted_by = self._accepted_by, set()
            late = self._clock() - 0.9 * CHECK
            due = {
                name: known
                for name, known in self._acceptors.items()
                if name in accepted or known.checked_at <= late
            }
            try:
                await self._check(due.values())
            except Exception:
                logger.exception("%s: the acceptors could not be checked", ", ".join(due))
            try:
                await self._call_roll()
            except Exception:
                logger.exception("who holds the listeners was not seen")

    async def _check(self, due: Iterable[AcceptorWatch]) -> None:
        """See who of these targets' acceptors is alive: each once, in one thread for all of them,
        however many targets it accepts for.
        """
        began = self._clock()
        watched = [(known, known.watched()) for known in due]
        every = {_checked_as(entry): entry for _, entries in watched for entry in entries}
        found = await asyncio.to_thread(check, every.values()) if every else ()
        seen = dict(zip(every, found, strict=True))
        ended = self._clock()
        for known, entries in watched:
            known.checked_at = began
            waits = {(entry.tid, entry.start_time): seen[_checked_as(entry)] for entry in entries}
            known.checked(waits, began, ended)

    async def _call_roll(self) -> None:
        """See now and then who is new among those that hold the listeners of healthy targets: in
        one thread, since every process is looked through, whatever the number of targets.
        """
        now = self._clock()
        healthy = [known for known in self._acceptors.values() if known.healthy and known.baselines]
        if not healthy or now - self._roll_called_at < ROLL_CALL:
            return
        self._roll_called_at = now
        inodes = {one.cookie: one.inode for known in healthy for one in known.listeners}
        holders = await asyncio.to_thread(self._owners.find, [*inodes.values()])
        for known in healthy:
            if any(
                newcomers(baseline, holders.owners.get(inodes.get(baseline.cookie, 0), ()))
                for baseline in known.baselines
            ):
                known.restless()

    async def _turn(self, commands: asyncio.TaskGroup) -> None:
        """The next thing to do: a capture before anything else."""
        if self._captures:
            job = self._captures.popleft()
            try:
                saved = await self._capture(job)
            except Exception:
                if cooldown := self._cooldowns.get(job.target.name):
                    cooldown.failed()
                self._settle(job)
                raise
            if Reason.NOT_LISTENING in (job.reason, self._acceptors[job.target.name].reason):
                self._settle(job)
                later = self._tell_later(saved, job, commands)
                commands.create_task(later, name=f"tell {saved.id}")
            else:
                self._tell(saved, job, commands)
        elif self._learn:
            name = next(iter(self._learn))
            del self._learn[name]
            await self._look(name)
        else:
            self._work.clear()

    async def _tell_later(self, saved: Saved, job: Job, commands: asyncio.TaskGroup) -> None:
        """Of an application that has gone: it may be us who are deleted, and are told so last."""
        await asyncio.sleep(TOLD_WITHIN)
        self._tell(saved, job, commands)

    def _tell(self, saved: Saved, job: Job, commands: asyncio.TaskGroup) -> None:
        if self._leaving():
            self._settle(job)
            return
        if self._deliver is None:
            self._settle(job)
        else:
            commands.create_task(self._send(saved, job, self._deliver), name=f"send {saved.id}")
        self._announce(saved)
        if self._options.on_incident:
            self._begin_command(saved, commands)

    async def _send(self, saved: Saved, job: Job, deliver: Deliver) -> None:
        """While other targets' evidence is captured; the deadline is that of this one's."""
        try:
            await deliver(saved.target, saved.id, saved.files, job.due - self._clock())
        except Exception:
            logger.exception("%s: the evidence could not be sent", saved.target)
        finally:
            self._settle(job)

    def _settle(self, job: Job) -> None:
        """Nothing more is done with this capture that liveness has to wait for."""
        if self._due.get(job.target.name) == job.due:
            del self._due[job.target.name]
        self._captured.set()

    async def incidents(self, most: int) -> Kept:
        """What is kept, `most` incidents of it at most."""
        every, older = self._memory.list(most)
        if self._store is not self._memory:
            with suppress(OSError):
                found = await asyncio.to_thread(self._store.list, most)
                every, older = every + found.incidents, older + found.older
        key = by_time(self._wall())
        newest = tuple(sorted(every, key=lambda incident: key(incident.id), reverse=True)[:most])
        return Kept(newest, older + len(every) - len(newest))

    async def read(self, identity: str, name: str, limit: int = FILE_LIMIT) -> bytes:
        """A file's first `limit` bytes. Raises KeyError where there is no incident or file."""
        try:
            return self._memory.read(identity, name, limit)
        except KeyError:
            pass
        try:
            return await asyncio.to_thread(self._store.read, identity, name, limit)
        except OSError as error:
            raise KeyError(f"{identity}/{name}") from error

    async def _prepare(self) -> None:
        if isinstance(self._store, FolderStore):
            try:
                for strange in await asyncio.to_thread(self._store.clean):
                    logger.warning("evidence: in %s, %s", self._store.where, strange)
            except OSError as error:
                logger.warning("evidence: %s cannot be used: %s", self._store.where, reason(error))

    async def _look(self, name: str) -> None:
        """Learn who accepts, if the target is well before and after."""
        known = self._acceptors[name]
        if not known.healthy:
            return
        target = self._targets[name]
        request = CaptureRequest(
            target.port,
            target.host,
            socket=target.socket,
            baselines=known.witnesses(),
            jvm_attach=self._options.jvm_attach,
        )
        gathered = await gather(request, seconds=sum(LEARN.values()), steps=LEARN)
        if gathered.missing != known.missing:
            known.missing = gathered.missing
            for missing in gathered.missing:
                logger.info("%s: while it was healthy, %s: %s", name, missing.what, missing.why)
        try:
            baselines = typed(tuple[Baseline, ...], gathered.sections["baselines"])
            counters = typed(tuple[tuple[str, int], ...], gathered.sections["counters"])
        except (KeyError, TypeError, ValueError):
            return
        if known.healthy:
            known.learnt(baselines, counters)

    async def _capture(self, job: Job) -> Saved:
        """One capture from beginning to end: in memory, where the directory fails."""
        began = self._clock()
        identity = job.report.id
        known = self._acceptors[job.target.name]
        folder, note = "", ""
        store = self._store
        try:
            folder = await asyncio.to_thread(store.begin, identity)
        except OSError as error:
            store, note = self._memory, f"{self._store.where}: {reason(error)}"
        request = CaptureRequest(
            port=job.target.port,
            host=job.target.host,
            socket=job.target.socket,
            baselines=known.witnesses(),
            healthy_counters=known.counters,
            folder=folder,
            redact=self._options.redact,
            jvm_attach=self._options.jvm_attach,
        )
        left = max(job.due - began - SAVING, SAVING)
        gathered = await gather(request, seconds=left)
        try:
            written = await asyncio.to_thread(keep, store, job.report, gathered, note)
        except OSError as error:
            with suppress(OSError):
                await asyncio.to_thread(store.abandon, identity)
            store, note = self._memory, f"{self._store.where}: {reason(error)}"
            written = keep(store, job.report, gathered, note)
        dumped = {dump.file for dump in written.report.dumps if dump.file}
        lost = dumped.difference(dict(written.incident.files))
        if lost and not note:
            note = f"no room for {', '.join(sorted(lost))}"
        return Saved(
            target=job.target.name,
            id=identity,
            where=store.where if store is self._memory else f"{store.where}/{identity}",
            line=summary(written.report, written.conclusion),
            seconds=round(self._clock() - began, 3),
            note=note,
            files=tuple(name for name, _ in written.incident.files),
        )

    def _begin_command(self, saved: Saved, commands: asyncio.TaskGroup) -> None:
        if self._commands >= COMMANDS:
            logger.warning("%s: --on-incident not run, %d still run", saved.target, COMMANDS)
            return
        self._commands += 1
        commands.create_task(self._command(saved), name=f"on-incident {saved.id}")

    async def _command(self, saved: Saved) -> None:
        """The user's own command, and its output beside the report."""
        store = self._memory if saved.where == self._memory.where else self._store
        folder = "" if store is self._memory else saved.where
        try:
            ran = await on_incident.run(
                (*self._options.on_incident, *([folder] if folder else [])),
                variables={
                    "PROBE_INCIDENT_ID": saved.id,
                    "PROBE_INCIDENT_DIR": folder,
                    "PROBE_INCIDENT_TARGET": saved.target,
                    "PROBE_INCIDENT_LINE": saved.line,
                },
                seconds=self._options.on_incident_timeout,
            )
            output = ran.output + f"[{ran.note}]\n".encode()
            try:
                await asyncio.to_thread(store.append, saved.id, COMMAND_OUTPUT, output)
            except OSError as error:
                logger.warning(
                    "%s: the output of --on-incident is not kept: %s", saved.target, reason(error)
                )
            level = logging.INFO if ran.ok else logging.WARNING
            logger.log(level, "%s: --on-incident: %s", saved.target, ran.note)
        except Exception:
            logger.exception("%s: --on-incident, or the keeping of its output", saved.target)
        finally:
            self._commands -= 1

    def _job(self, target: Target, verdict: Verdict) -> Job:
        now = self._clock()
        at = datetime.fromtimestamp(self._wall(), UTC)
        name = f"{at:%Y%m%dT%H%M%SZ}-{target.slug}-{verdict.reason or verdict.condition}"
        self._names = Counter({name: self._names[name] + 1})
        again = self._names[name]
        incident = verdict.incident
        report = Report(
            id=name if again == 1 else f"{name}-{again}",
            at=at.isoformat(timespec="seconds"),
            port=target.port,
            socket=target.socket,
            trigger="transition",
            judgement=Judgement(
                condition=verdict.condition,
                reason=verdict.reason,
                stage=verdict.stage,
                message=verdict.message,
                ready=verdict.ready,
                live=verdict.live,
                lasting=None if incident is None else round(now - incident, 1),
            ),
            history=moments(self._history(target.name), now),
            redacted=self._options.redact,
        )
        return Job(target, report, now + self._options.deadline, verdict.reason)


COMMAND_OUTPUT = "on-incident.txt"


class Written(NamedTuple):
    """A report that was written, what it comes to, and its files."""

    report: Report
    conclusion: Conclusion
    incident: Incident


def keep(store: Store, report: Report, gathered: Gathered, note: str) -> Written:
    """Write the report with what was gathered, in both its forms. Raises OSError.

    `note` says in the report itself why it is not where it was meant to be.
    """
    report = assemble(report, gathered)
    if note:
        missing = (*report.missing, Missing("the evidence directory", note))
        report = report._replace(missing=missing)
    conclusion = conclude(report)
    return Written(report, conclusion, store.save(report.id, files(report, conclusion)))


def moments(observations: Iterable[Observation], now: float) -> tuple[TimelineEntry, ...]:
    """The board's observations of a target as the report keeps them, oldest first."""
    rows = []
    accepts: int | None = None
    for observation in observations:
        sample, trip = observation.sample, observation.round_trip
        fullest = max(
            sample.listeners if sample else (),
            key=lambda one: (one.saturation or 0, one.length),
            default=None,
        )
        rise = None
        if sample and sample.accepts is not None:
            rise = None if accepts is None else sample.accepts - accepts
            accepts = sample.accepts
        rows.append(
            TimelineEntry(
                ago=round(now - observation.at, 1),
                length=fullest.length if fullest else None,
                limit=fullest.limit if fullest else None,
                drops=fullest.drops if fullest else None,
                accepts=rise,
                round_trip=str(trip.stage or trip.outcome) if trip else "",
            )
        )
    return tuple(rows)


def _checked_as(entry: BaselineEntry) -> tuple[int, int, int, str, bool]:
    """The thread, and how it is to wait: it may accept for several targets, and is checked once."""
    return entry.pid, entry.tid, entry.start_time, entry.how, entry.certain
