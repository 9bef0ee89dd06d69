"""What the capture reads of processes, containers and the network, from real ones."""

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from probe.display import printable
from probe.evidence.collectors import cgroup, network, process
from probe.evidence.proc.files import Unavailable, read
from probe.evidence.proc.tasks import identity, stat
from probe.evidence.records.facts import CgroupFacts, ContainerName, Pressure, ProcessFacts
from probe.kernel import KernelView
from tests.evidence.identities import SIDECAR, become, needs_other_users, seen_by
from tests.evidence.programs import program, queued, server
from tests.support import until

PORT = 8080
DESCRIPTORS = """
import resource, socket, sys
most = min(20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
keep = []
try:
    while True:
        keep.append(socket.socket())
except OSError:
    print("ready", flush=True)
sys.stdin.read()
"""


def started(pid: int) -> int:
    return stat("/proc", pid).start_time


# --- processes


def test_a_process() -> None:
    with subprocess.Popen(("sleep", "60")) as sleeping:
        try:
            until(lambda: stat("/proc", sleeping.pid).name == "sleep", "exec")
            until(lambda: stat("/proc", sleeping.pid).state == "S", "sleep")
            facts = process.facts(sleeping.pid, started(sleeping.pid))
            assert (facts.comm, facts.state, facts.threads) == ("sleep", "sleeping", 1)
            assert 0 <= facts.age < 30
            assert 100_000 < facts.resident < 100_000_000
            assert facts.descriptor_limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            os.kill(sleeping.pid, signal.SIGSTOP)
            until(lambda: stat("/proc", sleeping.pid).state == "T", "the stop")
            assert process.facts(sleeping.pid, started(sleeping.pid)).state == "stopped"
        finally:
            sleeping.kill()


NAMED = """
import os, sys
with open("/proc/self/comm", "wb") as comm:
    comm.write(os.fsencode(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    "name",
    ["Uid:\t7\t7\t7\t7", "a\nUid:\t7\t7\t7\t7", "a\rGid:\t7\t7\t7", "Threads:\t9999", ") R 1 1"],
)
def test_a_name_tells_nothing_but_a_name(name: str) -> None:
    """What a process calls itself stands among the facts about it, and looks like one."""
    with program(sys.executable, "-c", NAMED, name) as application:
        until(lambda: stat("/proc", application.pid).state == "S", "its sleep")
        who = identity("/proc", application.pid)
        facts = process.facts(application.pid, started(application.pid))
    assert (set(who.uids), set(who.gids)) == ({os.getuid()}, {os.getgid()})
    assert (facts.comm, facts.threads) == (printable(name), 1)
    assert facts.state == "sleeping"
    assert facts.resident > 1_000_000


def test_twenty_thousand_descriptors() -> None:
    with program(sys.executable, "-W", "ignore", "-c", DESCRIPTORS) as hoarder:
        facts = process.facts(hoarder.pid, started(hoarder.pid))
        assert facts.descriptors is not None
        assert facts.descriptors == facts.descriptor_limit
        assert facts.kinds[0] == ("socket", facts.descriptors - 3)


@needs_other_users
def test_a_process_of_another_user() -> None:
    """Its descriptors can be counted by anyone (Linux 6.2), their kinds by its own user only."""
    with subprocess.Popen(("sleep", "60")) as sleeping:
        look = partial(described, sleeping.pid)
        try:
            facts, group = seen_by(partial(become, SIDECAR, SIDECAR), look)
        finally:
            sleeping.kill()
    assert facts.descriptors == 3
    assert facts.kinds == ()
    assert facts.notes == ("its descriptors cannot be looked at: Permission denied",)
    assert group == "its /sys/fs/cgroup cannot be entered: Permission denied"


def described(pid: int) -> tuple[ProcessFacts, str]:
    try:
        cgroup.facts(pid)
    except Unavailable as error:
        return process.facts(pid, started(pid)), str(error)
    raise AssertionError("the cgroup of another user could be read")


def test_a_process_that_has_gone() -> None:
    with subprocess.Popen(("true",)) as gone:
        gone.wait()
    with pytest.raises(Unavailable, match="it has gone"):
        process.facts(gone.pid, 1)


def test_a_process_that_nobody_has_waited_for() -> None:
    with subprocess.Popen(("true",)) as ended:
        until(lambda: stat("/proc", ended.pid).state == "Z", "its end")
        facts = process.facts(ended.pid, started(ended.pid))
    assert (facts.comm, facts.state, facts.threads) == ("true", "a zombie", 1)
    assert facts.resident == 0


def test_a_process_that_goes_while_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read of it may be of two processes, or half of one."""
    with subprocess.Popen(("sleep", "60")) as sleeping:

        def end(pid: int, notes: list[str]) -> ContainerName:
            sleeping.kill()
            sleeping.wait()
            return ContainerName()

        monkeypatch.setattr(process, "container", end)
        with pytest.raises(Unavailable, match="it went while it was looked at"):
            process.facts(sleeping.pid, started(sleeping.pid))


