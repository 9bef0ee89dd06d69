"""The limit of quarantine under every order of events, and what no answer can do to it.

The API server here is a dictionary behind the client's one method: what is tested are the orders in
which thousands of requests of many pods can be carried out, and answers can be lost. The requests
themselves are tested over TLS in test_reporter and test_client.
"""

import asyncio
import contextlib
import copy
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probe.kubernetes import Account, Identity, Terms
from probe.kubernetes.client import JSON, ApiError, Client, Trouble, Troubles
from probe.kubernetes.events import Pace
from probe.kubernetes.quarantine import CLAIMED, HELD, MARK, TICKET, Declined, Phase, Quarantine
from tests.kubernetes.apiserver import ApiServer, Fault, merge, raw

AT_ONCE = Pace(first=0.0, most=0.0)
NOWHERE = Account("127.0.0.1", "1")


class Registers(Client):
    """Pods in memory. Each request takes a while, and some take long. Its answer may be lost, and
    it may be carried out long after its client has given up."""

    def __init__(self, seed: int, faults: float) -> None:
        super().__init__(NOWHERE)
        self.random = random.Random(seed)
        self.faults = faults
        self.pods: dict[str, dict[str, Any]] = {}
        self.late: list[asyncio.Task[None]] = []
        self._version = 0

    def pod(self, name: str, owner: str = "web") -> dict[str, Any]:
        reference = {"kind": "ReplicaSet", "name": owner, "controller": True}
        metadata = {"name": name, "resourceVersion": "0", "ownerReferences": [reference]}
        status = {"startTime": "2026-11-22T09:00:00Z"}
        self.pods[name] = {"metadata": metadata | {"labels": {"app": "web"}}, "status": status}
        return self.pods[name]

    def marks(self) -> list[str]:
        return [pod["metadata"]["labels"].get(MARK, "") for pod in self.pods.values()]

    async def request(
        self,
        method: str,
        where: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        accept: str = JSON,
    ) -> dict[str, Any]:
        await self._pass_time()
        if body is not None and self.random.random() < self.faults:
            if self.random.random() < 0.5:
                self.late.append(asyncio.create_task(self._carry_out_late(where, body)))
            else:
                self._carry_out(where, body)
            final = self.random.random() < 0.3
            raise ApiError(Trouble.FORBIDDEN if final else Trouble.UNREACHABLE, "lost")
        if body is not None:
            answer = self._carry_out(where, body)
        else:
            pods = self.pods.values()
            answer = {"items": [pod for pod in pods if MARK in pod["metadata"]["labels"]]}
        answer = copy.deepcopy(answer)
        await self._pass_time()
        return answer

    async def _pass_time(self) -> None:
        for _ in range(self.random.choice((0, 0, 1, 2, 3, 40))):
            await asyncio.sleep(0)

    async def _carry_out_late(self, where: str, body: Mapping[str, Any]) -> None:
        for _ in range(self.random.randrange(100)):
            await asyncio.sleep(0)
        with contextlib.suppress(ApiError):
            self._carry_out(where, body)

    def _carry_out(self, where: str, body: Mapping[str, Any]) -> dict[str, Any]:
        pod = self.pods[where.rpartition("/")[2]]
        version = pod["metadata"]["resourceVersion"]
        if body["metadata"].get("resourceVersion", version) != version:
            raise ApiError(Trouble.CONFLICT, "HTTP 409")
        merge(pod, copy.deepcopy(dict(body)))
        self._version += 1
        pod["metadata"]["resourceVersion"] = f"{self._version}"
        return pod


def quarantine(
    client: Client, name: str, limit: int, skew: float = 0.0, within: float = 30.0
) -> Quarantine:
    made = Quarantine(
        client,
        Identity(name, "shop", f"uid-of-{name}"),
        Terms((("app", "web-quarantined"),), 3600.0, limit),
        Troubles(),
        pace=AT_ONCE,
        settle=0.0,
        decide_within=within,
        wall=lambda: 1_800_000_000.0 + skew,
    )
    made.begin()
    return made


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    limit=st.integers(1, 3),
    pods=st.integers(1, 7),
    faults=st.sampled_from([0.0, 0.0, 0.1, 0.4]),
    clocks=st.lists(st.floats(-1e9, 1e9), min_size=7, max_size=7),
)
def test_the_limit_holds_in_every_order_and_by_every_clock(
    seed: int, limit: int, pods: int, faults: float, clocks: list[float]
) -> None:
    async def rush() -> None:
        client = Registers(seed, faults)
        names = [f"web-{number}" for number in range(pods)]
        client.random.shuffle(names)
        for name in names:
            client.pod(name)

        async def stall(name: str, skew: float) -> Phase:
            for _ in range(client.random.randrange(40)):
                await asyncio.sleep(0)
            # With faults, a claim may stay without a ticket, and is waited for in vain.
            one = quarantine(client, name, limit, skew, 0.05 if faults else 30.0)
            try:
                await one.decide("why")
            except Declined:
                assert one.phase is Phase.DECLINED
            assert client.marks().count(HELD) <= limit
            return one.phase

        phases = await asyncio.gather(*map(stall, names, clocks))
        await asyncio.gather(*client.late)
        assert client.marks().count(HELD) <= limit
        if not faults:
            # Who is ahead of everybody gets through, and no claim is left.
            assert phases.count(Phase.HELD) == client.marks().count(HELD) >= 1
            assert CLAIMED not in client.marks()

    asyncio.run(rush())


