"""The limit of quarantine under every order of events, and what no answer can do to it.

The API server here is two dictionaries behind the client's one method: what is tested are the
orders in which thousands of requests of many pods can be carried out, and answers can be lost. The
requests themselves are tested over TLS below, in test_reporter and in test_client.
"""

import asyncio
import contextlib
import copy
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probe.kubernetes.client import JSON, MERGE_PATCH, Account, ApiError, Client, Trouble, Troubles
from probe.kubernetes.events import Pace
from probe.kubernetes.identity import Identity
from probe.kubernetes.quarantine import HELD, LEASE, LEASES, MARK, Phase, Quarantine, Terms
from probe.response.stalls import Declined, Stall
from tests.kubernetes.apiserver import (
    ApiServer,
    Fault,
    carry_out,
    cut,
    hang,
    lose_answer,
    merge,
    raw,
    status,
)

AT_ONCE = Pace(first=0.0, most=0.0)
STALL = Stall("8080", "why")
NOWHERE = Account("127.0.0.1", "1")


class Objects(Client):
    """Pods and Leases in memory. Each request takes a while, and some take long. Its answer may be
    lost, and it may be carried out long after its client has given up."""

    def __init__(self, seed: int = 0, faults: float = 0.0, may_list: bool = False) -> None:
        super().__init__(NOWHERE)
        self.random = random.Random(seed)
        self.faults = faults
        self.may_list = may_list
        self.pods: dict[str, dict[str, Any]] = {}
        self.leases: dict[str, dict[str, Any]] = {}
        self.most_held = 0
        self.late: list[asyncio.Task[None]] = []
        self._version = 0

    def pod(self, name: str, owner: str = "web", mark: str | None = None) -> dict[str, Any]:
        reference = {"kind": "ReplicaSet", "name": owner, "controller": True}
        metadata = {"name": name, "uid": f"uid-of-{name}", "resourceVersion": self._next()}
        labels = {"app": "web"} | ({MARK: mark} if mark else {})
        self.pods[name] = {
            "metadata": metadata | {"labels": labels, "ownerReferences": [reference]},
            "status": {"startTime": "2026-11-22T09:00:00Z"},
        }
        return self.pods[name]

    def held(self) -> set[str]:
        return {n for n, pod in self.pods.items() if pod["metadata"]["labels"].get(MARK) == HELD}

    def holders(self) -> set[str]:
        return {lease["spec"]["holderIdentity"] for lease in self.leases.values()}

    async def request(
        self,
        method: str,
        where: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        accept: str = JSON,
        patch: str = MERGE_PATCH,
    ) -> dict[str, Any]:
        await self._pass_time()
        if body is not None and self.random.random() < self.faults:
            if self.random.random() < 0.5:
                self.late.append(asyncio.create_task(self._carry_out_late(method, where, body)))
            else:
                with contextlib.suppress(ApiError):
                    self._carry_out(method, where, body)
            final = self.random.random() < 0.3
            raise ApiError(Trouble.FORBIDDEN if final else Trouble.UNREACHABLE, "lost")
        answer = copy.deepcopy(self._carry_out(method, where, body or {}))
        await self._pass_time()
        return answer

    async def _pass_time(self) -> None:
        for _ in range(self.random.choice((0, 0, 1, 2, 3, 40))):
            await asyncio.sleep(0)

    async def _carry_out_late(self, method: str, where: str, body: Mapping[str, Any]) -> None:
        for _ in range(self.random.randrange(200)):
            await asyncio.sleep(0)
        with contextlib.suppress(ApiError):
            self._carry_out(method, where, body)

    def _carry_out(self, method: str, where: str, body: Mapping[str, Any]) -> dict[str, Any]:
        _, _, rest = where.partition("/namespaces/shop/")
        kind, _, name = rest.partition("/")
        if kind == "leases":
            return self._carry_out_on_lease(method, name, body)
        if method == "GET":
            if not self.may_list:
                raise ApiError(Trouble.FORBIDDEN, "HTTP 403")
            return {"items": [self.pods[name] for name in self.held()]}
        pod = self.pods[name]
        version = pod["metadata"]["resourceVersion"]
        if body.get("metadata", {}).get("resourceVersion", version) != version:
            raise ApiError(Trouble.CONFLICT, "HTTP 409")
        if body:
            merge(pod, copy.deepcopy(dict(body)))
            pod["metadata"]["resourceVersion"] = self._next()
            self.most_held = max(self.most_held, len(self.held()))
        return pod

    def _carry_out_on_lease(
        self, method: str, name: str, body: Mapping[str, Any]
    ) -> dict[str, Any]:
        name = name or body["metadata"]["name"]
        present = self.leases.get(name)
        if method == "POST":
            if present is not None:
                raise ApiError(Trouble.CONFLICT, "HTTP 409")
            self.leases[name] = copy.deepcopy(dict(body))
            self.leases[name]["metadata"]["uid"] = self._next()
            return self.leases[name]
        if present is None:
            raise ApiError(Trouble.NOT_FOUND, "HTTP 404")
        if method == "DELETE":
            if body["preconditions"]["uid"] != present["metadata"]["uid"]:
                raise ApiError(Trouble.CONFLICT, "HTTP 409")
            del self.leases[name]
        return present

    def _next(self) -> str:
        self._version += 1
        return f"{self._version}"


