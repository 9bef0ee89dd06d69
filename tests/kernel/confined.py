"""A process that gives up what it may do, and then asks the kernel: run by test_circumstances.py.

Prints one line of JSON: what it kept, which view it was given and what that said.
"""

import argparse
import ctypes
import json
import os
import platform
import re
import struct
from collections.abc import Callable

from probe.kernel import CannotTell, open_view, procfs, sockdiag

__all__ = ["procfs", "sockdiag"]  # loaded before the file system may be out of reach

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
PR_SET_NO_NEW_PRIVS = 38
CAPABILITY_VERSION_3 = 0x20080522
AF_NETLINK, NETLINK_SOCK_DIAG = 16, 4
SYS_SOCKET = {"x86_64": 41, "aarch64": 198, "riscv64": 198}

LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
NUMBER, FIRST, THIRD = 0, 16, 32
"""Where seccomp_data has the number of the call, and its first and third argument."""

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def refuse_sock_diag(number: int) -> None:
    """Have socket(AF_NETLINK, *, NETLINK_SOCK_DIAG) fail with this errno, and nothing else."""
    code = (
        (LOAD_WORD, 0, 0, NUMBER),
        (JUMP_IF_EQUAL, 0, 5, SYS_SOCKET[platform.machine()]),
        (LOAD_WORD, 0, 0, FIRST),
        (JUMP_IF_EQUAL, 0, 3, AF_NETLINK),
        (LOAD_WORD, 0, 0, THIRD),
        (JUMP_IF_EQUAL, 0, 1, NETLINK_SOCK_DIAG),
        (RETURN, 0, 0, ERRNO | number),
        (RETURN, 0, 0, ALLOW),
    )
    instructions = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in code))
    program = struct.pack("@HP", len(code), ctypes.addressof(instructions))
    checked(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0))


def drop_capabilities() -> None:
    checked(libc.capset(struct.pack("=Ii", CAPABILITY_VERSION_3, 0), bytes(24)))


def kept(status: int) -> dict[str, int]:
    """What /proc/self/status, opened as this descriptor, says of the process by now."""
    text = os.pread(status, 1 << 16, 0).decode()
    capabilities, no_new_privs, seccomp = (
        int(re.search(rf"^{key}:\s*(\w+)$", text, re.MULTILINE)[1], 16)  # type: ignore[index]
        for key in ("CapEff", "NoNewPrivs", "Seccomp")
    )
    return {
        "uid": os.geteuid(),
        "capabilities": capabilities,
        "no_new_privs": no_new_privs,
        "seccomp": seccomp,
    }


def attempt(ask: Callable[[], object]) -> object:
    try:
        return ask()
    except CannotTell as error:
        return f"{type(error).__name__}: {error}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--client", type=int, required=True)
    parser.add_argument("--uid", type=int)
    parser.add_argument("--errno", type=int)
    parser.add_argument("--chroot")
    parser.add_argument("--walk", action="store_true")
    options = parser.parse_args()

    status = os.open("/proc/self/status", os.O_RDONLY)
    checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if options.errno is not None:
        refuse_sock_diag(options.errno)
    if options.chroot is not None:
        os.chroot(options.chroot)
    if options.uid is not None:
        os.setgroups([])
        os.setgid(options.uid)
        os.setuid(options.uid)
    drop_capabilities()

    view = open_view(walk=options.walk)
    here, there = ("127.0.0.1", options.port), ("127.0.0.1", options.client)
    said: dict[str, object] = {
        "kept": kept(status),
        "view": view.name,
        "listeners": attempt(lambda: [one._asdict() for one in view.listeners(options.port)]),
        "lookup": attempt(lambda: (found := view.lookup(there, here)) and found._asdict()),
        "queued": attempt(lambda: [one._asdict() for one in view.queued(options.port)]),
        "head": attempt(lambda: [one._asdict() for one in view.head(options.port)]),
        "connections": attempt(lambda: [one._asdict() for one in view.connections(options.port)]),
    }
    view.close()
    print(json.dumps(said))


if __name__ == "__main__":
    main()
