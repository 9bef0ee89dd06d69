"""`probe diagnose`: one check of a port, as `probe check` takes it, then all the evidence there is.

What cannot be seen now is asked of the sidecar, where one runs: who accepted while all was well,
and how the queue grew.
"""

import asyncio
import errno
import json
import os
import sys
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psutil

from probe import exits
from probe.api import client as sidecar
from probe.commands import once
from probe.config import Config, ListenAddress
from probe.evidence.access import SHARE, self_test
from probe.evidence.capture.parent import capture
from probe.evidence.incident import files
from probe.evidence.proc.files import reason
from probe.evidence.proc.tasks import link, pid_namespace
from probe.evidence.records.audit import Access, plain
from probe.evidence.records.report import CaptureRequest, Judgement, Lack, Missing, Report
from probe.evidence.report.claims import Conclusion
from probe.evidence.report.patterns import conclude
from probe.evidence.report.text import text
from probe.evidence.store import FolderStore
from probe.kernel import CannotTell, KernelView, open_view
from probe.kernel.hosts import NoAddress, find, reached
from probe.kernel.sampler import Sampler
from probe.kernel.unixdiag import open_socket
from probe.model import Condition, EvidenceOptions, Listener, RoundTrip, Stage, Target
from probe.roundtrip import Address, Attempt, aio

CONDITIONS = {
    exits.OK: Condition.HEALTHY,
    exits.FAILED: Condition.UNHEALTHY,
    exits.UNKNOWN: Condition.UNKNOWN,
}

NAME_PATIENCE = 2.0
"""Seconds that the resolver may take over the target's host."""

HOST_PID = "run it on the node itself, or in a pod there that has hostPID: true"

TARGET_OR_SHARE = f"in kubectl debug, add --target=CONTAINER; in a sidecar, {SHARE}"

OTHER_PIDS = (
    "the sidecar knows, but its process ids are of another pid namespace; run `probe diagnose` in"
    " its container for that"
)


class Diagnosis(NamedTuple):
    """What the check saw, all that was found, what it comes to, and the folder that it was kept in,
    if any.
    """

    seen: once.CheckResult
    report: Report
    conclusion: Conclusion
    kept: str


class CannotBegin(Exception):
    """The process or namespace that was asked for cannot be had; `status` is the exit status."""

    def __init__(self, why: str, status: int = exits.USAGE) -> None:
        super().__init__(why)
        self.status = status


def run(config: Config) -> int:
    """Print the finding about every target. Exit 0 healthy, 1 not, 2 usage, 3 could not tell."""
    try:
        if config.netns:
            enter(config.netns)
        if config.pid is not None:
            require_process(config.pid)
    except CannotBegin as error:
        print(f"probe: {error}", file=sys.stderr)
        return error.status
    statuses = []
    with closing(open_view(walk=True)) as view:
        sampler = Sampler(view, once.counters())
        for number, target in enumerate(config.targets):
            found = diagnose(target, config, sampler)
            statuses.append(found.seen.status)
            if config.json:
                print(json.dumps(as_json(found)), flush=True)
            else:
                print("\n" * bool(number) + as_text(found), end="", flush=True)
    return once.worst(statuses)


def enter(where: str) -> None:
    """Move to another network namespace, with every child from now on. Raises CannotBegin.

    The processes in sight stay those of our own pid namespace.
    """
    from probe.kernel import namespace  # pyroute2, not loaded for nothing

    try:
        namespace.enter(where)
    except OSError as error:
        number = error.errno or errno.EINVAL
        if where.isdecimal() and number == errno.ENOENT:
            raise CannotBegin(f"--netns {where}: no such process") from None
        if number in (errno.EPERM, errno.EACCES):
            why = f"{os.strerror(number).lower()}; it takes root on the node (CAP_SYS_ADMIN)"
            raise CannotBegin(f"--netns {where}: {why}", exits.UNKNOWN) from None
        why = "is no network namespace" if number == errno.EINVAL else os.strerror(number).lower()
        raise CannotBegin(f"--netns {where}: {why}") from None


def require_process(pid: int) -> None:
    """See that the process is there, and in this network namespace. Raises CannotBegin."""
    if not psutil.pid_exists(pid):  # of a thread there is a /proc/ID too
        raise CannotBegin(f"--pid {pid}: no such process")
    with suppress(PermissionError):
        if link(f"/proc/{pid}/ns/net") != link("/proc/thread-self/ns/net"):
            raise CannotBegin(f"--pid {pid}: it is in another network namespace; add --netns {pid}")


