"""Who is said to have exited: who accepted to the last, and nobody of a pool that was recycled."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from probe.evidence.acceptors.audit import audit
from probe.evidence.acceptors.baseline import (
    NEAR,
    check,
    differences,
    doubt,
    exit_proven,
    learn,
    newcomers,
)
from probe.evidence.acceptors.owners import Owners
from probe.evidence.capture.steps import ending
from probe.evidence.keeper import AcceptorWatch
from probe.evidence.proc.tasks import TICK, started
from probe.evidence.records.audit import Baseline, BaselineEntry, Change, Difference, Owner
from probe.kernel import KernelView
from probe.model import Observation, Outcome, RoundTrip, Sample
from tests.conftest import libc
from tests.evidence.programs import Program, queued, server
from tests.support import until

PORT = 8080
EXITED = {Change.THREAD_EXITED, Change.PROCESS_EXITED}


class Watched:
    """What a keeper does for one target, when the test says so."""

    def __init__(self, view: KernelView) -> None:
        self.view = view
        self.known = AcceptorWatch()
        self.sample()
        self.learn()

    def sample(self) -> None:
        sample = Sample(self.view.listeners(PORT))
        self.known.apply_observation(Observation(time.monotonic(), sample))

    def entries(self) -> list[BaselineEntry]:
        return [entry for one in self.known.baselines for entry in one.entries]

    def learn(self) -> None:
        found = audit(self.view, PORT, samples=2)
        self.known.learnt(learn(found, self.known.witnesses()), ())

    def check(self) -> None:
        began, entries = time.monotonic(), self.entries()
        seen = {
            (entry.tid, entry.start_time): waits
            for entry, waits in zip(entries, check(entries), strict=True)
        }
        self.known.checked(seen, began, time.monotonic())

    def serve(self, application: Program) -> None:
        """A connection that is accepted, as the sidecar's own once a second."""
        at = time.monotonic()
        application.tell("serve")
        trip = RoundTrip(at, Outcome.OK, accepted=True)
        self.known.apply_observation(Observation(time.monotonic(), round_trip=trip))

    def differences(self) -> list[Difference]:
        with queued(self.view, PORT, 2):
            found = audit(self.view, PORT, samples=2)
            return [one for known in self.known.witnesses() for one in differences(known, found)]

    def proven(self) -> bool | None:
        (listener,) = self.view.listeners(PORT)
        (baseline,) = self.known.witnesses()
        return exit_proven(baseline, listener, time.monotonic())


POOLS = ["successor", "rotation", "turns", "shrinking", "recycled"]


@pytest.mark.parametrize("mode", POOLS)
def test_who_handed_over_while_all_was_well(view: KernelView, mode: str) -> None:
    """The present acceptor hangs; those before it have no part in that."""
    with server(mode, PORT) as application:
        watched = Watched(view)
        watched.check()
        application.tell("next")
        for _ in range(3):
            watched.check()
            watched.serve(application)
        watched.learn()
        watched.check()
        application.tell("break")
        watched.check()
        found = watched.differences()
    assert not [one.text for one in found if one.change in EXITED]


@pytest.mark.parametrize("mode", [mode for mode in POOLS if mode != "shrinking"])
def test_who_handed_over_a_moment_before(view: KernelView, mode: str) -> None:
    """Between two checks one hands over, and the next accepts and hangs.

    Not of a pool that shrinks: that an older thread takes over, one ends and the other hangs, all
    within a second, is what cannot be told from the death of the acceptor.
    """
    with server(mode, PORT) as application:
        watched = Watched(view)
        watched.check()
        application.tell("next")
        application.tell("break")
        found = watched.differences()
        left = [one for one in found if one.change is Change.LEFT]
        if left:
            assert watched.proven() is None
    assert not [one.text for one in found if one.change in EXITED]
    assert all("whether it was the last to accept is not known" in one.text for one in left)


def test_an_idle_thread_of_a_pool_ends_during_the_stall(view: KernelView) -> None:
    """It was alive at the last accept, but it was not it who would accept the next."""
    with server("shrinking", PORT) as application:
        watched = Watched(view)
        watched.check()
        application.tell("next")
        watched.check()
        application.tell("break")
        (entry,) = watched.entries()
        gone = Path(f"/proc/{entry.pid}/task/{entry.tid}")
        until(lambda: not gone.exists(), "the end of the idle thread")
        (found,) = watched.differences()
    assert found.change is Change.LEFT
    assert found.text.endswith("is not known: it did not wait to accept then")


@pytest.mark.parametrize("seen", [False, True], ids=["between two checks", "and a check saw it"])
def test_who_dies_of_the_connection_it_accepts(view: KernelView, seen: bool) -> None:
    """Nobody can look between the accept and the end: the sight before it is what there is."""
    with server("accept", PORT) as application:
        watched = Watched(view)
        watched.check()
        at = time.monotonic()
        application.tell("break")
        if seen:
            watched.check()
        trip = RoundTrip(at, Outcome.FAILED, accepted=True)
        watched.known.apply_observation(Observation(time.monotonic(), round_trip=trip))
        (found,) = watched.differences()
        assert watched.proven() is True
    assert found.change is Change.THREAD_EXITED
    assert found.last_seen_alive is not None
    assert f"(last seen alive {found.last_seen_alive:.1f} s before)" in found.text


