"""GET /status: everything known, as the schema in the package has it."""

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from probe import __version__
from probe.api.status import About, status
from probe.evidence.records.audit import Access, AccessKind
from probe.model import (
    Condition,
    Hold,
    Observation,
    Outcome,
    Policy,
    Protocol,
    Reason,
    RoundTrip,
    Sample,
    Stage,
    Target,
    Verdict,
    plain,
)
from probe.sidecar.board import FAILURES, TRANSITIONS, Board
from tests.api.service import (
    LISTENER,
    Service,
    failed_trip,
    get,
    good_trip,
    healthy,
    seen,
    serving,
    stalled,
    unanswered,
)

SCHEMA: dict[str, Any] = json.loads(files("probe").joinpath("api/status.schema.json").read_text())
ANSWER = {"$ref": "#/$defs/answer", "$defs": SCHEMA["$defs"]}


def valid(document: object, schema: dict[str, Any] = SCHEMA) -> Any:
    faults = [fault.message for fault in Draft202012Validator(schema).iter_errors(document)]
    assert not faults, faults
    return document


def situations() -> Iterator[tuple[str, list[tuple[Verdict, Observation]]]]:
    blind = Sample(error="sock_diag: permission denied")
    by_proc = LISTENER._replace(limit=None, drops=None)
    yield "nothing yet", []
    yield "healthy", [(healthy(), seen(1.0)), (healthy(), good_trip(2.0))]
    yield "stalled", [(stalled(live=False), seen(1.0)._replace(own_queued_for=12.5))]
    yield "unanswered", [(unanswered(), seen(1.0)), (unanswered(), failed_trip(2.0))]
    yield "cannot tell", [(Verdict("8080"), Observation(1.0, blind))]
    yield "not told", [(healthy(), Observation(1.0, round_trip=RoundTrip(1.0, Outcome.UNKNOWN)))]
    yield (
        "nobody listens",
        [(Verdict("8080", reason=Reason.NOT_LISTENING), Observation(1, Sample()))],
    )
    yield "by /proc", [(healthy(), seen(1.0, by_proc))]
    yield "SO_REUSEPORT", [(healthy(), seen(1.0, LISTENER, LISTENER._replace(cookie=2**63)))]
    yield "limit 0", [(healthy(), seen(1.0, LISTENER._replace(limit=0)))]
    yield "flapping", [(one, seen(1.0)) for one in (healthy(), stalled()) * TRANSITIONS]
    yield "every stage", [(unanswered(), failed_trip(1.0, stage)) for stage in Stage] * 3


@pytest.mark.parametrize("steps", [pytest.param(steps, id=name) for name, steps in situations()])
async def test_every_situation_is_told_as_the_schema_has_it(
    steps: list[tuple[Verdict, Observation]],
) -> None:
    async with serving() as service:
        for verdict, observation in steps:
            service.publish(verdict, observation)
        reply = await get(service.port, "/status")
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
        document = valid(json.loads(reply.body))
        for path in ("/ready", "/live", "/started"):
            answer = valid(
                json.loads((await get(service.port, path, "Accept: application/json")).body), ANSWER
            )
            assert answer[path[1:]] is document[path[1:]]
        service.board.hold(Hold(service.board.clock() + 60, service.board.wall() + 60))
        held = valid(json.loads((await get(service.port, "/status")).body))
        assert (held["live"], held["ready"]) == (True, document["ready"])
        service.board.shut_down()
        document = valid(json.loads((await get(service.port, "/status")).body))
        assert (document["shutting_down"], document["ready"]) == (True, False)
        reply = await get(service.port, "/ready", "Accept: application/json")
        assert valid(json.loads(reply.body), ANSWER)["reason"] == "shutting_down"


def test_the_schema_is_one_and_knows_every_word_of_the_model() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    defined = SCHEMA["$defs"]
    assert defined["condition"]["enum"] == list(Condition)
    assert defined["reason"]["enum"] == list(Reason)
    assert defined["stage"]["enum"] == list(Stage)
    assert defined["target"]["properties"]["protocol"]["enum"] == list(Protocol)
    assert defined["round_trip"]["properties"]["outcome"]["enum"] == list(Outcome)
    assert defined["policy"]["required"] == list(Policy._fields)
    assert defined["target"]["properties"]["failures"]["maxItems"] == FAILURES
    assert defined["target"]["properties"]["transitions"]["maxItems"] == TRANSITIONS


