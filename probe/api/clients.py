"""Who is let in, who is heard and who is answered next: what clients can hold of us, and what they
can take from each other, is bounded here.

A client that has not asked yet is a socket and no more: accepted, heard and closed at a few
microseconds each, a few in a turn of the event loop. So is one that asks what kubelet asks, and no
more. Only another whole request (`requests.read`) has a transport made for it. What can be answered
from memory is; a page is aiohttp's, which sees one small request and nothing else of what clients
send. The monitor runs between the turns, whatever the flood.
"""

import asyncio
import errno
import itertools
import logging
import os
import resource
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable
from contextlib import suppress
from typing import NamedTuple, Protocol, cast

from probe.api import grpc
from probe.api.requests import DEFECT, HEAD, UNREADABLE, Refusal, Reply, Request, read

logger = logging.getLogger(__name__)

ACCEPTED_A_TURN = 64
HEARD_A_TURN = 32
ANSWERED_A_TURN = 4
"""Less than a millisecond of the loop for each of them."""

TURN = 0.001
"""Seconds of CPU time after which no other is answered in this turn."""

WAITING_OUTSIDE = 4096
"""Connections in our own accept queue at most, as far as somaxconn allows: who waits there costs us
nothing, and who finds it full comes again after a second, which is all that kubelet waits."""

PIECES = 64
"""In how many a request may come: kubelet's comes in one, a line typed by hand in a few."""

RECEIVED = 16 * 1024
"""Bytes that the kernel takes from a client ahead of us (it doubles that): what 500 clients send
would else be 64 MB of ours."""

OWN_DESCRIPTORS = 100
"""What RLIMIT_NOFILE must leave for all else: round trips, the kernel's sockets, a capture."""

YOUNG = 0.01
"""Seconds for which nothing ends a newcomer: kubelet's request comes within a thousandth."""

SILENT = 0.05
"""Seconds outside, in our accept queue, after which who has said nothing is let in only where there
is room: else a crowd that comes again and again fills the queue faster than it is emptied, and the
kernel drops the SYN of whoever finds it full."""

UNDER_WAY = 1.0
"""Seconds for which nothing ends a request: kubelet's time-out, by default."""

PAUSE = 0.01
"""Seconds until we look for room again, when nobody inside may be ended yet."""

STARVED = 0.1
"""The same when the process has no descriptors left."""

SAY_AGAIN = 60.0
"""Seconds between two lines in the log about that."""

NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Limits(NamedTuple):
    """What one client, and all of them together, can hold of us."""

    connections: int = 512
    """At once; fewer where RLIMIT_NOFILE leaves less."""
    patience: float = 10.0
    """Seconds for a client to say its request, to say the next one, or to take its answer."""

    @property
    def affordable(self) -> int:
        """The connections that the process has descriptors for."""
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if descriptors == resource.RLIM_INFINITY:
            return self.connections
        return min(self.connections, max(descriptors - OWN_DESCRIPTORS, descriptors // 2))


class Answers(Protocol):
    """What is said to requests; `probe.api.replies.Replies` is one."""

    def at_once(self, request: Request) -> Reply | None:
        """Answer a request without work, or not."""

    def reply(self, request: Request, peer: str) -> Reply | None:
        """Answer a client at the address `peer`; None where it is to have a page."""

    def takes_long(self, request: Request) -> bool:
        """Tell whether that is work: whoever asks a question waits for one of these at the most."""


Handler = Callable[[Request, str], Awaitable[Reply | asyncio.Protocol]]


class Turns:
    """Whose request is answered next: a few in a turn of the loop, every kind in its turn."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[Callable[[], None]]] = {}
        self._scheduled = False

    def take(self, kind: Hashable, answer: Callable[[], None]) -> None:
        """Have `answer` called when it is the turn of its kind, in the order of their coming."""
        self._waiting.setdefault(kind, deque()).append(answer)
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        asyncio.get_running_loop().call_soon(self._next)
        self._scheduled = True

    def _next(self) -> None:
        # Who asks again on being answered has to wait for the next turn.
        waiting = sum(map(len, self._waiting.values()))
        until = time.thread_time() + TURN
        try:
            for _ in range(min(waiting, ANSWERED_A_TURN)):
                kind = next(iter(self._waiting))
                queue = self._waiting.pop(kind)
                answer = queue.popleft()
                if queue:
                    self._waiting[kind] = queue  # behind the others
                answer()
                if time.thread_time() > until:
                    break
        finally:
            self._scheduled = False
            if self._waiting:
                self._schedule()


class Newcomer:
    """A client whose first request has not come yet, or that was told all it will be: a socket."""

    __slots__ = ("answered", "greeted", "heard", "peer", "pieces", "since", "socket")

    def __init__(self, connection: socket.socket, peer: str, since: float) -> None:
        self.socket = connection
        self.peer = peer
        self.since = since
        self.heard = b""
        self.pieces = 0
        self.greeted = False
        self.answered = False


class Conversation(asyncio.Protocol):
    """A client that has asked. Its requests are answered one by one; a page is the last of them."""

    def __init__(self, crowd: "Crowd", newcomer: Newcomer, request: Request) -> None:
        self._crowd = crowd
        self.peer = newcomer.peer
        self._socket = newcomer.socket
        self.request = request
        self._heard = newcomer.heard[request.size :]
        self._pieces = 0
        self._answering = True
        self._ended = False
        self._begun = False
        self._cut = False
        self._transport: asyncio.Transport | None = None
        self._handler: asyncio.Protocol | None = None
        self._take_turn("first")

    def begin(self) -> None:
        """Have the request answered: it is its turn."""
        if self._cut:
            return
        if self._transport is None:
            self._begun = True
            self._crowd.connect(self, self._socket)
        else:
            self._answer(self._transport)

    def proceed(self, handler: Reply | asyncio.Protocol) -> None:
        """Say what is to be said, or have `handler` answer, and close."""
        if self._transport is None or self._transport.is_closing():
            return
        if isinstance(handler, Reply):
            self._transport.set_write_buffer_limits(0)
            self.say(handler)
            return
        self._handler = handler
        handler.connection_made(self._transport)
        handler.data_received(self.request.head)

    def say(self, answer: Reply) -> None:
        """Answer the request."""
        if self._transport is None:
            return
        keep = not self.request.closes and not self._crowd.full
        bodiless = self.request.method == b"HEAD"
        version = self.request.version
        self._transport.write(answer.whole(http_date(), version, bodiless=bodiless, keep=keep))
        if not keep:
            self._transport.close()  # once it has taken the answer
        elif not self._transport.get_write_buffer_size():
            self._rest()

    def end(self) -> None:
        """Close, unless an answer is under way."""
        if self._transport is None or not self._answering:
            self.cut()

    def end_soon(self) -> None:
        """Close when the client has taken what was said; a page's handler closes by itself."""
        if self._transport is not None and self._handler is None:
            self._transport.close()

    def cut(self) -> None:
        """Close at once, whatever was still to be said."""
        self._cut = True
        self._crowd.forget(self)
        if self._transport is not None:
            self._transport.abort()
        elif not self._begun:
            self._socket.close()

    def _take_turn(self, which: str) -> None:
        long = self._crowd.answers.takes_long(self.request)
        self._crowd.take_turn(self, (self.peer, which, long))

    def _answer(self, transport: asyncio.Transport) -> None:
        answer = self._crowd.answers.reply(self.request, self.peer)
        if answer is None:
            transport.set_write_buffer_limits()  # as its handler expects them
            self._crowd.find_handler(self)
        else:
            self.say(answer)

    def _rest(self) -> None:
        """The client has its answer, and may ask again."""
        self._answering = False
        self._crowd.let_rest(self)
        self._listen()

    def _listen(self) -> None:
        asked = read(self._heard)
        if asked is None and self._pieces >= PIECES:
            asked = UNREADABLE
        if isinstance(asked, Request):
            self.request = asked
            self._heard = self._heard[asked.size :]
            self._pieces = 0
            self._answering = True
            self._take_turn("further")
        elif self._transport is not None:
            if asked is None and not self._ended:
                self._transport.resume_reading()
                return
            if asked is not None:
                self._transport.write(asked.answer.whole(http_date()))
            self._transport.close()

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._cut:
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(0)  # We are told when the client has it all.
        self._answer(self._transport)

    def data_received(self, data: bytes) -> None:
        self._heard += data
        self._pieces += 1
        if not self._answering:
            self._listen()
        elif self._transport is not None:
            self._transport.pause_reading()  # One request at a time.

    def eof_received(self) -> bool:
        self._ended = True
        return self._answering  # Who says no more still wants its answer.

    def pause_writing(self) -> None:
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        if self._handler is not None:
            self._handler.resume_writing()
        elif self._transport is not None and not self._transport.is_closing():
            self._rest()

    def connection_lost(self, error: Exception | None) -> None:
        self._crowd.forget(self)
        if self._handler is not None:
            self._handler.connection_lost(error)


class Crowd:
    """Everybody inside: who comes, who has a request under way, and who rests after an answer."""

    def __init__(
        self,
        limits: Limits,
        answers: Answers,
        handler: Handler,
    ) -> None:
        """`handler` makes what serves a page to one client at an address, or what is said to it."""
        self.answers = answers
        self._handler = handler
        self.accepts = 0
        """How many connections were accepted so far."""
        self.full = False
        """Whether nobody inside may be ended yet, and others wait outside."""
        self._limits = limits
        self._most = limits.affordable
        self._loop = asyncio.get_running_loop()
        self._listening: tuple[socket.socket, ...] = ()
        self._epoll = select.epoll()
        # Each in the order of their coming.
        self._newcomers: dict[int, Newcomer] = {}
        self._busy: dict[Conversation, float] = {}
        self._resting: dict[Conversation, float] = {}
        self._turns = Turns()
        self._beginning: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.TimerHandle | None = None
        self._opening: asyncio.TimerHandle | None = None
        self._said_starved = -SAY_AGAIN

    def admit(self, listening: Iterable[socket.socket]) -> None:
        """Let clients in from these sockets, until `close`."""
        self._listening = tuple(listening)
        self._loop.add_reader(self._epoll.fileno(), self._hear_some)
        self._open()

    async def close(self) -> None:
        """Let nobody in any more, and end those who are not being answered."""
        if self._epoll.closed:
            return
        self._shut()
        for timer in (self._sweeping, self._opening):
            if timer is not None:
                timer.cancel()
        for newcomer in tuple(self._newcomers.values()):
            self._drop(newcomer)
        for conversation in (*self._resting, *self._busy):
            conversation.end()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        await asyncio.gather(*self._beginning)
        for conversation in tuple(self._busy):
            conversation.end_soon()

    # --- conversations

    def take_turn(self, conversation: Conversation, kind: Hashable) -> None:
        """Have `conversation` begin when it is its turn; its request is under way from now on."""
        self._resting.pop(conversation, None)
        self._busy[conversation] = self._loop.time()
        self._turns.take(kind, conversation.begin)

    def connect(self, conversation: Conversation, connection: socket.socket) -> None:
        """Make a transport for it."""
        connection.setblocking(False)

        async def connect() -> None:
            try:
                await self._loop.connect_accepted_socket(lambda: conversation, connection)
            except OSError:
                connection.close()
                self.forget(conversation)

        self._begin(connect())

    def find_handler(self, conversation: Conversation) -> None:
        """Have a page served to it."""

        async def hand_over() -> None:
            try:
                conversation.proceed(await self._handler(conversation.request, conversation.peer))
            except Exception:
                logger.exception("no page can be served")
                conversation.say(DEFECT)

        self._begin(hand_over())

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    def let_rest(self, conversation: Conversation) -> None:
        """It was answered, and may ask again; until then it is the first to make room but for
        newcomers.
        """
        self._busy.pop(conversation, None)
        self._resting[conversation] = self._loop.time()
        self._sweep_later()

    def forget(self, conversation: Conversation) -> None:
        """It has ended."""
        self._busy.pop(conversation, None)
        self._resting.pop(conversation, None)

    # --- newcomers

    def _open(self) -> None:
        self.full = False
        self._opening = None
        for listening in self._listening:
            self._loop.add_reader(listening, self._accept_some, listening)

    def _shut(self) -> None:
        for listening in self._listening:
            self._loop.remove_reader(listening)

    def _open_in(self, seconds: float) -> None:
        self._shut()
        if self._opening is None:
            self._opening = self._loop.call_later(seconds, self._open)

    def _accept_some(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTED_A_TURN):
            if self._inside > self._most and not self._make_room():
                self.full = True
                self._open_in(PAUSE)
                return
            try:
                connection, address = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._cannot_accept(error)
                return
            self.accepts += 1
            if self._inside >= self._most:
                if _waited_in_silence(connection):
                    connection.close()
                    continue
                self._make_room()  # Where nobody can, one more is inside, and the door closes.
            self._welcome(connection, address[0])

    def _welcome(self, connection: socket.socket, peer: str) -> None:
        newcomer = Newcomer(connection, peer, self._loop.time())
        self._newcomers[connection.fileno()] = newcomer
        self._epoll.register(connection, select.EPOLLIN | select.EPOLLRDHUP)
        self._sweep_later()

    def _sweep_later(self) -> None:
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(self._limits.patience, self._sweep)

    def _cannot_accept(self, error: OSError) -> None:
        """The connection stays outside; trying again at once would only take the loop's time."""
        now = self._loop.time()
        if now - self._said_starved >= SAY_AGAIN:
            self._said_starved = now
            logger.warning(
                "cannot accept connections: %s; %d are open, and others wait",
                *(os.strerror(error.errno or 0).lower(), self._inside),
            )
        if error.errno in NO_DESCRIPTORS:
            self._make_room()
        self._open_in(STARVED)

    @property
    def _inside(self) -> int:
        return len(self._newcomers) + len(self._busy) + len(self._resting)

    def _make_room(self) -> bool:
        """End whoever has waited longest with nothing under way; tell whether there was one.

        A newcomer is heard once more before: its request may lie there already.
        """
        before = self._inside
        for _ in range(min(len(self._newcomers), HEARD_A_TURN)):
            newcomer = next(iter(self._newcomers.values()))
            if self._loop.time() - newcomer.since < YOUNG:
                break
            self._hear(newcomer)
            if next(iter(self._newcomers.values()), None) is newcomer:
                self._drop(newcomer)
            if self._inside < before:
                return True
        for conversation in self._resting:
            conversation.cut()
            return True
        for conversation, since in self._busy.items():
            if self._loop.time() - since < UNDER_WAY:
                return False
            conversation.cut()
            return True
        return False

    def _sweep(self) -> None:
        """End those who have said nothing whole for as long as our patience lasts."""
        self._sweeping = None
        since = self._loop.time() - self._limits.patience
        for newcomer in tuple(self._newcomers.values()):
            if newcomer.since > since:
                break
            self._drop(newcomer)
        for conversation, rests_since in tuple(self._resting.items()):
            if rests_since > since:
                break
            conversation.cut()
        began = [newcomer.since for newcomer in itertools.islice(self._newcomers.values(), 1)]
        began += itertools.islice(self._resting.values(), 1)
        if began:
            self._sweeping = self._loop.call_at(min(began) + self._limits.patience, self._sweep)

    def _hear_some(self) -> None:
        for descriptor, _ in self._epoll.poll(0, HEARD_A_TURN):
            newcomer = self._newcomers.get(descriptor)
            if newcomer is not None:
                self._hear(newcomer)

    def _hear(self, newcomer: Newcomer) -> None:
        """Take what a newcomer has said meanwhile, and do what follows from it."""
        try:
            said = newcomer.socket.recv(HEAD, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        newcomer.pieces += 1
        if not said or (newcomer.answered and newcomer.pieces > PIECES):
            self._drop(newcomer)
        elif not newcomer.answered:
            newcomer.heard += said
            if grpc.begins(newcomer.heard):
                self._hear_call(newcomer)
            else:
                self._hear_request(newcomer)

    def _hear_request(self, newcomer: Newcomer) -> None:
        asked = read(newcomer.heard)
        if asked is None and newcomer.pieces >= PIECES:
            asked = UNREADABLE
        if isinstance(asked, Refusal):
            self._say(newcomer, asked.answer.whole(http_date()))
        elif asked is not None:
            self._answer(newcomer, asked)

    def _hear_call(self, newcomer: Newcomer) -> None:
        """Greet who speaks gRPC, and answer what is called: kubelet's questions again."""
        try:
            heard = grpc.read(newcomer.heard)
        except grpc.UnreadableCall:
            self._drop(newcomer)
            return
        said = grpc.GREETING if heard.waits and not newcomer.greeted else b""
        newcomer.greeted = newcomer.greeted or heard.waits
        for call in heard.calls:
            said += grpc.answer(call, self.answers.at_once(call.request))
        if said:
            self._welcome_back(newcomer, heard.rest)
            with suppress(OSError):
                newcomer.socket.send(said, socket.MSG_DONTWAIT)
        elif newcomer.pieces >= PIECES:
            self._drop(newcomer)

    def _welcome_back(self, newcomer: Newcomer, heard: bytes) -> None:
        """It was told something, and has the word again: it is as if it had come just now."""
        newcomer.heard = heard
        newcomer.pieces = 0
        newcomer.since = self._loop.time()
        descriptor = newcomer.socket.fileno()
        self._newcomers[descriptor] = self._newcomers.pop(descriptor)

    def _answer(self, newcomer: Newcomer, request: Request) -> None:
        """Answer at once, as kubelet is answered; else it is a conversation, which takes turns."""
        answer = self.answers.at_once(request) if request.closes else None
        if answer is not None:
            bodiless = request.method == b"HEAD"
            self._say(newcomer, answer.whole(http_date(), request.version, bodiless=bodiless))
            return
        self._epoll.unregister(newcomer.socket)
        del self._newcomers[newcomer.socket.fileno()]
        Conversation(self, newcomer, request)

    def _say(self, newcomer: Newcomer, answer: bytes) -> None:
        """Say the last word, and hear the rest without heeding it: closing now would reset the
        connection, and the answer with it.
        """
        newcomer.answered = True
        newcomer.heard = b""
        newcomer.pieces = 0
        with suppress(OSError):
            newcomer.socket.send(answer, socket.MSG_DONTWAIT)
            newcomer.socket.shutdown(socket.SHUT_WR)

    def _drop(self, newcomer: Newcomer) -> None:
        del self._newcomers[newcomer.socket.fileno()]
        newcomer.socket.close()


def http_date() -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())


def _waited_in_silence(connection: socket.socket) -> bool:
    """Whether a connection that was just accepted has had its time outside, and said nothing.

    `tcpi_last_data_sent` of linux/tcp.h, at offset 44, counts the milliseconds since the handshake
    as long as nothing was sent.
    """
    try:
        connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
    except BlockingIOError:
        told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 48)
        return int.from_bytes(told[44:48], sys.byteorder) > SILENT * 1000
    except OSError:
        return True
    return False