def quarantine(
    client: Client,
    name: str,
    limit: int,
    skew: float = 0.0,
    within: float = 30.0,
    clock: Callable[[], float] = time.monotonic,
) -> Quarantine:
    made = Quarantine(
        client,
        Identity(name, "shop", f"uid-of-{name}"),
        Terms((("app", "web-quarantined"),), 3600.0, limit),
        Troubles(),
        pace=AT_ONCE,
        settle=0.0,
        decide_within=within,
        clock=clock,
        wall=lambda: 1_800_000_000.0 + skew,
    )
    made.begin()
    return made


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    limit=st.integers(1, 3),
    pods=st.integers(1, 7),
    by_hand=st.integers(0, 2),
    faults=st.sampled_from([0.0, 0.0, 0.1, 0.4]),
    clocks=st.lists(st.floats(-1e9, 1e9), min_size=7, max_size=7),
)
def test_the_limit_holds_in_every_order_and_by_every_clock(
    seed: int, limit: int, pods: int, by_hand: int, faults: float, clocks: list[float]
) -> None:
    async def rush() -> None:
        client = Objects(seed, faults, may_list=by_hand > 0)
        names = [f"web-{number}" for number in range(pods)]
        client.random.shuffle(names)
        for name in names:
            client.pod(name)
        for number in range(by_hand):
            client.pod(f"labelled-{number}", mark=HELD)
        one_by_one = {name: quarantine(client, name, limit, 0.0) for name in names}

        async def stall(name: str, skew: float) -> None:
            """Twice, as what is left of the first may be in the way of the second."""
            made = one_by_one[name] = quarantine(client, name, limit, skew, 0.05 if faults else 30)
            for _ in range(2):
                for _ in range(client.random.randrange(40)):
                    await asyncio.sleep(0)
                if made.phase is not Phase.HELD:
                    made.begin()
                with contextlib.suppress(Declined):
                    await made.give(STALL)
                made.forget()

        await asyncio.gather(*map(stall, names, clocks))
        await asyncio.gather(*client.late)
        assert client.most_held <= max(limit, by_hand)
        leased = {name for name in client.held() if name in names}
        assert leased <= client.holders()
        if not faults:
            # Every place that there is was taken, and none by a pod that is not set aside.
            assert len(leased) == min(max(limit - by_hand, 0), pods)
            assert leased == client.holders()
            assert not any(made.owed for made in one_by_one.values())

    asyncio.run(rush())


