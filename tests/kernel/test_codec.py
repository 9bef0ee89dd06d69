"""The codec and its socket, against answers that a healthy kernel does not give."""

import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.kernel import CannotTell, Interrupted, KernelError, Refused, sockdiag
from probe.kernel.sockdiag import (
    BUFFER,
    TRIES,
    Channel,
    SockDiag,
    decode_accepted,
    decode_connection,
    decode_listener,
    parse,
)
from probe.model import Accepted, Connection, Listener

NOOP, ERROR, DONE, OVERRUN, ROW = 1, 2, 3, 4, 20
MULTI, INTERRUPTED = 2, 0x10
DUMP = 0x300
SKMEMINFO, INFO, V6ONLY = 7, 2, 11

Message = Callable[[int], bytes]
"""Bytes that depend on the sequence number they answer."""
Answer = list[Message | bytes | None]
"""Datagrams; None hangs up."""


def message(kind: int, payload: bytes = b"", flags: int = MULTI, *, stale: int = 0) -> Message:
    size = 16 + len(payload)
    padding = bytes(-size % 4)
    return lambda number: (
        struct.pack("=IHHII", size, kind, flags, number - stale, 0) + payload + padding
    )


def error(number: int, *, stale: int = 0) -> Message:
    return message(ERROR, struct.pack("=i", -number) + bytes(16), 0, stale=stale)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def row(port: int = 80, state: int = 10, tail: bytes = b"") -> bytes:
    ends = struct.pack("!HH16s16s", port, 0, bytes([127, 0, 0, 1]), b"")
    head = struct.pack("=4B", socket.AF_INET, state, 0, 0)
    return head + ends + struct.pack("=8I", 0, 7, 0, 0, 3, 5, 1000, 4242) + tail


def joined(*messages: Message) -> Message:
    return lambda number: b"".join(make(number) for make in messages)


done = message(DONE, bytes(4))
listening = message(ROW, row())


class Kernel:
    """Answers a Channel from a script with one entry a request, whatever connection it comes by."""

    def __init__(self, *script: Answer) -> None:
        self._script = iter(script)
        self._near: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    @property
    def connections(self) -> int:
        return len(self._threads)

    def connect(self) -> socket.socket:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 200_000))
        thread = threading.Thread(target=self._serve, args=(far,))
        thread.start()
        self._threads.append(thread)
        self._near.append(near)
        return near

    def _serve(self, end: socket.socket) -> None:
        with end, suppress(ConnectionError):  # the asker may hang up at any time
            while request := end.recv(4096):
                (number,) = struct.unpack_from("=I", request, 8)
                for datagram in next(self._script):
                    if datagram is None:
                        return
                    end.send(datagram if isinstance(datagram, bytes) else datagram(number))

    def close(self) -> None:
        for end in self._near:
            end.close()
        for thread in self._threads:
            thread.join()


Play = Callable[..., tuple[Channel, Kernel]]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Iterator[Play]:
    """A Channel to a kernel that follows a script."""
    played: list[tuple[Channel, Kernel]] = []

    def start(*script: Answer) -> tuple[Channel, Kernel]:
        kernel = Kernel(*script)
        monkeypatch.setattr(sockdiag, "connect", kernel.connect)
        played.append((Channel(), kernel))
        return played[-1]

    yield start
    for channel, kernel in played:
        channel.close()
        kernel.close()


def ask(channel: Channel) -> list[int]:
    """The ports of the listeners that a dump of one family gives."""
    body = sockdiag.request(socket.AF_INET, SKMEMINFO, 1 << 10, 0)
    return [listener.port for listener in channel.ask(DUMP, body, decode_listener)]


def test_an_answer_in_several_datagrams(play: Play) -> None:
    channel, _ = play([listening, joined(listening, message(NOOP), listening), done])
    assert ask(channel) == [80, 80, 80]