def test_a_lasting_stall_does_not_make_it_doubtful(view: KernelView) -> None:
    """It is checked on while nothing is accepted, and learnt: it stays the one who accepted."""
    with server("accept", PORT) as application:
        watched = Watched(view)
        application.tell("break")
        for _ in range(3):
            watched.check()
            watched.sample()
            watched.learn()
        (found,) = watched.differences()
    assert found.change is Change.THREAD_EXITED


def test_it_lives(view: KernelView) -> None:
    with server("asyncio", PORT) as application:
        watched = Watched(view)
        application.tell("break")
        watched.check()
        (found,) = watched.differences()
        assert watched.proven() is False
    assert found.change is Change.NOT_WAITING


def test_an_accept_strikes_out_who_was_gone_before(view: KernelView) -> None:
    with server("successor", PORT) as application:
        watched = Watched(view)
        before = watched.entries()
        application.tell("next")
        watched.check()
        assert watched.entries() == before
        watched.serve(application)
        assert watched.entries() == []
        assert watched.known.stirred
        watched.learn()
        (entry,) = watched.entries()
    assert entry.tid != before[0].tid


@contextmanager
def adopting() -> Iterator[None]:
    """Orphans become our own children, and not those of a process that may not be read."""
    set_child_subreaper = 36
    libc.prctl(set_child_subreaper, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(set_child_subreaper, 0, 0, 0, 0)


def test_a_process_that_was_killed(view: KernelView) -> None:
    """A helper that it started keeps the listener open."""
    with adopting(), server("helped", PORT) as application:
        helper = int(application.line())
        try:
            watched = Watched(view)
            watched.check()
            application.process.kill()
            os.waitid(os.P_PID, application.pid, os.WEXITED | os.WNOWAIT)
            (found,) = watched.differences()
            assert found.change is Change.PROCESS_EXITED, found.text
            assert watched.proven() is True
            ended = ending(application.pid, found.entry.process_start, "python")
            application.process.wait()
            forgotten = ending(application.pid, found.entry.process_start, "python")
        finally:
            os.kill(helper, signal.SIGKILL)
            os.waitpid(helper, 0)
    assert (ended.signal, ended.status, ended.unknown) == ("SIGKILL", None, "")
    assert (forgotten.signal, forgotten.status) == ("", None)
    assert forgotten.unknown == "nothing of it is left but what its parent knows"


# --- real pools


def gunicorn(folder: Path) -> list[str]:
    (folder / "app.py").write_text(
        "def app(environ, start):\n    start('204 No Content', [])\n    return []\n"
    )
    options = ["-b", f"127.0.0.1:{PORT}", "-w", "2", "--chdir", str(folder), "app:app"]
    return [sys.executable, "-m", "gunicorn", *options]


def nginx(folder: Path) -> list[str]:
    (folder / "nginx.conf").write_text(
        f"""
        daemon off; worker_processes 2; pid {folder}/pid; error_log stderr;
        events {{ worker_connections 64; }}
        http {{ access_log off; server {{ listen 127.0.0.1:{PORT}; return 204; }}
          client_body_temp_path {folder}/a; proxy_temp_path {folder}/b;
          fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e; }}
        """
    )
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def uwsgi(folder: Path) -> list[str]:
    (folder / "app.py").write_text(
        "def application(environ, start):\n    start('204 No Content', [])\n    return []\n"
    )
    where = ["--http-socket", f"127.0.0.1:{PORT}", "--wsgi-file", str(folder / "app.py")]
    return ["uwsgi", "--plugin", "python3", *where, "--master", "--processes", "2"]


def php_fpm(folder: Path) -> list[str]:
    (folder / "fpm.conf").write_text(
        f"[global]\nerror_log = {folder}/log\ndaemonize = no\n"
        f"[www]\nuser = nobody\ngroup = nogroup\nlisten = 127.0.0.1:{PORT}\n"
        "pm = static\npm.max_children = 2\n"
    )
    return [php_fpm_binary(), "-y", str(folder / "fpm.conf"), "-R"]


def php_fpm_binary() -> str:
    found = [shutil.which(f"php-fpm8.{minor}") for minor in range(9)]
    return next(filter(None, found), "php-fpm")


def puma(folder: Path) -> list[str]:
    (folder / "config.ru").write_text("run lambda { |_| [204, {}, []] }\n")
    options = ["-b", f"tcp://127.0.0.1:{PORT}", "-w", "2", "-t", "1:1", "-e", "production"]
    return ["puma", *options, str(folder / "config.ru")]


def varnish(folder: Path) -> list[str]:
    options = ["-b", "none", "-a", f"127.0.0.1:{PORT}", "-n", str(folder / "v"), "-j", "none"]
    return ["varnishd", "-F", *options, "-s", "malloc,16m"]


@contextmanager
def running(command: list[str]) -> Iterator[None]:
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} on this machine")
    silent = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=silent, stderr=silent, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("pool", [gunicorn, nginx, uwsgi, php_fpm, puma, varnish])
