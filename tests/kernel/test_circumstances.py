"""The view that a process gets which may do little, or is not where it was."""

import errno
import json
import os
import resource
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from probe.kernel import CannotTell, KernelError, KernelView, Refused, open_view, sockdiag
from probe.kernel.procfs import Counters, ProcNet
from probe.kernel.sockdiag import SockDiag, connect
from tests.conftest import move
from tests.kernel.conftest import Sockets, name
from tests.support import until_equal

NOBODY = 65534


def confined(*options: object) -> Any:
    command = [sys.executable, "-m", "tests.kernel.confined", *map(str, options)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)


@pytest.fixture
def ends(view: SockDiag, sockets: Sockets) -> tuple[str, str]:
    """A connection in an accept queue, as options for the confined process."""
    listener = sockets.listen()
    client = sockets.connect(*name(listener))
    until_equal(lambda: len(view.queued(name(listener)[1])), 1)
    return f"--port={name(listener)[1]}", f"--client={name(client)[1]}"


def needs_uid(uid: int) -> None:
    mapped = [
        map(int, line.split()) for line in Path("/proc/self/uid_map").read_text().splitlines()
    ]
    if not any(first <= uid < first + count for first, _, count in mapped):
        pytest.skip(f"uid {uid} does not exist in this user namespace")


@pytest.mark.parametrize("uid", [None, NOBODY])
def test_no_privilege_is_needed(ends: tuple[str, str], uid: int | None) -> None:
    if uid is not None:
        needs_uid(uid)
    said = confined(*ends, *([] if uid is None else ["--uid", uid]))
    assert said["kept"] == {
        "uid": os.getuid() if uid is None else uid,
        "capabilities": 0,
        "no_new_privs": 1,
        "seccomp": 0,
    }
    assert said["view"] == "sock_diag"
    (listener,) = said["listeners"]
    assert (listener["length"], listener["limit"], listener["drops"]) == (1, 5, 0)
    (child,) = said["connections"]
    assert (child["state"], child["inode"]) == (1, 0)
    assert said["lookup"]["cookie"] == said["queued"][0]["cookie"] == child["cookie"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL])
def test_where_seccomp_refuses_there_is_proc(ends: tuple[str, str], number: int) -> None:
    said = confined(*ends, "--errno", number)
    assert said["kept"]["seccomp"] == 2
    assert said["view"] == "procfs"
    (listener,) = said["listeners"]
    assert (listener["length"], listener["limit"], listener["drops"]) == (1, None, None)
    (child,) = said["connections"]
    assert (child["state"], child["inode"]) == (1, 0)
    assert said["lookup"].startswith("CannotTell: ")
    assert said["queued"].startswith("CannotTell: ")


def test_a_lookup_in_proc_is_given_to_who_pays(ends: tuple[str, str]) -> None:
    said = confined(*ends, "--errno", errno.EPERM, "--walk")
    assert said["view"] == "procfs"
    assert [said["lookup"]] == said["connections"]


def test_where_nothing_can_be_read_nothing_is_said(ends: tuple[str, str], tmp_path: Path) -> None:
    said = confined(*ends, "--errno", errno.EPERM, "--chroot", tmp_path)
    assert said["view"] == "nowhere"
    reason = (
        "Refused: sock_diag: Operation not permitted; "
        "/proc/thread-self/net/snmp: No such file or directory"
    )
    for question in ("listeners", "lookup", "queued", "head", "connections"):
        assert said[question] == reason


def test_a_shortage_is_no_refusal() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(KernelError) as caught:
            open_view()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE


def descriptors() -> dict[int, bool]:
    """Every open descriptor, and whether a program started from here would inherit it."""
    found = {}
    for number in range(1024):
        with suppress(OSError):
            found[number] = os.get_inheritable(number)
    return found


@pytest.mark.parametrize("kind", [SockDiag, ProcNet, Counters])
def test_descriptors_are_given_back_and_never_inherited(
    kind: type[SockDiag | ProcNet | Counters],
) -> None:
    before = descriptors()
    held = kind()
    new = {number: passed for number, passed in descriptors().items() if number not in before}
    assert new
    assert not any(new.values())
    if isinstance(held, SockDiag | ProcNet):
        held.listeners()
        held.connections(1)
    held.close()
    held.close()
    assert descriptors() == before


def test_a_socket_that_cannot_be_set_up_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    monkeypatch.setattr(sockdiag, "TIMEOUT", -1)
    with pytest.raises(Refused, match=f"^sock_diag: {os.strerror(errno.EDOM)}$"):
        SockDiag()
    assert descriptors() == before


def test_a_closed_view_of_proc_does_not_say_that_there_is_nothing() -> None:
    view, counters = ProcNet(), Counters()
    view.close()
    counters.close()
    for ask in (view.listeners, lambda: view.connections(1), counters.read):
        with pytest.raises(CannotTell):
            ask()


def test_a_view_stays_with_its_namespace(sockets: Sockets) -> None:
    port = name(sockets.listen())[1]
    views: tuple[KernelView, ...] = (SockDiag(), ProcNet())
    counters = Counters()
    before = counters.read()
    move()
    elsewhere = sockets.listen()
    sockets.connect(*name(elsewhere))
    for view in views:
        with closing(view), closing(type(view)()) as here:
            assert [one.port for one in view.listeners()] == [port]
            assert [one.port for one in here.listeners()] == [name(elsewhere)[1]]
    assert counters.read() == before
    counters.close()


def test_a_view_is_of_the_namespace_of_its_thread(sockets: Sockets) -> None:
    here = name(sockets.listen())[1]

    def elsewhere() -> None:
        move()
        there = name(sockets.listen())[1]
        for kind in (SockDiag, ProcNet):
            with closing(kind()) as view:
                assert [one.port for one in view.listeners()] == [there]

    with ThreadPoolExecutor(1) as pool:
        pool.submit(elsewhere).result()
    for kind in (SockDiag, ProcNet):
        with closing(kind()) as view:
            assert [one.port for one in view.listeners()] == [here]


FORK = """
import os, sys
from probe.kernel import open_view
view, port = open_view(), int(sys.argv[1])
child = os.fork()
for _ in range(1000):
    assert len(view.listeners(port)) == 1
    assert view.listeners(1) == ()
view.close()
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_child_has_a_conversation_of_its_own(sockets: Sockets) -> None:
    port = name(sockets.listen())[1]
    subprocess.run([sys.executable, "-W", "error", "-c", FORK, str(port)], check=True, timeout=60)


def test_nobody_but_the_kernel_is_heard() -> None:
    with closing(connect()) as ours, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as rogue:
        address = ours.getsockname()
        with pytest.raises(ConnectionRefusedError):
            rogue.sendto(b"a forged answer", address)


def test_a_report_in_a_thread_leaves_the_sampling_alone(view: SockDiag, sockets: Sockets) -> None:
    listener = sockets.listen()
    client = sockets.connect(*name(listener))
    port = name(listener)[1]
    until_equal(lambda: len(view.queued(port)), 1)
    with ThreadPoolExecutor(1) as pool:
        reports = pool.submit(lambda: [len(view.queued(port)) for _ in range(50)])
        samples = 0
        while not reports.done():
            assert len(view.listeners(port)) == 1
            assert view.lookup(name(client), name(listener)) is not None
            samples += 1
    assert reports.result() == [1] * 50
    assert samples > 0