def test_what_is_left_of_another_answer_is_passed_over(play: Play) -> None:
    late = message(ROW, row(81), stale=1)
    channel, kernel = play(
        [
            late,
            message(DONE, bytes(4), stale=1),
            error(errno.EPERM, stale=1),
            joined(late, listening),
            done,
        ]
    )
    assert ask(channel) == [80]
    assert kernel.connections == 1


def test_a_row_is_decoded_to_the_last_field(play: Play) -> None:
    tail = (
        attribute(SKMEMINFO, struct.pack("=9I", *range(9)))
        + attribute(99, b"from the future")
        + attribute(V6ONLY, b"\x01")
    )
    channel, _ = play([message(ROW, row(80, tail=tail), flags=0)])
    body = sockdiag.request(socket.AF_INET, SKMEMINFO, 1 << 10, 0)
    assert channel.ask(DUMP, body, decode_listener) == [
        Listener(
            family=socket.AF_INET,
            address="127.0.0.1",
            port=80,
            cookie=7,
            length=3,
            limit=5,
            drops=8,
            inode=4242,
            uid=1000,
            v6only=True,
        )
    ]


SPOILT: dict[str, Answer] = {
    "the sockets changed": [message(ROW, row(), MULTI | INTERRUPTED), done],
    "the sockets changed, said at the end": [
        listening,
        message(DONE, bytes(4), MULTI | INTERRUPTED),
    ],
    "longer than the buffer": [joined(message(NOOP, bytes(BUFFER - 16)), listening), done],
    "half a header": [lambda number: listening(number) + b"half", done],
    "half a message": [lambda number: listening(number)[:-4], done],
    "a message shorter than its header": [
        lambda number: struct.pack("=IHHII", 15, ROW, 0, number, 0),
        done,
    ],
    "half a row": [message(ROW, row()[:-4]), done],
    "an empty row": [message(ROW), done],
    "half an attribute": [message(ROW, row(tail=struct.pack("=HH", 40, SKMEMINFO))), done],
    "an attribute shorter than its header": [
        message(ROW, row(tail=struct.pack("=HH", 3, INFO))),
        done,
    ],
    "a row of no internet family": [message(ROW, b"\x01" + row()[1:]), done],
    "an overrun": [message(OVERRUN), done],
    "an unknown type": [message(99), done],
    "an acknowledgement": [error(0), done],
    "an error that is none": [error(-5), done],
    "an error beyond all errors": [error(2**31 - 1), done],
    "an error without a number": [message(ERROR), done],
    "silence": [],
    "silence after a row": [listening],
    "the end": [None],
}


@pytest.mark.parametrize("answer", SPOILT.values(), ids=SPOILT)
def test_a_spoilt_answer_is_asked_for_again(play: Play, answer: Answer) -> None:
    channel, kernel = play(answer, answer, [listening, done])
    assert ask(channel) == [80]
    assert kernel.connections == 3


@pytest.mark.parametrize("answer", SPOILT.values(), ids=SPOILT)
def test_a_bounded_number_of_times(play: Play, answer: Answer) -> None:
    channel, kernel = play(*[answer] * TRIES, [listening, done])
    with pytest.raises(Interrupted, match=r"^sock_diag: "):
        ask(channel)
    assert kernel.connections == TRIES
    assert ask(channel) == [80]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EPERM, Refused),
        (errno.EACCES, Refused),
        (errno.ENOSYS, Refused),
        (errno.EOPNOTSUPP, Refused),
        (errno.EPROTONOSUPPORT, Refused),
        (errno.ENOENT, KernelError),
        (errno.EINVAL, KernelError),
        (errno.ENOMEM, KernelError),
        (errno.EBUSY, KernelError),
    ],
)
@pytest.mark.parametrize("last", [False, True], ids=["at once", "at the end"])
def test_an_error_is_never_an_empty_answer(
    play: Play, number: int, kind: type[CannotTell], *, last: bool
) -> None:
    answer = [listening, message(DONE, struct.pack("=i", -number))] if last else [error(number)]
    channel, kernel = play(answer, [done])
    with pytest.raises(kind, match=f"^sock_diag: {os.strerror(number)}$") as caught:
        ask(channel)
    if isinstance(caught.value, KernelError):
        assert caught.value.errno == number
    assert ask(channel) == []
    assert kernel.connections == 1


