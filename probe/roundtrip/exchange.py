"""What all protocols have in common: bytes out, bytes in, a result. No sockets, no clock."""

from __future__ import annotations

from probe.imports.typing_lite import NamedTuple, Protocol
from probe.model import Connection, Stage, Target

LIMIT = 65536
"""Bytes of an answer that are read before it is enough, or too much."""


class CannotAsk(Exception):
    """A request cannot be made, for a reason that is not the application's. One line of text."""


class Result(NamedTuple):
    """What an exchange came to: good without a stage, else where and why it failed."""

    stage: Stage | None = None
    detail: str = ""
    status: int | None = None
    frank: str = ""
    """The detail for who wrote the target, and nobody else: it tells what was expected."""


class Exchange(Protocol):
    """One request and its answer in one protocol. It never raises for what the application says.

    `result` stays None until the answer is known; what is fed after that is ignored.
    """

    result: Result | None = None
    secured: bool = False
    """The TLS handshake, where there is one, has ended well."""
    answered: bool = False
    """At least one byte of this protocol (of TLS, not yet) has come."""
    silent: bool = False
    """The application need not say a word: the kernel is asked whether it accepted; see witness."""
    secrets: tuple[str, ...] = ()
    """Words that were sent and that nobody is to be shown, should the application repeat them."""

    def start(self) -> bytes:
        """What to send as soon as there is a connection."""

    def feed(self, data: bytes) -> bytes:
        """Take what the application sent; what to send it in turn."""

    def eof(self) -> None:
        """Take note that the application will send no more. Afterwards there is a result."""

    def late(self) -> Result:
        """What it comes to when time is up and the application accepted, but is not done."""

    def urge(self) -> bytes:
        """What to say when half of the time is up; for most, nothing."""
        return b""

    def so_far(self) -> str:
        """How much of the answer has come, for a message: '512 of 1000 bytes'. Empty: nothing."""

    def witness(self, connection: Connection) -> None:
        """Take what the kernel says of the application's side, if the exchange is silent."""
        return

    def finish(self) -> bytes:
        """The last words of a polite client, once there is a result."""
        return b""


def silence(stage: Stage = Stage.UNANSWERED) -> Result:
    """Nothing at all has come."""
    return Result(stage, "no answer")


def server_name(target: Target, host: str) -> str:
    """Who is asked for: the server name, else the host asked for, else the one dialled; by a unix
    socket `localhost`, as curl does.

    Without the dot at the end of a fully qualified name: SNI and certificates have none (RFC
    6066, 3), and few servers know themselves by it.
    """
    name = target.server_name or target.host or ("localhost" if target.socket else host)
    return name.partition("%")[0].removesuffix(".")


def authority(target: Target, host: str) -> str:
    """Whom the request is for. The port is left out where it is the protocol's own, as curl and
    browsers do.
    """
    name = server_name(target, host)
    if ":" in name:
        name = f"[{name}]"
    if target.port in (0, 443 if target.encrypted else 80):
        return name
    return f"{name}:{target.port}"
