"""The self-test: which evidence this pod will allow, and what to change in its manifest if not.

Everything is tried on the application itself, as an audit will do it; only the reasons are worked
out, by the rules of ptrace(2), "Ptrace access mode checking".
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress

from probe.display import plural
from probe.evidence.acceptors import syscalls
from probe.evidence.acceptors.owners import Holders, Owners
from probe.evidence.collectors import jvm, pyspy
from probe.evidence.proc.files import Unavailable
from probe.evidence.proc.tasks import Credentials, Gone, identity, living_threads, read_once
from probe.evidence.records.audit import Access, AccessKind, Owner
from probe.model import Listener

SAME_USER = "give both containers the same securityContext: runAsUser: {0}, runAsGroup: {1}"
DROP_ALL = "give the application's container securityContext.capabilities.drop: [ALL]"
SHARE = "set shareProcessNamespace: true in the pod's spec"
TMP = "/tmp"  # noqa: S108 - the application's, where a JVM has its attach socket
WRITABLE_TMP = "mount a writable emptyDir at /tmp of the application's container"
NO_SWITCH = "start the application as its user, instead of having it change to that user itself"
YAMA = "kernel.yama.ptrace_scope is {0} on the node; where it is 0, this can be read"


def self_test(
    listeners: Sequence[Listener], *, share: str = SHARE, proc: str = "/proc"
) -> tuple[Access, ...]:
    """A line for each kind of evidence about whoever holds these listeners.

    Of several processes it is the first that is looked at. () when nothing listens yet. `share` is
    what to change where no process is in sight that holds a listener.
    """
    if not listeners:
        return ()
    holders = Owners(proc).find(listener.inode for listener in listeners)
    ours = identity(proc, "self")
    owners = [owner for listener in listeners for owner in holders.owners[listener.inode]]
    if not owners:
        return _nobody(listeners[0], holders, ours, share, proc)
    try:
        return _somebody(owners[0], ours, proc)
    except Gone:
        who = f"process {owners[0].pid} `{owners[0].comm}`"
        return (Access(AccessKind.PROCESS_NAMESPACE, True, f"{who} ended while it was looked at"),)


def _nobody(
    listener: Listener, holders: Holders, ours: Credentials, share: str, proc: str
) -> tuple[Access, ...]:
    """No owner: either its process is out of sight, or its descriptors may not be read."""
    name = AccessKind.PROCESS_NAMESPACE
    unreadable = holders.unreadable
    if not unreadable:
        return (Access(name, False, "no process in sight holds the listener", share),)
    others = plural(len(unreadable), "process of others is", "processes of others are")
    visible = Access(name, True, f"{others} in sight")
    why = f"no process that can be read holds the listener, which uid {listener.uid} made"
    change = SAME_USER.format("UID", "GID")
    for suspect in unreadable:
        if suspect.uid == listener.uid:
            with suppress(*Gone):
                reason, change = hindrance(ours, identity(proc, suspect.pid))
                who = f"process {suspect.pid} `{suspect.name}`, which may hold the listener"
                why = f"{who}, cannot be read: {reason}"
                break
    return visible, Access(AccessKind.OWNER, False, why, change)


def _somebody(owner: Owner, ours: Credentials, proc: str) -> tuple[Access, ...]:
    who = f"process {owner.pid} `{owner.comm}`"
    theirs = identity(proc, owner.pid)
    task = f"{proc}/{owner.pid}/task/{living_threads(proc, owner.pid)[0]}"
    lines = [
        Access(AccessKind.PROCESS_NAMESPACE, True, f"{who} is in sight"),
        Access(AccessKind.OWNER, True, f"{who} holds it"),
        _identity(ours, theirs),
    ]

    def attempt(name: AccessKind, what: Callable[[], object]) -> bool:
        try:
            what()
        except Gone:
            raise
        except OSError as error:
            why, change = _attachment(ours, theirs, proc)
            lines.append(Access(name, False, f"{error.strerror}: {why}", change))
            return False
        lines.append(Access(name, True, f"of {who} can be read"))
        return True

    if syscalls.table() is None:
        machine = os.uname().machine
        lines.append(
            Access(AccessKind.SYSTEM_CALLS, False, f"their numbers on {machine} are not known")
        )
    else:
        attempt(AccessKind.SYSTEM_CALLS, lambda: read_once(f"{task}/syscall"))
    memory = f"{task}/mem"
    readable = attempt(AccessKind.POLL_SETS, lambda: os.close(os.open(memory, os.O_RDONLY)))
    attempt(AccessKind.EPOLL, lambda: read_once(f"{task}/fdinfo/{owner.fds[0]}"))
    of_language = _jvm(owner, who, ours, theirs), _python(owner, who, readable)
    found = (*lines, *(line for line in of_language if line))
    if all(line.available for line in found if line.name in OF_THE_KERNEL):
        # Nothing is kept back, from root, say: to be the same user would add nothing.
        return tuple(
            line for line in found if line.name is not AccessKind.SAME_USER or line.available
        )
    return found


OF_THE_KERNEL = frozenset({AccessKind.SYSTEM_CALLS, AccessKind.POLL_SETS, AccessKind.EPOLL})
"""What the kernel shows to the same user and group, and to whom it lets look into everything."""


def _identity(ours: Credentials, theirs: Credentials) -> Access:
    name = AccessKind.SAME_USER
    us = f"{ours.uids[1]}:{ours.gids[1]}"
    them = f"{theirs.uids[1]}:{theirs.gids[1]}"
    if us == them:
        return Access(name, True, f"both run as {us}")
    change = SAME_USER.format(theirs.uids[1], theirs.gids[1])
    return Access(name, False, f"it runs as {them}, this one as {us}", change)


def hindrance(ours: Credentials, theirs: Credentials) -> tuple[str, str]:
    """Why the kernel lets us not look into a process, and what to change, by ptrace(2)."""
    user, group = ours.uids[3], ours.gids[3]
    if set(theirs.uids[:3]) != {user} or set(theirs.gids[:3]) != {group}:
        them, us = f"{theirs.uids[1]}:{theirs.gids[1]}", f"{user}:{group}"
        change = SAME_USER.format(theirs.uids[1], theirs.gids[1])
        return f"it runs as {them}, this one as {us}", change
    if theirs.permitted & ~ours.effective:
        return "it holds capabilities that this process does not", DROP_ALL
    return "it has changed its user since its start, or forbids it (PR_SET_DUMPABLE)", NO_SWITCH


def _attachment(ours: Credentials, theirs: Credentials, proc: str) -> tuple[str, str]:
    """Why a process whose descriptors can be read does not let us read more."""
    scope = yama(proc)
    if scope:
        return "Yama restricts ptrace", YAMA.format(scope)
    if theirs.permitted & ~ours.effective:
        return "it holds capabilities that this process does not", DROP_ALL
    return "a security module of the node forbids it", ""


def yama(proc: str = "/proc") -> int:
    """kernel.yama.ptrace_scope: from 1 on, only a parent may read system calls and memory."""
    try:
        return int(read_once(f"{proc}/sys/kernel/yama/ptrace_scope"))
    except OSError:
        return 0


def _jvm(owner: Owner, who: str, ours: Credentials, theirs: Credentials) -> Access | None:
    """A line only for what is a JVM, which answers nobody but its own user and group, and root."""
    name = AccessKind.JVM_DUMP
    try:
        if not jvm.is_hotspot(owner.pid):
            return None
    except Unavailable as why:
        return Access(name, False, str(why)) if owner.comm == "java" else None
    if ours.uids[1] and (ours.uids[1], ours.gids[1]) != (theirs.uids[1], theirs.gids[1]):
        change = SAME_USER.format(theirs.uids[1], theirs.gids[1])
        return Access(name, False, "a JVM answers its own user and group only", change)
    if not os.access(f"/proc/{owner.pid}/root{TMP}", os.W_OK | os.X_OK, effective_ids=True):
        return Access(name, False, f"{TMP} of {who} cannot be written", WRITABLE_TMP)
    return Access(name, True, f"{who} is a HotSpot JVM, whose {TMP} can be written")


def _python(owner: Owner, who: str, readable: bool) -> Access | None:
    """A line only for what is a Python program."""
    name = AccessKind.PYTHON_STACKS
    try:
        if not pyspy.is_python(owner.pid):
            return None
        pyspy.executable()
    except Unavailable as why:
        change = "use the image with py-spy, or install accept-probe[py-spy]"
        return Access(name, False, str(why), change)
    if not readable:
        return Access(name, False, f"the memory of {who} cannot be read")
    return Access(name, True, f"py-spy is here, and {who} runs Python")