def sock_diag(play: Play, *script: Answer) -> SockDiag:
    """A view of a scripted kernel; it begins with a dump of both families."""
    play([done], [done], *script)
    return SockDiag()


def test_a_dump_needs_tcp_diag(play: Play) -> None:
    play([error(errno.ENOENT)])
    with pytest.raises(Refused, match="this kernel has no tcp_diag"):
        SockDiag()


def test_one_family_alone_is_no_answer(play: Play) -> None:
    view = sock_diag(play, [listening, done], [error(errno.ENOMEM)])
    with pytest.raises(KernelError):
        view.listeners(80)


def test_a_lookup_that_finds_nothing_is_none(play: Play) -> None:
    view = sock_diag(play, [error(errno.ENOENT)])
    assert view.lookup(("127.0.0.1", 1), ("127.0.0.1", 2)) is None


@pytest.mark.parametrize("answer", [[done], [listening, listening, done]])
def test_a_lookup_gives_exactly_one_row(play: Play, answer: Answer) -> None:
    view = sock_diag(play, answer)
    with pytest.raises(Interrupted):
        view.lookup(("127.0.0.1", 1), ("127.0.0.1", 2))


def test_a_lookup_that_fails_is_not_none(play: Play) -> None:
    view = sock_diag(play, [error(errno.EPERM)])
    with pytest.raises(Refused):
        view.lookup(("127.0.0.1", 1), ("127.0.0.1", 2))


def tcp_info(size: int) -> bytes:
    info = bytearray(size)
    for at, code, value in ((44, "I", 1), (52, "I", 2), (56, "I", 3), (128, "Q", 4), (200, "Q", 5)):
        if size >= at + struct.calcsize(code):
            struct.pack_into(f"={code}", info, at, value)
    return bytes(info)


@pytest.mark.parametrize(
    ("size", "sent", "received", "aged"),
    [
        (232, 5, 4, True),
        (208, 5, 4, True),
        (207, None, 4, True),
        (136, None, 4, True),
        (135, None, None, True),
        (60, None, None, True),
        (59, None, None, False),
        (0, None, None, False),
    ],
)
def test_an_older_kernel_tells_less(
    size: int, sent: int | None, received: int | None, *, aged: bool
) -> None:
    data = row(state=1, tail=attribute(INFO, tcp_info(size)))
    found = decode_connection(data, 0, len(data))
    assert (found.bytes_sent, found.bytes_received) == (sent, received)
    ages = found.last_data_sent, found.last_data_received, found.last_ack_received
    assert ages == ((0.001, 0.002, 0.003) if aged else (None, None, None))


def u(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, 2**bits - 1)


LIKELY = st.one_of(
    st.builds(attribute, st.sampled_from([SKMEMINFO, INFO, V6ONLY, 99]), st.binary(max_size=300)),
    st.binary(max_size=8),
)
LIKELY_ROW = st.builds(
    lambda family, head, tails: bytes([family]) + head + b"".join(tails),
    st.sampled_from([socket.AF_INET, socket.AF_INET6, 0]),
    st.binary(min_size=68, max_size=71),
    st.lists(LIKELY, max_size=4),
)
LIKELY_MESSAGE = st.builds(
    lambda kind, flags, payload, number, lie: (
        struct.pack("=IHHII", max(0, 16 + len(payload) + lie), kind, flags, number, 0)
        + payload
        + bytes(-len(payload) % 4)
    ),
    st.sampled_from([ROW, ROW, ROW, DONE, ERROR, NOOP, OVERRUN, 99]),
    st.sampled_from([0, MULTI, MULTI, MULTI | INTERRUPTED]),
    st.one_of(LIKELY_ROW, st.binary(max_size=80)),
    st.sampled_from([1, 1, 1, 2]),
    st.sampled_from([0, 0, 0, 0, -20, -4, -1, 1, 4]),
)
LIKELY_ANSWER = st.one_of(
    st.binary(max_size=400), st.lists(LIKELY_MESSAGE, max_size=6).map(b"".join)
)