def test_a_supervisor_replaces_its_workers(
    view: KernelView, tmp_path: Path, pool: Callable[[Path], list[str]]
) -> None:
    """At no moment is anybody said to have been the last: others are there, or come to be."""
    tmp_path.chmod(0o755)
    with running(pool(tmp_path)):
        until(lambda: bool(view.listeners(PORT)), "a listener")

        def learnt() -> Baseline | None:
            return next(iter(learn(audit(view, PORT, samples=2))), None)

        until(lambda: (known := learnt()) is not None and bool(known.entries), "an acceptor")
        baseline = learnt()
        assert baseline is not None
        (listener,) = view.listeners(PORT)
        for pid in {entry.pid for entry in baseline.entries}:
            os.kill(pid, signal.SIGKILL)
        seen = [*differences(baseline, audit(view, PORT, samples=2))]

        def replaced() -> bool:
            inodes = [one.inode for one in view.listeners(PORT)]
            owners = Owners().find(inodes).owners.values()
            return any(newcomers(baseline, holding) for holding in owners)

        until(replaced, "a new worker")
        seen += differences(baseline, audit(view, PORT, samples=2))
        assert exit_proven(baseline, listener, time.monotonic()) is not True
    assert seen
    assert not [one.text for one in seen if one.change in EXITED]


# --- the rule, row by row

NOW = 1_000_000.0
ENTRY = BaselineEntry(7, 1, "java", 65, 2, "shop-acceptor", "accept", last_alive=NOW)
HOLDER = Owner(7, 1, "java", 1000, 7)
KNOWN = Baseline(PORT, 1, "0.0.0.0", NOW - 60, (ENTRY,), owners=((7, 1), (9, 5)))


def since_boot(at: float) -> int:
    """A moment of the monotonic clock as a start time."""
    return round((at - started(0)) / TICK)


@pytest.mark.parametrize(
    ("why", "entry", "fields"),
    [
        ("", ENTRY, {}),
        ("", ENTRY, {"accepted": NOW - 1}),
        ("", ENTRY, {"accepted": NOW + NEAR}),
        ("connections were accepted 5.0 s after that", ENTRY, {"accepted": NOW + 5}),
        ("it did not wait to accept then", ENTRY._replace(waited=False), {}),
        ("who holds the listener now cannot be seen", ENTRY, {"owners": ()}),
        ("process 8 cannot be read", ENTRY, {"hidden": ("process 8 cannot be read",)}),
        (
            "process 8 `java` has come to hold the listener since",
            ENTRY,
            {"owners": (HOLDER, HOLDER._replace(pid=8))},
        ),
        (
            "process 7 `java` has come to hold the listener since",
            ENTRY,
            {"owners": (HOLDER._replace(start_time=400),)},
        ),
        (
            "process 9 `java` holds the listener too, and may accept",
            ENTRY,
            {"owners": (HOLDER, Owner(9, 5, "java", 1000, 9))},
        ),
        ("", ENTRY, {"owners": (HOLDER, Owner(9, 5, "sleep", 1000, 9))}),
        (
            "process 9 `master`, which started it, may start another",
            ENTRY._replace(parent=9),
            {"owners": (HOLDER, Owner(9, 5, "master", 1000, 9))},
        ),
        ("", ENTRY._replace(waited=False), {"owners": (Owner(9, 5, "sleep", 1000, 9),)}),
        ("thread 70 `shop-acceptor` has begun since", ENTRY, {"begun": ("shop-acceptor", 0.5)}),
        ("", ENTRY, {"begun": ("shop-acceptor", -5)}),
        ("", ENTRY, {"begun": ("shop-acceptor", 3)}),  # after the head of the queue was queued
        ("", ENTRY, {"begun": ("handler-1", 0.5)}),
        (
            "thread 70 `pool-1` has begun since",
            ENTRY._replace(name="pool-2"),
            {"begun": ("pool-1", 0.5)},
        ),
        ("thread 70 `x` has begun since", ENTRY._replace(name=""), {"begun": ("x", 0.5)}),
    ],
)
def test_what_is_in_doubt(why: str, entry: BaselineEntry, fields: dict[str, object]) -> None:
    begun = fields.get("begun")
    threads = [(7, 70, begun[0], since_boot(NOW + begun[1]))] if isinstance(begun, tuple) else []
    found = doubt(
        entry,
        KNOWN._replace(entries=(entry,), accepted=fields.get("accepted")),  # type: ignore[arg-type]
        owners=fields.get("owners", (HOLDER,)),  # type: ignore[arg-type]
        hidden=fields.get("hidden", ()),  # type: ignore[arg-type]
        threads=threads,
        until=NOW + 2,
    )
    assert found == why
