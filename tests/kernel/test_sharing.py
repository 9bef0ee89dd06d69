"""Several targets, one look at the kernel: its lengths and its accepts are of one moment."""

from collections.abc import Iterator

import pytest

from probe.kernel import KernelView, sampler
from probe.kernel.procfs import Counters
from probe.kernel.sampler import Sampler
from tests.kernel.conftest import Sockets, name
from tests.support import until_equal


class Dumps:
    """A view that counts how often the listeners were listed."""

    def __init__(self, view: KernelView) -> None:
        self._view = view
        self.count = 0

    def listeners(self, port: int | None = None, *, most: int | None = None) -> object:
        self.count += 1
        return self._view.listeners(port, most=most)


@pytest.fixture
def dumps(view: KernelView) -> Dumps:
    return Dumps(view)


@pytest.fixture
def sharing(dumps: Dumps) -> Iterator[Sampler]:
    counters = Counters()
    yield Sampler(dumps, counters)  # type: ignore[arg-type]  # nothing else of a view is asked
    counters.close()


def test_who_asks_within_a_moment_is_told_of_one_and_the_same(
    sharing: Sampler, dumps: Dumps, sockets: Sockets
) -> None:
    first, second = name(sockets.listen()), name(sockets.listen())
    at, seen = sharing.share(first[1], (), now=10.0, since=9.9)
    assert (at, seen.accepts, seen.listeners[0].length) == (10.0, 0, 0)
    sockets.connect(*second)
    at, other = sharing.share(second[1], (), now=10.05, since=9.95)
    assert (at, other.accepts) == (10.0, 0), "the accepts belong to the lengths"
    assert [listener.length for listener in other.listeners] == [0], "as it was then"
    assert dumps.count == 1


def test_who_has_been_told_of_a_moment_is_not_told_of_it_again(
    sharing: Sampler, dumps: Dumps, sockets: Sockets
) -> None:
    listening = sockets.listen()
    host, port = name(listening)
    sharing.share(port, (), now=10.0, since=9.9)
    sockets.connect(host, port)
    until_equal(lambda: sharing.share(port, (), now=10.01, since=10.01)[1].listeners[0].length, 1)
    taken = dumps.count
    assert sharing.share(port, (), now=10.02, since=10.01)[0] == 10.02
    assert dumps.count == taken + 1
    sharing.sample(port)
    assert dumps.count == taken + 2, "who has no clock shares nothing"


def test_where_a_port_is_asked_for_alone_nobody_else_is_told_of_it(
    sharing: Sampler, sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "MANY", 1)
    ports = [name(sockets.listen())[1] for _ in range(2)]
    for port in ports:
        _, seen = sharing.share(port, (), now=10.0, since=9.9)
        assert [listener.port for listener in seen.listeners] == [port]
        assert seen.accepts is None