@given(LIKELY_ANSWER)
@settings(deadline=None)
def test_any_bytes_are_rows_or_cannot_tell(data: bytes) -> None:
    listeners: list[Listener] = []
    with suppress(CannotTell):
        parse(data, len(data), 1, decode_listener, listeners)
    assert all(type(one) is Listener for one in listeners)
    connections: list[Connection] = []
    with suppress(CannotTell):
        parse(data, len(data), 1, decode_connection, connections)
    assert all(type(one) is Connection for one in connections)
    accepted: list[Accepted] = []
    with suppress(CannotTell):
        parse(data, len(data), 1, decode_accepted, accepted)
    assert all(type(one) is Accepted for one in accepted)


@given(st.lists(LIKELY_ANSWER.filter(bool), max_size=4))
@settings(deadline=None, max_examples=50)
def test_any_conversation_ends(datagrams: list[bytes]) -> None:
    answer: Answer = [*datagrams, None]
    kernel = Kernel(*[answer] * TRIES)
    with pytest.MonkeyPatch.context() as patch, closing(kernel):
        patch.setattr(sockdiag, "connect", kernel.connect)
        with closing(Channel()) as channel, suppress(CannotTell):
            assert all(0 <= port <= 0xFFFF for port in ask(channel))


@given(
    family=st.sampled_from([socket.AF_INET, socket.AF_INET6]),
    state=st.integers(1, 12),
    retransmits=u(8),
    ports=st.tuples(u(16), u(16)),
    ends=st.tuples(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16)),
    device=u(32),
    cookie=u(64),
    figures=st.tuples(u(32), u(32), u(32), u(32)),
)
@settings(deadline=None)
def test_a_row_comes_out_as_it_went_in(
    family: int,
    state: int,
    retransmits: int,
    ports: tuple[int, int],
    ends: tuple[bytes, bytes],
    device: int,
    cookie: int,
    figures: tuple[int, int, int, int],
) -> None:
    rqueue, wqueue, uid, number = figures
    data = (
        struct.pack("=4B", family, state, 0, retransmits)
        + struct.pack("!HH16s16s", *ports, *ends)
        + struct.pack("=3I", device, cookie & 0xFFFFFFFF, cookie >> 32)
        + struct.pack("=5I", 0, rqueue, wqueue, uid, number)
    )
    size = 4 if family == socket.AF_INET else 16
    local, remote = (str(ip_address(end[:size])) for end in ends)
    ours = decode_connection(data, 0, len(data))
    host, _, zone = ours.local[0].partition("%")
    assert (ours.family, ours.state, ours.retransmits) == (family, state, retransmits)
    assert (ip_address(host), ours.local[1], zone or "0") == (
        ip_address(local),
        ports[0],
        str(device),
    )
    assert (ip_address(ours.remote[0]), ours.remote[1]) == (ip_address(remote), ports[1])
    assert (ours.cookie, ours.inode, ours.rqueue, ours.wqueue) == (cookie, number, rqueue, wqueue)
    listener = decode_listener(data, 0, len(data))
    assert (listener.cookie, listener.inode, listener.uid) == (cookie, number, uid)
    assert (listener.length, listener.limit, listener.drops) == (rqueue, wqueue, None)
    is_link_local = ip_address(local) in ip_network("fe80::/10")
    assert listener.address == (f"{host}%{device}" if is_link_local else host)