def test_a_number_given_to_another() -> None:
    with pytest.raises(Unavailable, match="another process has its number now"):
        process.facts(os.getpid(), started(os.getpid()) - 1)


MOUNTINFO = (
    b"1 2 0:3 / / rw - overlay overlay rw\n"
    b"4 1 8:1 /var/lib/kubelet/pods/0b2e8a3c-94d1-4d5e-9a7e-2f8b0c8d7e11/containers/shop/5f3a9c1d"
    b" /dev/termination-log rw - ext4 /dev/sda1 rw\n"
)


def test_which_container(tmp_path: Path) -> None:
    """kubelet binds its file for the last words; the runtime names the cgroup by the id."""
    mount = process.CONTAINER.search(MOUNTINFO.splitlines()[1].split(b" ", 4)[3])
    assert mount
    assert mount.groups() == (b"0b2e8a3c-94d1-4d5e-9a7e-2f8b0c8d7e11", b"shop")
    assert not process.CONTAINER.search(MOUNTINFO.splitlines()[0].split(b" ", 4)[3])
    identity = b"c" * 64
    for path in (b"0::/../cri-containerd-%s.scope\n", b"0::/kubepods/pod1/%s\n"):
        found = process.CONTAINER_ID.search(path % identity)
        assert found
        assert found[1] == identity
    assert not process.CONTAINER_ID.search(b"0::/system.slice/ssh.service\n")


def test_a_bound_termination_log(tmp_path: Path) -> None:
    """The same, from a real mount table."""
    source = tmp_path / "pods/0b2e8a3c/containers/shop/5f3a9c1d"
    source.parent.mkdir(parents=True)
    source.touch()
    target = tmp_path / "termination-log"
    target.touch()
    bind = f"mount --bind {source} {target} && {HOLD}"
    with program("unshare", "--mount", "sh", "-c", bind) as contained:
        found = process.facts(contained.pid, started(contained.pid)).container
        assert (found.name, found.pod) == ("shop", "0b2e8a3c")


HOLD = "echo ready && read line"


# --- the container's cgroup


