"""What is made of what answers where a sidecar is asked, whoever that is."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from probe.api import client
from probe.commands.watch_news import Mailbox, News, Received, Unheard, beside
from probe.config import ListenAddress
from tests.watch.scenes import document, target

HEAD = b"HTTP/1.1 %s\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
GOOD = HEAD % b"200 OK"


def event(told: object) -> bytes:
    return b"event: view\ndata: " + json.dumps(told).encode() + b"\n\n"


@contextmanager
def answering(*pieces: bytes, silent: bool = False) -> Iterator[ListenAddress]:
    """Somebody who says this to one client, and then nothing, or no more."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                for piece in pieces:
                    connection.sendall(piece)
                if silent:
                    ended.wait()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield ListenAddress(*listener.getsockname())
        ended.set()
        thread.join()


class Enough(Exception):
    pass


def heard(address: ListenAddress, monkeypatch: pytest.MonkeyPatch) -> list[News]:
    """What is posted until nobody tells anything any more."""
    told: list[News] = []

    def enough(_seconds: float) -> None:
        raise Enough

    monkeypatch.setattr("time.sleep", enough)
    with pytest.raises(Enough):
        beside(address)(told.append)
    return told


def test_each_event_is_a_document(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = document(target("8080")), document(target("8080"), headline="Not ready")
    stream = GOOD + b": comment\n" + event(first) + event(second).replace(b"\n", b"\r\n")
    with answering(stream[:200], stream[200:]) as address:
        one, other, end = heard(address, monkeypatch)
    assert isinstance(one, Received)
    assert isinstance(other, Received)
    assert [one.told, other.told] == [first, second]
    assert other.document.headline == "Not ready"
    assert end == Unheard(f"the sidecar at {address} has ended")
    assert "history" not in str(one.briefly)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (GOOD + b"data: {]\n\n", "what answers at {} is no sidecar of this version"),
        (GOOD + b"data: []\n\n", "what answers at {} is no sidecar of this version"),
        (GOOD + event({"version": 1}), "what answers at {} is no sidecar of this version"),
        (GOOD + b"<html>hello</html>\n", "the sidecar at {} has ended"),
        (
            GOOD.replace(b"text/event-stream", b"text/html") + b"<html>hello</html>\n",
            "what answers at {} is no sidecar of this version",
        ),
        (b"SSH-2.0-OpenSSH\r\n", "the sidecar at {}: SSH-2.0-OpenSSH\\r\\n"),
        (b"", "the sidecar at {}: Remote end closed connection without response"),
        (
            HEAD % b"404 Not Found" + b"404: nothing here\n",
            "the sidecar at {} has no /view: it is older than this probe",
        ),
        (
            HEAD % b"503 Service Unavailable" + b"503: 32 clients look\x1b[2J at it already\n",
            "the sidecar at {} says 503: 32 clients look\\x1b[2J at it already",
        ),
    ],
    ids=[
        "no json",
        "a list",
        "another",
        "no event",
        "a page",
        "ssh",
        "nothing",
        "older",
        "crowded",
    ],
)
def test_who_is_no_sidecar_is_told_in_one_line(
    answer: bytes, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(answer) as address:
        (news,) = heard(address, monkeypatch)
    assert news == Unheard(why.format(address))


def test_nobody_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    address = ListenAddress("127.0.0.1", 9)
    assert heard(address, monkeypatch) == [Unheard(f"no sidecar answers at {address}")]


def test_a_name_that_nobody_knows_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    (news,) = heard(ListenAddress("nobody.invalid", 9809), monkeypatch)
    assert isinstance(news, Unheard)
    assert news.why.startswith("the sidecar at nobody.invalid:9809: ")
    assert "Errno" not in news.why


def test_who_falls_silent_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that loses everything tells nobody."""
    monkeypatch.setattr(client, "SILENCE", 0.2)
    with answering(GOOD + event(document(target("8080"))), silent=True) as address:
        received, end = heard(address, monkeypatch)
    assert isinstance(received, Received)
    assert end == Unheard(f"the sidecar at {address}: no answer in time")


def test_an_event_without_an_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER", 1000)
    with answering(GOOD + b"data: 1111\n" * 1000) as address:
        (news,) = heard(address, monkeypatch)
    assert news == Unheard(f"what answers at {address} is no sidecar of this version")


def test_the_mailbox_rings_once_for_all_that_lies_in_it() -> None:
    mailbox = Mailbox()
    for number in range(100_000):
        mailbox.post(Unheard(str(number)))
    assert list(mailbox.take())[-1] == Unheard("99999")
    with pytest.raises(BlockingIOError):
        os.read(mailbox.ready, 1)
    os.close(mailbox.ready)
    os.close(mailbox.bell)