def test_one_after_the_other_fills_the_places() -> None:
    async def queue() -> None:
        client = Registers(0, 0.0)
        for number in range(5):
            client.pod(f"web-{number}")
        client.pod("other", owner="other")["metadata"]["labels"][MARK] = HELD
        for name in ("web-4", "web-3", "web-2"):
            assert "kept until" in await quarantine(client, name, limit=3).decide("why")
        for name in ("web-1", "web-0"):
            said = "^3 of at most 3 of ReplicaSet/web are in quarantine already$"
            with pytest.raises(Declined, match=said):
                await quarantine(client, name, limit=3).decide("why")
        pods = [client.pods[f"web-{number}"]["metadata"] for number in range(5)]
        tickets = [metadata["annotations"].get(TICKET) for metadata in pods]
        assert tickets == [None, None, "3", "2", "1"]

    asyncio.run(queue())


def test_a_pod_that_somebody_has_marked_by_hand_takes_a_place() -> None:
    async def marked() -> None:
        client = Registers(0, 0.0)
        client.pod("web-0")
        metadata = client.pod("web-1")["metadata"]
        metadata["labels"][MARK] = HELD
        metadata["annotations"] = {TICKET: "999999"}
        with pytest.raises(Declined, match="already"):
            await quarantine(client, "web-0", limit=1).decide("why")

    asyncio.run(marked())


@pytest.mark.parametrize("ticket", [None, "0", "-1", "9" * 5000, "two"])
def test_a_claim_without_a_ticket_is_waited_for(ticket: str | None) -> None:
    async def wait() -> None:
        client = Registers(0, 0.0)
        client.pod("web-0")
        silent = client.pod("web-1")["metadata"]
        silent["labels"][MARK] = CLAIMED
        silent["annotations"] = {TICKET: ticket}
        one = quarantine(client, "web-0", limit=1, within=0.05)
        with pytest.raises(Declined, match="web-1 claimed a place and took no ticket"):
            await one.decide("why")
        assert MARK not in client.pods["web-0"]["metadata"]["labels"]
        assert not one.owed

    asyncio.run(wait())


def test_who_has_claimed_before_is_ahead_whatever_his_name() -> None:
    async def come_later() -> None:
        client = Registers(0, 0.0)
        client.pod("web-0")
        earlier = client.pod("web-9")["metadata"]
        earlier["labels"][MARK] = CLAIMED
        earlier["annotations"] = {TICKET: "1"}
        with pytest.raises(Declined, match="1 of at most 1"):
            await quarantine(client, "web-0", limit=1).decide("why")
        assert client.marks() == ["", CLAIMED]

    asyncio.run(come_later())


def test_a_patch_that_was_long_on_its_way_undoes_nothing() -> None:
    """The place was given back, and is somebody else's by the time it comes."""

    async def late() -> None:
        client = Registers(0, 0.0)
        client.pod("web-0")
        carry_out, on_its_way = client._carry_out, list[tuple[str, Mapping[str, Any]]]()

        def delay(where: str, body: Mapping[str, Any]) -> dict[str, Any]:
            if body["metadata"]["labels"].get(MARK) == HELD:
                on_its_way.append((where, body))
                raise ApiError(Trouble.FORBIDDEN, "HTTP 403")
            return carry_out(where, body)

        client._carry_out = delay  # type: ignore[method-assign]
        with pytest.raises(Declined, match="403"):
            await quarantine(client, "web-0", limit=1).decide("why")
        ((where, body),) = on_its_way
        with pytest.raises(ApiError, match="409"):
            carry_out(where, body)
        assert client.marks() == [""]

    asyncio.run(late())


def test_a_claim_that_could_not_be_given_back_is_owed() -> None:
    async def owe() -> None:
        client = Registers(0, 0.0)
        client.pod("web-0")
        client.pod("web-1")["metadata"]["labels"][MARK] = HELD
        one = quarantine(client, "web-0", limit=1)
        carry_out = client._carry_out

        def refuse(where: str, body: Mapping[str, Any]) -> dict[str, Any]:
            if body["metadata"]["labels"].get(MARK, "") is None:
                raise ApiError(Trouble.FORBIDDEN, "HTTP 403")
            return carry_out(where, body)

        client._carry_out = refuse  # type: ignore[method-assign]
        with pytest.raises(Declined, match="already"):
            await one.decide("why")
        owed = one.owed
        assert client.marks() == [CLAIMED, HELD]
        client._carry_out = carry_out  # type: ignore[method-assign]
        await one.withdraw()
        assert (owed, one.owed) == (True, False)
        assert client.marks() == ["", HELD]

    asyncio.run(owe())