def diagnose(target: Target, config: Config, sampler: Sampler) -> Diagnosis:
    """Everything about one target. A connection of ours that is queued lingers until the end."""
    with closing(Asker()) as asker:
        seen = once.at(target, config.policy, sampler, config.policy.timeout, asker.ask)
        at = datetime.now(UTC)
        report = Report(
            id=f"{at:%Y%m%dT%H%M%SZ}-{target.slug}-diagnose",
            at=at.isoformat(timespec="seconds"),
            port=target.port,
            socket=target.socket,
            trigger="diagnose",
            judgement=judgement(seen),
            ours=asker.queued,
            access=access(sampler.view, target, from_node=bool(config.netns)),
        )
        options = config.evidence
        request = CaptureRequest(
            port=target.port,
            host=target.host,
            socket=target.socket,
            redact=options.redact,
            jvm_attach=options.jvm_attach,
            pid=config.pid or 0,
        )
        request, report = remember(request, report, target, config.listen.asked)
        report, kept = gather(request, report, options)
        return Diagnosis(seen, report, conclude(report), kept)


class Asker:
    """Makes the round trip, and keeps its connection open while it is in the accept queue.

    Closed, it would look like one of the clients that have given up.
    """

    def __init__(self) -> None:
        self._lingering: Attempt | None = None
        self.queued = False

    def ask(self, target: Target, where: Address, view: KernelView, limit: float) -> RoundTrip:
        result, self._lingering = asyncio.run(aio.run(target, where, view, limit))
        self.queued = self._lingering is not None and result.stage is Stage.QUEUED
        return result

    def close(self) -> None:
        if self._lingering is not None:
            self._lingering.close()


def judgement(seen: once.CheckResult) -> Judgement:
    verdict = seen.verdict
    return Judgement(
        condition=CONDITIONS[seen.status],
        reason=verdict.reason,
        stage=verdict.stage,
        message=seen.line if seen.status == exits.UNKNOWN else verdict.message,
        ready=verdict.ready,
        live=verdict.live,
    )


def remember(
    request: CaptureRequest, report: Report, target: Target, address: ListenAddress
) -> tuple[CaptureRequest, Report]:
    """Add what a sidecar knows from before, if there is one."""
    try:
        known = sidecar.recall(address, target)
    except sidecar.Absent:
        return request, report
    except sidecar.Unanswered as why:
        return request, without(report, "what a sidecar remembers", str(why))
    before = known.recollection
    request = request._replace(
        healthy_counters=before.counters, redact=request.redact or before.redacted
    )
    report = report._replace(sidecar=known.sidecar, history=before.history)
    if report.judgement and report.judgement.condition is not Condition.HEALTHY:
        lasting = known.sidecar.judgement.lasting
        report = report._replace(judgement=report.judgement._replace(lasting=lasting))
    if before.pid_namespace == pid_namespace():
        return request._replace(baselines=before.baselines), report
    return request, without(report, "who used to accept", OTHER_PIDS, Lack.FORMER_ACCEPTORS)


def gather(request: CaptureRequest, report: Report, options: EvidenceOptions) -> tuple[Report, str]:
    """Capture, and keep it where there is a directory for it: that place, or "" if nowhere."""
    if not options.dir:
        return captured(request, report, options.deadline), ""
    store = FolderStore(options.dir, count=options.max_count, size=options.max_size)
    try:
        folder = store.begin(report.id)
        report = captured(request._replace(folder=folder), report, options.deadline)
        store.save(report.id, files(report, conclude(report)))
    except OSError as error:
        if not report.steps:
            report = captured(request, report, options.deadline)
        return without(report, "a place to keep this", f"{options.dir}: {reason(error)}"), ""
    finally:
        store.abandon(report.id)
    return report, f"{options.dir}/{report.id}"


def captured(request: CaptureRequest, report: Report, seconds: float) -> Report:
    found = asyncio.run(capture(report, request, seconds=seconds))
    return found._replace(missing=(*found.missing, *report.missing))


def without(report: Report, what: str, why: str, lack: Lack | None = None) -> Report:
    return report._replace(missing=(*report.missing, Missing(what, why, lack)))


def access(view: KernelView, target: Target, *, from_node: bool) -> tuple[Access, ...]:
    """The self-test; what it advises for a pod's manifest is of no use to who is on its node."""
    try:
        listeners = listeners_of(target, view)
        return self_test(listeners, share=HOST_PID if from_node else TARGET_OR_SHARE)
    except (CannotTell, NoAddress):
        return ()


def listeners_of(target: Target, view: KernelView) -> tuple[Listener, ...]:
    """Those that the target means. Raises CannotTell, and NoAddress for its host."""
    if target.socket:
        with closing(open_socket(target.socket, from_afar=True)) as own:
            return own.listeners()
    return reached(find(target.host, NAME_PATIENCE), view.listeners(target.port))


def as_text(diagnosis: Diagnosis) -> str:
    kept = f"\nKept, with its raw dumps, in {diagnosis.kept}\n" if diagnosis.kept else ""
    return text(diagnosis.report, diagnosis.conclusion) + kept


def as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    seen, report, conclusion, kept = diagnosis
    return {
        "status": seen.status,
        "line": seen.line,
        "code": conclusion.code,
        "finding": conclusion.headline,
        "patterns": plain(conclusion.patterns),
        "kept": kept,
        "report": plain(report),
    }
