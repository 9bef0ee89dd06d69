"""The attach protocol with real JVMs, and with everything that only looks like one."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from probe.evidence.capture.steps import CaptureWork, java
from probe.evidence.collectors import jvm
from probe.evidence.proc.files import Unavailable
from probe.evidence.records.report import CaptureRequest
from probe.kernel import KernelView
from tests.evidence.identities import (
    APPLICATION,
    SIDECAR,
    SYS_PTRACE,
    become,
    needs_other_users,
    seen_by,
)
from tests.evidence.programs import Program, program
from tests.support import until

PORT, HEALTH = 8080, 8081
FAKE = str(Path(__file__).parent / "fake_jvm.py")


def incident(classes: Path, threads: int, *options: str) -> tuple[str, ...]:
    small = ("-Xss256k", "-Xmx64m", *options, "-cp", str(classes), "Incident")
    return ("java", *small, str(PORT), str(HEALTH), "5", str(threads))


@contextmanager
def contained(classes: Path) -> Iterator[int]:
    """The incident in PID and mount namespaces of its own, with a /tmp of its own; and its pid."""
    mounts = f"mount --bind {classes} /mnt && mount -t tmpfs none /tmp"
    unshare = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
    inside = (
        "sh",
        "-c",
        f'{mounts} && exec "$@"',
        "sh",
        *incident(Path("/mnt"), 3, "-XX:-UsePerfData"),
    )
    with program(*unshare, *inside) as outer:
        yield int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text())


def fake(directory: Path, *words: str) -> AbstractContextManager[Program]:
    return program(sys.executable, FAKE, str(directory), *words)


@contextmanager
def attach_path(pid: int) -> Iterator[Path]:
    """Where the JVM of that pid, in no namespace of its own, would have its socket."""
    path = Path(f"/tmp/.java_pid{pid}")
    try:
        yield path
    finally:
        with suppress(IsADirectoryError):
            path.unlink(missing_ok=True)
        if path.is_dir():
            path.rmdir()


def refused(pid: int, why: str, seconds: float = 2) -> None:
    """No dump, for that reason, in time; and the process lives."""
    began = time.monotonic()
    with pytest.raises(Unavailable, match=why):
        jvm.thread_dump(pid, seconds=seconds)
    assert time.monotonic() - began < seconds + 1
    assert alive(pid)
    assert not Path(f"/tmp/.attach_pid{pid}").exists()


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


# --- real JVMs


def test_dump_names_the_acceptor(java_classes: Path) -> None:
    with program(*incident(java_classes, 20)) as application:
        dump = jvm.thread_dump(application.pid, seconds=5)
        threads = {thread.name: thread for thread in jvm.threads(dump.text)}
        assert dump.complete
        assert threads["app-acceptor"].state == "RUNNABLE"
        assert "accept" in threads["app-acceptor"].frame
        assert Path(f"/proc/{application.pid}/task/{threads['app-acceptor'].inner_tid}").exists()
        assert sum(name.startswith("worker-") for name in threads) == 20
        assert threads["VM Thread"].state == ""

        assert application.tell("die") == "dead"
        after = jvm.threads(jvm.thread_dump(application.pid, seconds=5).text)
        assert "app-acceptor" not in {thread.name for thread in after}
        assert not Path(f"/tmp/.attach_pid{application.pid}").exists()


def test_two_thousand_threads(java_classes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with program(*incident(java_classes, 2000)) as application:
        jvm.prepare(application.pid, seconds=5)
        application.tell("held")
        began = time.monotonic()
        dump = jvm.thread_dump(application.pid, seconds=5)
        took = time.monotonic() - began
        held = int(application.tell("held")) / 1000
        assert dump.complete
        assert len(dump.text) > 2_000_000
        assert len(jvm.threads(dump.text)) > 2000
        with capsys.disabled():
            print(
                f"\n2,000 threads: {len(dump.text) / 1e6:.1f} MB in {took * 1e3:.0f} ms,"
                f" the application held up for {held:.0f} ms"
            )
        short = jvm.thread_dump(application.pid, seconds=5, limit=10_000)
        assert len(short.text) == 10_000
        assert not short.complete


def test_across_namespaces(java_classes: Path) -> None:
    with contained(java_classes) as pid:
        assert jvm.inspect(pid).inner_pid == 1
        dump = jvm.thread_dump(pid, seconds=5)
        assert "app-acceptor" in {thread.name for thread in jvm.threads(dump.text)}
        left = [path.name for path in Path(f"/proc/{pid}/root/tmp").iterdir()]
        assert left == [".java_pid1"]


def test_once_attached_nothing_is_written_or_signalled_again(java_classes: Path) -> None:
    with contained(java_classes) as pid:
        assert jvm.prepare(pid, seconds=5)
        assert not jvm.prepare(pid, seconds=5)
        read_only(pid)
        assert jvm.thread_dump(pid, seconds=5).complete


def test_a_tmp_that_can_not_be_written_to(java_classes: Path) -> None:
    with contained(java_classes) as pid:
        read_only(pid)
        refused(pid, "its /tmp cannot be written to: Read-only file system")


def read_only(pid: int) -> None:
    remount = ("mount", "-o", "remount,ro", "/tmp")
    subprocess.run(("nsenter", "--mount", "--target", str(pid), *remount), check=True)


def test_a_jvm_that_leaves_signals_alone(java_classes: Path) -> None:
    """With -Xrs SIGQUIT would end it; but it opens its socket at the start, and none is sent."""
    with program(*incident(java_classes, 3, "-Xrs")) as application:
        assert not jvm.inspect(application.pid).catches_sigquit
        assert jvm.thread_dump(application.pid, seconds=5).complete
        assert alive(application.pid)


def test_a_stopped_jvm(java_classes: Path) -> None:
    with program(*incident(java_classes, 3)) as application:
        os.kill(application.pid, signal.SIGSTOP)
        until(lambda: jvm.inspect(application.pid).state == "T", "the stop")
        refused(application.pid, "is stopped")
        os.kill(application.pid, signal.SIGCONT)
        until(lambda: jvm.inspect(application.pid).state == "S", "its return")
        assert jvm.thread_dump(application.pid, seconds=5).complete


def test_a_jvm_that_may_not_be_attached_to(java_classes: Path) -> None:
    """It handles the signal by a dump on its own output, and opens no socket."""
    with program(*incident(java_classes, 3, "-XX:+DisableAttachMechanism")) as application:
        refused(application.pid, "did not open its attach socket in time", seconds=0.5)


# --- who may


HIDDEN = "/proc/PID/maps: Permission denied"


@needs_other_users
@pytest.mark.parametrize(
    ("identity", "told"),
    [
        (partial(become, APPLICATION, APPLICATION), "complete"),
        (partial(become, APPLICATION, SIDECAR), HIDDEN),
        (partial(become, SIDECAR, SIDECAR), HIDDEN),
        (partial(become, 0, 0), HIDDEN),
        (partial(become, SIDECAR, SIDECAR, SYS_PTRACE), "its own user only, uid 1000"),
    ],
    ids=["same", "other group", "other user", "root without capabilities", "ptrace"],
)
def test_which_identity_may_ask(
    java_classes: Path, identity: Callable[[], None], told: str
) -> None:
    """Each without a capability that is not named, and with no_new_privs."""
    with tempfile.TemporaryDirectory() as public:
        shutil.copytree(java_classes, public, dirs_exist_ok=True)
        Path(public).chmod(0o755)
        as_application = partial(become, APPLICATION, APPLICATION)
        application = Program(incident(Path(public), 3), prepare=as_application)
        try:
            assert application.line() == "ready"
            said = seen_by(identity, partial(attempt, application.pid))
            assert said.endswith(told.replace("PID", str(application.pid)))
            assert alive(application.pid)
        finally:
            application.end()


def attempt(pid: int) -> str:
    try:
        return "complete" if jvm.thread_dump(pid, seconds=5).complete else "cut short"
    except Unavailable as error:
        return str(error)


# --- a hostile /tmp


@pytest.mark.parametrize("trap", ["fifo", "directory", "symlink", "dangling", "file"])
def test_something_else_at_the_attach_path(java_classes: Path, trap: str, tmp_path: Path) -> None:
    """It is neither opened, nor followed, nor does the JVM get a signal."""
    secret = tmp_path / "secret"
    secret.write_text("ours")
    with (
        program(*incident(java_classes, 1)) as application,
        attach_path(application.pid) as path,
    ):
        match trap:
            case "fifo":
                os.mkfifo(path)
            case "directory":
                path.mkdir()
            case "symlink":
                path.symlink_to(secret)
            case "dangling":
                path.symlink_to(tmp_path / "nowhere")
            case "file":
                path.touch()
        refused(application.pid, "not a socket")
        assert secret.read_text() == "ours"


def test_a_socket_of_somebody_else(java_classes: Path) -> None:
    with (
        program(*incident(java_classes, 1)) as application,
        attach_path(application.pid) as path,
        socket.socket(socket.AF_UNIX) as impostor,
    ):
        impostor.bind(str(path))
        impostor.listen()
        refused(application.pid, f"belongs to process {os.getpid()} of uid 0, not to the JVM")


def test_what_is_no_dump_is_kept_as_it_is(view: KernelView, tmp_path: Path) -> None:
    with fake(tmp_path, "libjvm.so", "quit", "headless") as application:
        request = CaptureRequest(PORT, folder=str(tmp_path), jvm_attach=True)
        dump = java(CaptureWork(request, view), application.pid)
    assert dump is not None
    assert (dump.threads, dump.groups, dump.complete) == (0, (), True)
    assert dump.text == "OpenJDK 99: out of words\n"
    assert (tmp_path / dump.file).read_text() == dump.text


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ('"a" #1 prio=5 nid=0x1 runnable', ["a"]),
        ('"a "quoted" name" #1 prio=5 nid=17 runnable', ['a "quoted" name']),
        ('"a" nid=007 b', ["a"]),
        ('"' + "n" * 1000 + '" nid=1 b', ["n" * 300]),
        ('"a" no number', []),
        ('"a" nid=123456789012 b', []),
        ("", []),
        ('"' * 8_000_000, []),
        ('"' + '" ' * 4_000_000, []),
        ('"a" ' + "nid=" * 2_000_000, []),
    ],
)
def test_threads_of_any_text(line: str, names: list[str]) -> None:
    """In a time that grows with its length, and no faster: the application writes it."""
    began = time.process_time()
    assert [thread.name for thread in jvm.threads(line.encode())] == names
    assert time.process_time() - began < 5


def test_a_socket_that_nobody_listens_on(java_classes: Path) -> None:
    """What a JVM with the same pid left behind in a /tmp that outlived it."""
    with program(*incident(java_classes, 1)) as application, attach_path(application.pid) as path:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
        refused(application.pid, "cannot be connected to: Connection refused")


@pytest.mark.parametrize(
    ("kind", "why"),
    [("silent", "no answer in time"), ("full", "connected to: Resource temporarily unavailable")],
)
def test_a_socket_that_never_answers(tmp_path: Path, kind: str, why: str) -> None:
    with fake(tmp_path, "libjvm.so", "quit", kind) as application, attach_path(application.pid):
        refused(application.pid, why, seconds=0.3)


def test_a_trigger_that_we_left_behind_is_replaced(java_classes: Path) -> None:
    with program(*incident(java_classes, 1)) as application:
        left = Path(f"/tmp/.attach_pid{application.pid}")
        left.touch()
        assert jvm.thread_dump(application.pid, seconds=5).complete
        assert not left.exists()


@pytest.mark.parametrize("trap", ["fifo", "symlink", "content"])
def test_a_trigger_that_is_not_ours(java_classes: Path, trap: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("ours")
    with program(*incident(java_classes, 1)) as application:
        path = Path(f"/tmp/.attach_pid{application.pid}")
        match trap:
            case "fifo":
                os.mkfifo(path)
            case "symlink":
                path.symlink_to(secret)
            case "content":
                path.write_text("mine")
        try:
            with pytest.raises(Unavailable, match="not ours"):
                jvm.thread_dump(application.pid, seconds=2)
            assert os.path.lexists(path)
            assert secret.read_text() == "ours"
            assert alive(application.pid)
        finally:
            path.unlink()


def test_a_tmp_that_leads_into_our_own_files(tmp_path: Path) -> None:
    """In the container's root, /tmp is a symbolic link to a directory that we have too."""
    (tmp_path / "tmp").symlink_to(Path.home())
    child = os.fork()
    if not child:
        os.chroot(tmp_path)
        signal.pause()
    try:
        until(lambda: Path(f"/proc/{child}/root").readlink() == tmp_path, "the chroot")
        with (
            pytest.raises(Unavailable, match="its /tmp cannot be opened"),
            jvm.temporary_directory(child),
        ):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# --- what is no JVM, or not the one it was