@pytest.mark.parametrize(
    ("until", "seconds"),
    [
        ("2027-01-15T08:10:00Z", 600.0),
        ("9999-12-31T23:59:59Z", 3600.0),
        ("2027-01-15T08:10:00", 0.0),
        ("2020-01-01T00:00:00Z", 0.0),
    ],
)
def test_a_pod_found_in_quarantine_is_held_as_long_as_its_terms_say(
    until: str, seconds: float
) -> None:
    client = Registers(0, 0.0)
    metadata = client.pod("web-0")["metadata"]
    metadata["labels"][MARK] = HELD
    metadata["annotations"] = {f"{MARK}-until": until}
    now = [0.0]
    one = quarantine(client, "web-0", limit=1)
    one._clock = lambda: now[0]
    asyncio.run(one.decide("why"))
    held = []
    for moment in (seconds - 1.0, seconds):
        now[0] = moment
        held.append(one.holds)
    assert held == [True, False]


# --- answers of every shape

KEYS = st.sampled_from(
    [
        *("items", "metadata", "labels", "annotations", "ownerReferences", "status", "spec"),
        *("name", "resourceVersion", "startTime", "activeDeadlineSeconds", "controller", "kind"),
        *(MARK, TICKET, f"{MARK}-owner", f"{MARK}-until"),
    ]
)
WORDS = st.sampled_from(
    ["web-0", HELD, CLAIMED, "2026-11-22T09:00:00Z", "0001-01-01T00:00:00+23:59", "\ud800\x1b\n"]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=20,
)
POD = st.dictionaries(KEYS, ANYTHING, max_size=4).map(
    lambda odd: {"metadata": {"name": "web-0", "labels": {MARK: CLAIMED}}, **odd}
)
ANSWERS = st.fixed_dictionaries({"items": st.lists(POD | ANYTHING, max_size=3)}) | POD


class Odd(Client):
    """Answers anything."""

    def __init__(self, answers: list[Any]) -> None:
        super().__init__(NOWHERE)
        self._answers = answers

    async def request(self, *_: Any, **__: Any) -> dict[str, Any]:
        if not self._answers:
            raise ApiError(Trouble.REJECTED, "enough")
        answer = self._answers.pop()
        return answer if isinstance(answer, dict) else {}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(answers=st.lists(ANSWERS, max_size=8))
def test_no_shape_of_an_answer_ends_anybody(answers: list[Any]) -> None:
    async def ask() -> None:
        one = quarantine(Odd(answers), "web-0", limit=1)
        try:
            said = await one.decide("why")
        except Declined as declined:
            said = str(declined)
        assert said.isprintable()
        assert "fault of our own" not in said
        assert len(said) < 1000

    asyncio.run(ask())


@pytest.mark.parametrize(
    "answer",
    [
        raw(b"[" * 200_000),
        raw(b'{"message":' * 100_000, 403),
        raw(b'{"a":' + b"9" * 5000 + b"}"),
        raw(b"\xff\xfe{"),
        raw(b"xx", encoding="gzip"),
        raw(b'{"message": "\\u001b[2J\\ud800\\nyes"}', 403),
        raw(b'{"message": {"message": []}}', 403),
        raw(b"{}" + b" " * (2 << 20)),
    ],
)
def test_no_body_is_more_than_a_short_printable_refusal(
    mount: Path, authority: trustme.CA, answer: Fault
) -> None:
    async def ask() -> None:
        server = ApiServer()
        server.always = answer
        async with server.serve(mount, authority) as account:
            with pytest.raises(ApiError) as caught:
                await Client(account, 5.0).request("GET", "/api")
        text = str(caught.value)
        assert text.isprintable()
        assert 0 < len(text) <= 320

    asyncio.run(ask())


@pytest.mark.parametrize("token", ["a\nX-Evil: 1", "a\r\nHost: evil", "t\u00f6ken", "to\x00ken"])
def test_what_is_no_token_is_neither_sent_nor_quoted(
    mount: Path, authority: trustme.CA, token: str
) -> None:
    async def ask() -> None:
        server = ApiServer()
        async with server.serve(mount, authority) as account:
            (mount / "token").write_text(token)
            with pytest.raises(ApiError, match="is no token") as caught:
                await Client(account).request("GET", "/api")
        assert caught.value.trouble is Trouble.NO_SERVICE_ACCOUNT
        assert not server.seen

    asyncio.run(ask())