@pytest.fixture
def own_cgroup() -> Iterator[Path]:
    """A new group in the node's cgroup v2 tree, wherever that is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            group = Path(before.split()[4]) / f"probe-test-{os.getpid()}"
            break
    else:
        pytest.skip("no cgroup v2 is mounted here")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no right to make a cgroup: {error}")
    yield group
    until(lambda: not (group / "cgroup.procs").read_text(), "the end of its processes")
    group.rmdir()


def test_a_frozen_container(own_cgroup: Path) -> None:
    """With a cgroup namespace and a mount of its own, as a container runtime does it."""
    bind = f"mount --bind {own_cgroup} /sys/fs/cgroup"
    inside = f"{bind} && {HOLD}"
    enter = f"echo $$ > {own_cgroup}/cgroup.procs && exec unshare --mount --cgroup sh -c '{inside}'"
    with program("sh", "-c", enter) as contained:
        facts = cgroup.facts(contained.pid)
        assert facts.frozen is False
        assert facts.cpu_seconds is not None
        assert 0 < facts.cpu_seconds < 10
        assert {one.resource for one in facts.pressure} == {"cpu", "memory", "io"}
        (own_cgroup / "cgroup.freeze").write_text("1")
        until(lambda: cgroup.facts(contained.pid).frozen is True, "the frost")
        (own_cgroup / "cgroup.freeze").write_text("0")


def test_a_service_in_our_own_cgroup_namespace(own_cgroup: Path) -> None:
    """Without a namespace its mount shows the top of the tree, and its own group is below."""
    mount = f"mount --bind {own_cgroup.parent} /sys/fs/cgroup"
    inside = f"{mount} && {HOLD}"
    enter = f"echo $$ > {own_cgroup}/cgroup.procs && exec unshare --mount sh -c '{inside}'"
    with program("sh", "-c", enter) as contained:
        assert cgroup.own_path(contained.pid) == f"/{own_cgroup.name}"
        assert cgroup.facts(contained.pid).frozen is False  # the top has no cgroup.events


def test_all_files_of_a_cgroup(tmp_path: Path) -> None:
    files = {
        "cgroup.controllers": "cpu memory pids\n",
        "cpu.stat": (
            "usage_usec 12500000\nnr_periods 400\nnr_throttled 100\nthrottled_usec 5000000\n"
        ),
        "memory.current": "104857600\n",
        "memory.max": "max\n",
        "memory.events": "low 0\noom 2\noom_kill 1\n",
        "pids.current": "41\n",
        "pids.max": "512\n",
        "cgroup.events": "populated 1\nfrozen 0\n",
        "cpu.pressure": "some avg10=1.50 avg60=0.50 avg300=0.10 total=1\nfull avg10=0.00",
        "memory.pressure": "rubbish",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "io.pressure").symlink_to("/proc/pressure/io")
    directory = os.open(tmp_path, os.O_PATH)
    try:
        facts = cgroup.describe(directory)
    finally:
        os.close(directory)
    assert facts == CgroupFacts(
        cpu_seconds=12.5,
        periods=400,
        throttled=100,
        throttled_seconds=5.0,
        memory=100 << 20,
        memory_limit=None,
        memory_events=(("low", 0), ("oom", 2), ("oom_kill", 1)),
        pids=41,
        pids_limit=512,
        frozen=False,
        pressure=(Pressure("cpu", 1.5, 0.5, 0.1),),
    )


# --- reading


@pytest.mark.parametrize("trap", ["fifo", "symlink", "directory", "device"])
def test_traps_are_not_read(tmp_path: Path, trap: str) -> None:
    path = tmp_path / "cpu.stat"
    match trap:
        case "fifo":
            os.mkfifo(path)
        case "symlink":
            path.symlink_to("/etc/passwd")
        case "directory":
            path.mkdir()
        case "device":
            path = Path("/dev/zero")
    with pytest.raises(Unavailable):
        read(str(path))


def test_no_more_is_read_than_allowed(tmp_path: Path) -> None:
    path = tmp_path / "endless"
    path.write_bytes(bytes(1 << 20))
    assert len(read(str(path), 100_000)) == 100_000


# --- the network


def test_queued_connections_by_age(view: KernelView) -> None:
    with server("accept", PORT) as application:
        assert application.tell("break") == "break"
        with queued(view, PORT, 3), ExitStack() as stack:
            left = stack.enter_context(socket.create_connection(("127.0.0.1", PORT)))
            left.close()
            until(
                lambda: sum(one.state == 8 for one in view.connections(PORT)) == 1, "a CLOSE_WAIT"
            )
            seen = network.summarise(view.connections(PORT), redact=False)
    states = {one.state: (one.connections, one.queued) for one in seen.states}
    assert states["ESTABLISHED"] == (3, 3)
    assert seen.ended == 1
    assert len(seen.queued) == 4
    ages = [peer.queued_for for peer in seen.queued]
    assert None not in ages
    assert ages == sorted(ages, reverse=True, key=lambda age: age or 0)
    assert all(peer.remote.startswith("127.0.0.1:") for peer in seen.queued)
    assert seen.silent == ()


def test_a_client_that_is_accepted_and_never_answered(view: KernelView) -> None:
    with socket.create_server(("127.0.0.1", PORT)) as listener:
        with socket.create_connection(("127.0.0.1", PORT)) as client:
            accepted, _ = listener.accept()
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            until(lambda: bool(accepted.recv(100, socket.MSG_PEEK)), "the request")
            seen = network.summarise(view.connections(PORT), redact=True)
            assert [(one.state, one.remote, one.unread) for one in seen.silent] == [
                ("ESTABLISHED", "", 18)
            ]
            accepted.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
            client.recv(100)
            assert network.summarise(view.connections(PORT), redact=True).silent == ()
        until(lambda: network.summarise(view.connections(PORT), redact=True).unclosed == 1, "FIN")
        accepted.close()


def test_counters_that_rise() -> None:
    before = network.counters()
    assert before["PassiveOpens"] == 0  # of this namespace, not the node's
    with (
        socket.create_server(("127.0.0.1", PORT), backlog=0) as listener,
        socket.create_connection(listener.getsockname()),
        ExitStack() as stack,
    ):
        late = stack.enter_context(socket.socket())
        late.setblocking(False)
        late.connect_ex(listener.getsockname())
        until(lambda: network.counters()["ListenOverflows"] > 0, "an overflow")
    rises = {one.name: one for one in network.changes(before, network.counters(), before)}
    assert rises["PassiveOpens"].during == 1
    assert rises["ListenOverflows"].since_healthy == rises["ListenOverflows"].value
    assert "TCPAbortOnMemory" not in rises


def test_sysctls() -> None:
    found = dict(network.sysctls())
    assert found["net.core.somaxconn"].isdecimal()
    assert found["net.ipv4.tcp_abort_on_overflow"] == "0"