def test_sleep_is_never_signalled() -> None:
    with subprocess.Popen(("sleep", "60")) as process:
        try:
            refused(process.pid, "not a HotSpot JVM")
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["libjvm.so"], "does not handle SIGQUIT"),
        (["libjvm.so", "libj9vm29.so", "quit"], "not a HotSpot JVM"),
        (["mylibjvm.so", "quit"], "not a HotSpot JVM"),
        (["quit"], "not a HotSpot JVM"),
    ],
)
def test_what_only_looks_like_a_jvm(tmp_path: Path, words: list[str], why: str) -> None:
    with fake(tmp_path, *words) as application:
        refused(application.pid, why)
        assert application.tell("still here") == "still here"


def test_a_library_that_is_only_read(tmp_path: Path) -> None:
    """Mapped without the right to execute it is data: something that looks into a JDK, say."""
    with fake(tmp_path, "libjvm.so-read", "quit") as application:
        assert "libjvm.so" in Path(f"/proc/{application.pid}/maps").read_text()
        refused(application.pid, "not a HotSpot JVM")


def test_a_process_that_has_gone() -> None:
    with subprocess.Popen(("true",)) as process:
        process.wait()
    with pytest.raises(Unavailable, match="No such file or directory"):
        jvm.thread_dump(process.pid, seconds=1)


