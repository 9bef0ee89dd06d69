"""What the kernel says about listeners and connections, apart from what it will not say.

`open_view()` picks the best source there is: `sock_diag`, or /proc where that is refused. An empty
answer means that there is nothing; that nothing could be seen is always a CannotTell.

Every answer is of one network namespace: who moves to another opens another view.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from probe.imports.typing_lite import Protocol
from probe.model import Accepted, Connection, Listener


class CannotTell(Exception):
    """The kernel could not be asked, or its answer cannot be trusted. The text is one line."""


class Refused(CannotTell):
    """It will not answer this process at all: no permission, seccomp, no such facility, gVisor."""


class Interrupted(CannotTell):
    """The answer was late, cut short, garbled, or changed while it was being given."""


class Crowded(CannotTell):
    """There are more listeners than were asked for at most."""

    def __init__(self, most: int) -> None:
        super().__init__(f"there are more than {most} listeners in this network namespace")


class KernelError(CannotTell):
    """The kernel answered with an error that is no refusal; `errno` tells which."""

    def __init__(self, reason: str, number: int) -> None:
        super().__init__(reason)
        self.errno = number


def denial(what: str, number: int) -> CannotTell:
    """Why `what` could not be opened. A shortage passes; anything else is there to stay, and may
    be any errno at all, since a seccomp profile chooses its own.
    """
    reason = f"{what}: {os.strerror(number)}"
    if number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
        return KernelError(reason, number)
    return Refused(reason)


class KernelView(Protocol):
    """A source of truth about the sockets of one network namespace.

    `listeners` and `lookup` are for one thread. The walks of the whole connection table (`queued`,
    `head`, `connections`, `accepted`: 12 to 64 ms of CPU time on a busy node) may be made in
    another, for a report or on a suspicion, never for every sample. Every method may raise
    CannotTell.
    """

    @property
    def name(self) -> str:
        """Where the answers come from: sock_diag, procfs or nowhere."""

    def listeners(
        self, port: int | None = None, *, most: int | None = None
    ) -> tuple[Listener, ...]:
        """Every LISTEN socket of a port, or of all ports; () means that there is none.

        Each member of a SO_REUSEPORT group is a row of its own. Raises Crowded where there are
        more than `most`, as soon as so many are read.
        """

    def lookup(self, client: tuple[str, int], server: tuple[str, int]) -> Connection | None:
        """The server's side of one TCP connection, told by both of its ends.

        Where no such connection exists but a listener would take it, the kernel gives the
        listener: a Connection in state 10 (LISTEN) whose rqueue and wqueue are the length and the
        limit of its accept queue. None: neither exists.

        Both hosts are numeric addresses of one family, as getsockname() gives them; a link-local
        server with its zone, as listeners() gives it. In rqueue a FIN counts as a byte; of a
        connection over MPTCP it is 0, whether the application has read or not.
        """

    def queued(self, port: int, hosts: tuple[str, ...] = ()) -> tuple[Connection, ...]:
        """The connections in the accept queue of a port, the oldest first, as far as ages tell.

        With `hosts`, here and below, those alone that belong to the listeners that these addresses
        reach (see `hosts.belonging`).
        """

    def head(
        self, port: int, hosts: tuple[str, ...] = (), *, presumed: bool = False
    ) -> tuple[Connection, ...]:
        """Those in the accept queue of which one is its head: ages do not tell them apart.

        A queue is first in, first out: while all of them are still queued, which exact lookups
        tell, nothing was accepted from it. That one of them is proves nothing.

        A connection that its client has reset stays in the queue but is not to be seen. While
        there are such, one of them may be the head: () then, or the oldest to be seen if that
        will do as `presumed` head.
        """

    def connections(self, port: int, hosts: tuple[str, ...] = ()) -> tuple[Connection, ...]:
        """Every connection to a port, the server's side, in any state."""

    def accepted(self, port: int, hosts: tuple[str, ...] = ()) -> Iterator[Accepted]:
        """Those that a process holds a descriptor of, one at a time; `hosts` as above.

        For tens of thousands of them: nothing is kept (4 us of CPU time each). A CannotTell may
        come at any of them; what came before it is then worth nothing.
        """

    def close(self) -> None:
        """Give back what the view holds; a second time does nothing."""


class Blind:
    """The view where neither sock_diag nor /proc can be read: it says so, whatever is asked."""

    name = "nowhere"

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def listeners(
        self, port: int | None = None, *, most: int | None = None
    ) -> tuple[Listener, ...]:
        raise Refused(self._reason)

    def lookup(self, client: tuple[str, int], server: tuple[str, int]) -> Connection | None:
        raise Refused(self._reason)

    def queued(self, port: int, hosts: tuple[str, ...] = ()) -> tuple[Connection, ...]:
        raise Refused(self._reason)

    def head(
        self, port: int, hosts: tuple[str, ...] = (), *, presumed: bool = False
    ) -> tuple[Connection, ...]:
        raise Refused(self._reason)

    def connections(self, port: int, hosts: tuple[str, ...] = ()) -> tuple[Connection, ...]:
        raise Refused(self._reason)

    def accepted(self, port: int, hosts: tuple[str, ...] = ()) -> Iterator[Accepted]:
        raise Refused(self._reason)

    def close(self) -> None:
        pass


def open_view(*, walk: bool = False) -> KernelView:
    """The best view that this process is given; there always is one.

    `walk`: where only /proc can be read, look connections up at the price of the whole table.
    Raises CannotTell only for a passing shortage, of descriptors or memory.
    """
    from probe.kernel.sockdiag import SockDiag

    try:
        return SockDiag()
    except Refused as refused:
        from probe.kernel.procfs import ProcNet  # not loaded for nothing

        try:
            return ProcNet(walk=walk)
        except Refused as also:
            return Blind(f"{refused}; {also}")