@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.parametrize("may_list", [False, True])
async def test_twelve_pods_of_a_server_that_fails(
    mount: Path, authority: trustme.CA, limit: int, may_list: bool
) -> None:
    """Over TLS: answers are late, lost, refused, or carried out and never told of."""

    server = ApiServer()
    server.may_list = may_list
    chance = random.Random(limit)

    async def late(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(chance.uniform(0.0, 0.3))
        return await carry_out(request)

    faults = (cut, late, late, lose_answer, lose_answer, hang, status(500), status(429))
    server.faults.extend(
        chance.choice(faults) if chance.random() < 0.4 else carry_out for _ in range(200)
    )
    async with server.serve(mount, authority) as account:
        made = []
        for number in range(12):
            server.pod(f"web-{number}")
            client = Client(account, timeout=0.5)
            made.append(quarantine(client, f"web-{number}", limit, 1000.0 * number))
        said = await asyncio.gather(*(one.give(STALL) for one in made), return_exceptions=True)
    held = {
        name for name, pod in server.pods.items() if pod["metadata"]["labels"].get(MARK) == HELD
    }
    assert {type(one) for one in said} <= {str, Declined}
    assert 1 <= len(held) <= limit
    assert held == {f"web-{n}" for n, one in enumerate(made) if one.phase is Phase.HELD}
    assert held <= {lease["spec"]["holderIdentity"] for lease in server.leases.values()}


@pytest.mark.parametrize("may_list", [False, True])
async def test_one_after_the_other_fills_the_places(may_list: bool) -> None:
    client = Objects(may_list=may_list)
    for number in range(5):
        client.pod(f"web-{number}")
    client.pod("other", owner="other")
    assert "kept until" in await quarantine(client, "other", limit=1).give(STALL)
    for name in ("web-4", "web-3", "web-2"):
        assert "kept until" in await quarantine(client, name, limit=3).give(STALL)
    for name in ("web-1", "web-0"):
        said = "^3 of at most 3 of ReplicaSet/web are in quarantine already$"
        with pytest.raises(Declined, match=said):
            await quarantine(client, name, limit=3).give(STALL)
    owned = {
        name: [(owner["kind"], owner["uid"]) for owner in lease["metadata"]["ownerReferences"]]
        for name, lease in client.leases.items()
    }
    assert owned == {
        f"{LEASES}-replicaset-other-0": [("Pod", "uid-of-other")],
        f"{LEASES}-replicaset-web-0": [("Pod", "uid-of-web-4")],
        f"{LEASES}-replicaset-web-1": [("Pod", "uid-of-web-3")],
        f"{LEASES}-replicaset-web-2": [("Pod", "uid-of-web-2")],
    }
    # A pod is deleted, and by the garbage collector what it owned.
    del client.pods["web-3"], client.leases[f"{LEASES}-replicaset-web-1"]
    await quarantine(client, "web-0", limit=3).give(STALL)
    metadata = client.pods["web-0"]["metadata"]
    assert metadata["annotations"][LEASE] == f"{LEASES}-replicaset-web-1"


@pytest.mark.parametrize("may_list", [True, False])
def test_a_pod_that_somebody_has_marked_by_hand_counts_where_it_can_be_seen(
    may_list: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def marked() -> None:
        client = Objects(may_list=may_list)
        client.pod("web-0")
        client.pod("web-1", mark=HELD)
        made = quarantine(client, "web-0", limit=1)
        if may_list:
            with pytest.raises(Declined, match="1 of at most 1 of ReplicaSet/web"):
                await made.give(STALL)
        else:
            await made.give(STALL)
        assert (client.held() == {"web-1"}) is may_list

    asyncio.run(marked())
    assert not caplog.records


async def test_the_namesake_of_a_pod_that_was_has_no_place() -> None:
    """Its Lease is still there until the garbage collector comes by, and is not the new one's."""

    client = Objects()
    client.pod("web-0")
    await quarantine(client, "web-0", limit=1).give(STALL)
    client.pod("web-0")["metadata"]["uid"] = "another"
    with pytest.raises(Declined, match="1 of at most 1"):
        await quarantine(client, "web-0", limit=1).give(STALL)


async def test_a_patch_that_was_long_on_its_way_undoes_nothing() -> None:
    """The place was given back, and is somebody else's by the time it comes."""

    client = Objects()
    client.pod("web-0")
    carry_out, on_its_way = client._carry_out, list[tuple[str, str, Mapping[str, Any]]]()

    def delay(method: str, where: str, body: Mapping[str, Any]) -> dict[str, Any]:
        if body.get("metadata", {}).get("labels", {}).get(MARK) == HELD:
            on_its_way.append((method, where, body))
            raise ApiError(Trouble.FORBIDDEN, "HTTP 403")
        return carry_out(method, where, body)

    client._carry_out = delay  # type: ignore[method-assign]
    with pytest.raises(Declined, match="403"):
        await quarantine(client, "web-0", limit=1).give(STALL)
    assert not client.leases
    (request,) = on_its_way
    with pytest.raises(ApiError, match="409"):
        carry_out(*request)
    assert not client.held()


async def test_a_place_that_could_not_be_given_back_is_owed() -> None:
    client = Objects()
    client.pod("web-0")
    made = quarantine(client, "web-0", limit=1)
    carry_out = client._carry_out

    def refuse(method: str, where: str, body: Mapping[str, Any]) -> dict[str, Any]:
        if method == "DELETE" or "labels" in body.get("metadata", {}):
            raise ApiError(Trouble.FORBIDDEN, "HTTP 403")
        return carry_out(method, where, body)

    client._carry_out = refuse  # type: ignore[method-assign]
    for said in ("403", "an earlier stall could not be given back"):
        with pytest.raises(Declined, match=said):
            await made.give(STALL)
        assert made.owed
        assert client.holders() == {"web-0"}
    client._carry_out = carry_out  # type: ignore[method-assign]
    await made.withdraw()
    assert not made.owed
    assert not client.leases


async def test_the_place_is_given_back_when_the_sidecar_ends_at_its_time_and_not_before() -> None:
    client = Objects()
    client.pod("web-0")
    now = [0.0]
    first = quarantine(client, "web-0", limit=1, clock=lambda: now[0])
    await first.give(STALL)
    now[0] = 3599.0
    await first.end()
    assert client.holders() == {"web-0"}
    # It was restarted on the way; what it has is written on the pod.
    again = quarantine(client, "web-0", limit=1, clock=lambda: now[0])
    await again.give(STALL)
    now[0] = 7200.0
    await again.end()
    assert not client.leases


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
    client = Objects()
    client.pod("web-0", mark=HELD)["metadata"]["annotations"] = {f"{MARK}-until": until}
    now = [0.0]
    one = quarantine(client, "web-0", limit=1, clock=lambda: now[0])
    asyncio.run(one.give(STALL))
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
        *("uid", MARK, LEASE, f"{MARK}-owner", f"{MARK}-until"),
    ]
)
WORDS = st.sampled_from(
    ["web-0", HELD, "2026-11-22T09:00:00Z", "0001-01-01T00:00:00+23:59", "\ud800\x1b\n"]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=20,
)
OWN = {"name": "web-0", "uid": "u", "resourceVersion": "1"}
POD = st.dictionaries(KEYS, ANYTHING, max_size=4).map(
    lambda odd: {"metadata": OWN | {"ownerReferences": [OWN]}, **odd}
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
            said = await one.give(STALL)
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
async def test_no_body_is_more_than_a_short_printable_refusal(
    mount: Path, authority: trustme.CA, answer: Fault
) -> None:
    server = ApiServer()
    server.always = answer
    async with server.serve(mount, authority) as account:
        with pytest.raises(ApiError) as caught:
            await Client(account, 5.0).request("GET", "/api")
    text = str(caught.value)
    assert text.isprintable()
    assert 0 < len(text) <= 320


@pytest.mark.parametrize("token", ["a\nX-Evil: 1", "a\r\nHost: evil", "t\u00f6ken", "to\x00ken"])
async def test_what_is_no_token_is_neither_sent_nor_quoted(
    mount: Path, authority: trustme.CA, token: str
) -> None:
    server = ApiServer()
    async with server.serve(mount, authority) as account:
        (mount / "token").write_text(token)
        with pytest.raises(ApiError, match="is no token") as caught:
            await Client(account).request("GET", "/api")
    assert caught.value.trouble is Trouble.NO_SERVICE_ACCOUNT
    assert not server.seen
