"""Single readings: the lines of /proc, the flags of epoll entries, the numbers of system calls."""

import ctypes
import os
import re
import select
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.display import printable
from probe.evidence.acceptors import syscalls
from probe.evidence.acceptors.threads import parse_syscall
from probe.evidence.acceptors.waits import entry_decides
from probe.evidence.proc.tasks import numbers, parse_stat, read, read_once
from probe.evidence.records.audit import ThreadState

IN, ERR, HUP = select.EPOLLIN, select.EPOLLERR, select.EPOLLHUP
ALWAYS = ERR | HUP
NAMES = syscalls.table("x86_64")


@pytest.mark.parametrize(
    ("events", "decided"),
    [
        (IN | ALWAYS, ThreadState.WAITING),
        (select.EPOLLRDNORM | ALWAYS, ThreadState.WAITING),
        (IN | ALWAYS | select.EPOLLEXCLUSIVE, ThreadState.WAITING),
        (IN | ALWAYS | select.EPOLLONESHOT, ThreadState.WAITING),
        (select.EPOLLONESHOT, ThreadState.NOT_WAITING),
        (select.EPOLLONESHOT | select.EPOLLET, ThreadState.NOT_WAITING),
        (IN | ALWAYS | select.EPOLLET, ThreadState.WATCHING),
        (IN | ALWAYS | select.EPOLLET | select.EPOLLONESHOT, ThreadState.WATCHING),
        (select.EPOLLOUT | ALWAYS, ThreadState.NOT_WAITING),
        (ALWAYS, ThreadState.NOT_WAITING),
    ],
)
def test_an_epoll_entry(events: int, decided: ThreadState) -> None:
    assert entry_decides(events).decided is decided


def test_a_line_of_syscall() -> None:
    line = b"288 0x3 0x0 0x0 0x80800 0x0 0x0 0x7ffd00000000 0x7f0000000000\n"
    assert parse_syscall(line, NAMES) == ("accept4", (3, 0, 0, 0x80800, 0, 0), "")
    assert parse_syscall(line.replace(b"288", b"999"), NAMES)[0] == "999"
    assert parse_syscall(b"running\n", NAMES) == ("running", (), "")
    assert parse_syscall(b"-1 0x7ffd00000000 0x7f0000000000\n", NAMES) == ("running", (), "")


def test_a_line_of_syscall_that_cannot_be_decided() -> None:
    line = b"288 0x3 0x0 0x0 0x80800 0x0 0x0 0xffd00000 0x7f000000\n"
    assert "32-bit" in parse_syscall(line, NAMES)[2]
    line = b"288 0x3 0x0 0x0 0x80800 0x0 0x0 0x7ffd00000000 0x7f0000000000\n"
    assert "architecture" in parse_syscall(line, syscalls.table("riscv64"))[2]
    assert "resumes" in parse_syscall(line.replace(b"288", b"219"), NAMES)[2]
    arm = syscalls.table("aarch64")
    assert "resumes" in parse_syscall(line.replace(b"288", b"128"), arm)[2]


@pytest.mark.parametrize(
    ("machine", "header"), [("x86_64", "asm/unistd_64.h"), ("aarch64", "asm-generic/unistd.h")]
)
def test_the_numbers_are_those_of_the_kernels_headers(machine: str, header: str) -> None:
    compiled = subprocess.run(
        ["cpp", "-dM", f"-include{header}"],
        input="#define __BITS_PER_LONG 64\n", capture_output=True, text=True, check=False,
    ) if Path("/usr/include/asm-generic/unistd.h").exists() else None  # fmt: skip
    if compiled is None or compiled.returncode:
        pytest.skip("the kernel's headers (linux-libc-dev) and cpp are not here")
    known = dict(re.findall(r"#define __NR3?_?(\w+) (\d+)\b", compiled.stdout))
    table = syscalls.table(machine)
    assert table is not None
    for number, name in table.items():
        if name in known:  # the headers may be older than the newest calls
            assert int(known[name]) == number, name
    assert len(known.keys() & set(table.values())) > 35


@given(st.text(max_size=15))
def test_a_name_can_hold_anything(name: str) -> None:
    fields = " ".join(str(number) for number in range(4, 53))
    seen = parse_stat(b"7 (" + name.encode() + b") S 1 " + fields.encode())
    assert (seen.name, seen.state, seen.parent) == (printable(name), "S", 1)
    assert seen.start_time == 21


def test_a_thread_that_calls_itself_like_a_line_of_stat() -> None:
    libc, done, named = ctypes.CDLL(None), threading.Event(), threading.Event()

    def run() -> None:
        libc.prctl(15, b"x) Z 1 (y")
        named.set()
        done.wait()

    thread = threading.Thread(target=run)
    thread.start()
    named.wait()
    seen = parse_stat(read_once(f"/proc/self/task/{thread.native_id}/stat"))
    done.set()
    thread.join()
    assert (seen.name, seen.parent) == ("x) Z 1 (y", os.getppid())
    assert seen.state in "RS"


def test_what_proc_gives_a_page_at_a_time_is_read_whole() -> None:
    whole = Path("/proc/self/maps").read_bytes()
    assert len(whole) > 4096
    assert abs(len(read("/proc/self/maps", 1 << 24)) - len(whole)) < 4096
    assert len(read("/proc/self/maps", 5000)) == 5000
    assert threading.get_native_id() in numbers("/proc/self/task")