def test_a_pid_given_to_another(java_classes: Path) -> None:
    """Between the two looks the number came to belong to a second JVM."""
    with program(*incident(java_classes, 1)) as application:
        first = jvm.inspect(application.pid)
        with pytest.raises(Unavailable, match="was replaced meanwhile"):
            jvm.require_signalable(application.pid, first._replace(started=first.started - 1))


def test_a_jvm_that_dies_meanwhile(java_classes: Path) -> None:
    """It is killed when the first look is over: the pidfd does not reach a successor."""
    with program(*incident(java_classes, 1)) as application:
        process = jvm.require_jvm(application.pid)
        with jvm.temporary_directory(application.pid) as tmp:
            application.process.kill()
            application.process.wait()
            with pytest.raises(Unavailable):
                jvm.open_socket(application.pid, process, tmp, time.monotonic() + 1)
            assert not jvm.exists(tmp, f".attach_pid{application.pid}")


def test_newer_dumps_are_read_as_well() -> None:
    """From JDK 21 on, the thread's id is decimal and stands twice."""
    dump = (
        b'"main" #1 [4711] prio=5 os_prio=0 cpu=1ms tid=0x7f nid=4711 runnable  [0x1]\n'
        b"   java.lang.Thread.State: RUNNABLE\n"
        b"\tat sun.nio.ch.Net.accept(java.base@21/Native Method)\n"
        b"\tat java.lang.Thread.run(java.base@21/Thread.java:1583)\n\n"
        b'"GC Thread#0" os_prio=0 cpu=0.1ms tid=0x7f nid=4712 runnable\n'
    )
    assert jvm.threads(dump) == (
        jvm.JavaThread(
            "main",
            4711,
            "RUNNABLE",
            (
                "sun.nio.ch.Net.accept(java.base@21/Native Method)",
                "java.lang.Thread.run(java.base@21/Thread.java:1583)",
            ),
        ),
        jvm.JavaThread("GC Thread#0", 4712, "", ()),
    )