def test_the_schema_is_strict() -> None:
    """Else a field that was renamed in the code alone would pass unseen."""
    for name, schema in {"status": SCHEMA, **SCHEMA["$defs"]}.items():
        if schema.get("type") == "object":
            assert schema["additionalProperties"] is False, name
            assert set(schema["required"]) <= schema["properties"].keys(), name


def test_what_it_tells_is_what_the_board_knows() -> None:
    now = 1000.0
    board = Board([Target(8080)], clock=lambda: now, wall=lambda: 1_800_000_000.0 + now)
    policy = Policy(stalled_for=7.0, live_on=frozenset({"vanished", "unanswered"}))
    service = Service(board, None, None, 0)  # type: ignore[arg-type]  # the board alone is used
    service.publish(healthy(at=990.0), seen(990.0))
    service.publish(unanswered(at=995.5), failed_trip(993.0))
    service.publish(unanswered(at=995.5), seen(999.75)._replace(own_queued_for=1.25))
    document = valid(plain(status(board, About("sock_diag", policy, began=940.0), 0.0015)))
    assert document["version"] == __version__
    assert document["started_at"] == {"at": "2027-01-15T08:15:40.000Z", "seconds_ago": 60.0}
    assert document["loop_lag_seconds"] == 0.0015
    assert document["policy"]["stalled_for"] == 7.0
    assert document["policy"]["live_on"] == ["unanswered", "vanished"]
    (target,) = document["targets"]
    assert target["verdict"]["since"] == {"at": "2027-01-15T08:16:35.500Z", "seconds_ago": 4.5}
    assert target["verdict"]["incident"] == target["verdict"]["since"]
    assert (target["verdict"]["reason"], target["verdict"]["stage"]) == (
        "round_trip_failed",
        "unanswered",
    )
    assert target["observed"]["seconds_ago"] == 0.25
    assert target["own_connection_queued_seconds"] == 1.25
    assert target["listeners"] == [
        {
            "address": "0.0.0.0",
            "port": 8080,
            "length": 3,
            "limit": 5,
            "saturation": 0.6,
            "full": False,
            "drops": 0,
            "cookie": "1f",
            "inode": 4711,
            "uid": 1000,
        }
    ]
    assert target["round_trip"]["begun"]["seconds_ago"] == 7.0
    assert target["round_trip"]["phases_seconds"]["total"] == 2.0
    assert target["failures"] == [target["round_trip"]]
    assert [change["after"]["condition"] for change in target["transitions"]] == [
        "healthy",
        "unhealthy",
    ]
    assert target["transitions"][1]["before"] == target["transitions"][0]["after"]


def test_a_clock_on_the_wall_that_was_set_does_not_move_what_it_saw() -> None:
    wall = 1_800_000_000.0
    board = Board([Target(8080)], clock=lambda: 100.0, wall=lambda: wall)
    Service(board, None, None, 0).publish(healthy())  # type: ignore[arg-type]
    wall += 3600.0
    document = status(board, About("procfs", Policy(), began=0.0), 0.0)
    (change,) = document["targets"][0]["transitions"]
    assert change["when"] == {"at": "2027-01-15T08:00:00.000Z", "seconds_ago": 0.0}


def test_the_self_test_of_the_evidence_is_told_beside_each_target() -> None:
    board = Board([Target(8080), Target(9090)])
    found = {
        "8080": [Access(AccessKind.PROCESS_NAMESPACE, True, "process 7 `java` is in sight")],
        "9090": [
            Access(AccessKind.SYSTEM_CALLS, False, "kernel.yama.ptrace_scope is 1", "set it to 0")
        ],
    }
    document = valid(status(board, About("sock_diag", Policy(), 0.0), 0.0, found.__getitem__))
    assert [target["evidence"][0]["name"] for target in document["targets"]] == [
        "process namespace",
        "system calls",
    ]
    assert document["targets"][1]["evidence"][0]["change"] == "set it to 0"


async def test_what_a_target_sends_is_nobodys_business() -> None:
    """`send` may hold a password, as in AUTH; `expect` what answers it."""
    secret = Target(6379, Protocol.TCP, send=b"AUTH hunter2\r\n", expect=b"+OK")
    async with serving(secret) as service:
        for path in ("/status", "/metrics", "/ready?verbose"):
            assert b"hunter2" not in (await get(service.port, path)).body
