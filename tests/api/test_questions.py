"""GET /ready, /live, /started: the codes and the words."""

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from probe.api.replies import Replies, prefers_json
from probe.api.requests import Request, read
from probe.api.status import About
from probe.display import utc
from probe.model import (
    Condition,
    Hold,
    Observation,
    Policy,
    Reason,
    Sample,
    Stage,
    Target,
    Verdict,
)
from tests.api.service import (
    Service,
    failed_trip,
    get,
    good_trip,
    healthy,
    read_reply,
    request,
    seen,
    serving,
    stalled,
    unanswered,
)

ALIASES = {
    "/ready": ["/readyz"],
    "/live": ["/livez", "/healthz"],
    "/started": ["/startupz"],
}
EVERY_PATH = [path for main, others in ALIASES.items() for path in (main, *others)]


async def test_nothing_is_ready_or_started_before_it_was_seen_but_live_it_is() -> None:
    async with serving() as service:
        ready = await get(service.port, "/ready")
        live = await get(service.port, "/live")
        started = await get(service.port, "/started")
    assert (ready.status, ready.text) == (503, "not ready: starting: 8080 not seen yet\n")
    assert (live.status, live.text) == (200, "live\n")
    assert (started.status, started.text) == (503, "not started: starting: 8080 not seen yet\n")


async def test_a_healthy_target_answers_every_question_in_one_word() -> None:
    async with serving() as service:
        service.publish(healthy())
        for path, word in [("/ready", "ready"), ("/live", "live"), ("/started", "started")]:
            reply = await get(service.port, path)
            assert (reply.status, reply.text) == (200, f"{word}\n")
            assert reply.headers["content-type"] == "text/plain; charset=utf-8"
            assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("verdict", [healthy(), stalled(live=False), Verdict("8080")])
async def test_an_alias_answers_as_the_path_it_stands_for(verdict: Verdict) -> None:
    async with serving() as service:
        service.publish(verdict)
        for main, others in ALIASES.items():
            expected = await get(service.port, main)
            for other in others:
                reply = await get(service.port, other)
                assert (reply.status, reply.text) == (expected.status, expected.text)


async def test_the_first_line_names_the_code_and_gives_the_figures() -> None:
    async with serving() as service:
        service.publish(stalled(live=False))
        ready = await get(service.port, "/ready")
        live = await get(service.port, "/live")
        started = await get(service.port, "/started")
    why = "8080 accept queue stalled: 6 of 5 queued, nothing accepted for 12 s"
    assert (ready.status, ready.text) == (503, f"not ready: accept_queue_stalled: {why}\n")
    assert (live.status, live.text) == (503, f"not live: accept_queue_stalled: {why}\n")
    assert started.status == 200


async def test_a_failed_round_trip_carries_its_stage() -> None:
    async with serving() as service:
        service.publish(unanswered())
        reply = await get(service.port, "/ready")
    assert reply.first_line == (
        "not ready: round_trip_failed/unanswered: 8080 round trip failed: no answer within 2 s"
    )


async def test_the_worst_target_speaks_for_all() -> None:
    async with serving(Target(8080), Target(9090), Target(7070)) as service:
        service.publish(healthy("8080"))
        service.publish(unanswered("9090", at=50.0))
        service.publish(stalled("7070", at=20.0))
        assert "7070" in (await get(service.port, "/ready")).first_line, "it has failed for longer"
        service.publish(Verdict("7070", Condition.UNKNOWN, Reason.STARTING, since=1.0))
        assert "9090" in (await get(service.port, "/ready")).first_line, "starting is not as bad"
        service.publish(healthy("7070"))
        service.publish(healthy("9090"))
        assert (await get(service.port, "/ready")).status == 200


async def test_the_line_counts_and_names_all_that_fail() -> None:
    async with serving(*map(Target, (8080, 9090, 7070, 6060))) as service:
        service.publish(healthy("8080"))
        service.publish(unanswered("9090", at=50.0))
        service.publish(stalled("7070", at=20.0))
        line = (await get(service.port, "/ready")).first_line
        answer = json.loads((await get(service.port, "/ready", "Accept: application/json")).body)
    assert line == (
        "not ready: accept_queue_stalled: 7070 accept queue stalled: 6 of 5 queued, nothing "
        "accepted for 12 s; 2 more of 4 targets: 9090 round_trip_failed/unanswered, 6060 starting"
    )
    assert (answer["target"], answer["failing"]) == ("7070", ["7070", "9090", "6060"])


async def test_however_many_fail_the_line_stays_short() -> None:
    async with serving(*map(Target, range(10_000, 10_064))) as service:
        for name in service.board.entries:
            service.publish(stalled(name, at=float(name)))
        line = (await get(service.port, "/ready")).first_line
    assert line.startswith("not ready: accept_queue_stalled: 10000 accept queue stalled: ")
    assert "; 63 more of 64 targets: 10001 accept_queue_stalled, 10002 " in line
    assert line.endswith(", 10016 accept_queue_stalled, 47 others")
    assert len(line) < 800


# --- of one target


async def test_a_target_is_asked_about_by_its_name() -> None:
    async with serving(Target(8080), Target(9000)) as service:
        service.publish(healthy("8080"))
        service.publish(stalled("9000", live=False))
        why = "accept_queue_stalled: 9000 accept queue stalled: 6 of 5 queued, nothing accepted for"
        for main, others in ALIASES.items():
            word = main[1:]
            for path in (main, *others):
                well = await get(service.port, f"{path}/8080")
                assert (well.status, well.text) == (200, f"{word}\n")
                ill = await get(service.port, f"{path}/9000")
                if word == "started":
                    assert ill.status == 200
                else:
                    assert (ill.status, ill.text) == (503, f"not {word}: {why} 12 s\n")
        verbose = await get(service.port, "/ready/8080?verbose")
        assert [line.split()[0] for line in verbose.text.splitlines()[1:]] == [
            *("[+]shutdown", "[+]8080/listening", "[+]8080/accept-queue", "[+]8080/round-trip")
        ]
        answer = await get(service.port, "/live/9000", "Accept: application/json")
        assert (answer.status, json.loads(answer.body)["target"]) == (503, "9000")
        service.board.shut_down()
        assert (await get(service.port, "/ready/8080")).status == 503
        assert (await get(service.port, "/live/8080")).status == 200


async def test_the_evidence_of_one_target_keeps_that_one_alive_alone() -> None:
    async with serving(Target(8080), Target(9000)) as service:
        service.publish(stalled("8080", live=False))
        service.publish(stalled("9000", live=False))
        service.board.gate_live(lambda verdict: verdict.target == "9000")
        assert (await get(service.port, "/live/8080")).status == 503
        assert (await get(service.port, "/live/9000")).status == 200
        line = (await get(service.port, "/live")).first_line
        assert line.startswith("not live: accept_queue_stalled: 8080 ")
        assert "9000" not in line


@pytest.mark.parametrize(
    ("path", "shown"), [("/ready/9000", "9000"), ("/live/a%2Fb%0A", r"a/b\n"), ("/started//", "/")]
)
async def test_what_is_no_target_is_not_found(path: str, shown: str) -> None:
    async with serving(Target(8080), Target(8081)) as service:
        reply = await get(service.port, path)
        assert (reply.status, reply.text) == (404, f"404: no target {shown} here, but 8080, 8081\n")


@pytest.mark.parametrize("path", ["/ready/", "/readyness/8080", "/status/8080"])
async def test_other_pages_have_no_targets(path: str) -> None:
    async with serving() as service:
        reply = await get(service.port, path)
    assert (reply.status, reply.first_line[:17]) == (404, "404: nothing here")


async def test_a_question_in_a_conversation_has_the_answer_of_one_on_its_own() -> None:
    """kubelet's is answered without aiohttp, the second one of a browser with it."""
    async with serving(Target(8080), Target(9000)) as service:
        service.publish(healthy("8080"))
        service.publish(stalled("9000", live=False))
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        for path in (
            *("/ready", "/ready/8080", "/live/9000?verbose", "/ready?exclude=9000&verbose"),
            *("/ready//run/app.sock", "/ready/%2Frun%2Fapp.sock", "/live/@abstract"),
            *("/ready/%38080", "/live/7?exclude=7", "/started/8080/", "/ready?exclude=%0A&verbose"),
        ):
            alone = await get(service.port, path)
            writer.write(request(path))
            reply = await read_reply(reader)
            assert (reply.status, reply.text) == (alone.status, alone.text)
        writer.close()
        await writer.wait_closed()


async def test_a_question_about_one_target_is_answered_without_a_conversation() -> None:
    async with serving(Target(8080)) as service:
        replies = Replies(service.board, About("sock_diag", Policy(), 0.0), service.metrics)
        for path in ("/live/8080", "/ready/8080?verbose", "/ready?exclude=8080", "/live/9"):
            told = read(request(path, close=True))
            assert isinstance(told, Request)
            assert replies.at_once(told) is not None


# --- of all but some


async def test_what_is_excluded_does_not_count() -> None:
    async with serving(Target(8080), Target(9000), Target(9001)) as service:
        service.publish(healthy("8080"))
        service.publish(stalled("9000", live=False))
        service.publish(unanswered("9001"))
        assert (await get(service.port, "/ready?exclude=9000")).first_line == (
            "not ready: round_trip_failed/unanswered: 9001 round trip failed: no answer within 2 s"
        )
        both = await get(service.port, "/ready?exclude=9000&exclude=9001")
        assert (both.status, both.text) == (200, "ready\n")
        assert (await get(service.port, "/live?exclude=9000")).status == 200
        shown = await get(service.port, "/ready?exclude=9000&exclude=70&exclude=9001&verbose")
        assert shown.text.splitlines()[-3:] == [
            "[+]70 ok: excluded, and there is no such target",
            "[+]9000 ok: excluded",
            "[+]9001 ok: excluded",
        ]
        service.board.shut_down()
        assert (await get(service.port, "/ready?exclude=9000&exclude=9001")).status == 503


async def test_who_asks_about_one_target_excludes_nothing() -> None:
    async with serving(Target(8080)) as service:
        service.publish(stalled())
        reply = await get(service.port, "/ready/8080?exclude=8080")
    assert reply.status == 503


async def test_a_target_that_changed_hands_is_ready_but_has_not_started() -> None:
    async with serving() as service:
        service.publish(healthy()._replace(started=False))
        assert (await get(service.port, "/ready")).status == 200
        reply = await get(service.port, "/started")
    assert (reply.status, reply.first_line) == (
        503,
        "not started: starting: 8080 has not answered since its present listener appeared",
    )


async def test_live_is_held_while_evidence_is_being_saved() -> None:
    async with serving() as service:
        service.publish(stalled(live=False))
        saving = True
        service.board.gate_live(lambda verdict: saving)
        assert (await get(service.port, "/live")).status == 200
        saving = False
        assert (await get(service.port, "/live")).status == 503


async def test_shutting_down_is_not_ready_at_once_and_lives_on() -> None:
    async with serving() as service:
        service.publish(healthy())
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(request("/ready"))
        assert (await read_reply(reader)).status == 200
        service.board.shut_down()
        writer.write(request("/ready?verbose"))
        reply = await read_reply(reader)
        assert reply.status == 503
        assert reply.text == (
            "not ready: shutting_down: the sidecar is shutting down\n"
            "[-]shutdown failed: the sidecar is shutting down\n"
            "[+]8080/listening ok\n"
            "[+]8080/accept-queue ok\n"
            "[+]8080/round-trip ok\n"
        )
        writer.close()
        await writer.wait_closed()
        assert (await get(service.port, "/live")).status == 200
        assert (await get(service.port, "/started")).status == 200


# --- verbose


async def test_verbose_has_a_line_for_every_check_of_every_target() -> None:
    async with serving(Target(8080), Target(9090)) as service:
        now = service.board.clock()
        for observation in (seen(now), failed_trip(now)):
            service.publish(stalled("8080"), observation)
        for observation in (seen(now), good_trip(now)):
            service.publish(healthy("9090"), observation)
        reply = await get(service.port, "/ready?verbose")
        short = await get(service.port, "/ready")
    assert reply.status == 503
    why = (
        "accept_queue_stalled: 8080 accept queue stalled: 6 of 5 queued, nothing accepted for 12 s"
    )
    assert reply.text == (
        f"not ready: {why}\n"
        "[+]shutdown ok\n"
        "[+]8080/listening ok\n"
        f"[-]8080/accept-queue failed: {why}\n"
        "[-]8080/round-trip failed: unanswered: no answer within 2 s\n"
        "[+]9090/listening ok\n"
        "[+]9090/accept-queue ok\n"
        "[+]9090/round-trip ok\n"
    )
    assert short.text == reply.first_line + "\n"


async def test_verbose_says_what_has_not_been_seen_and_what_could_not_be() -> None:
    async with serving() as service:
        before = await get(service.port, "/started?verbose")
        blind = Observation(service.board.clock(), Sample(error="sock_diag: permission denied"))
        service.publish(Verdict("8080"), blind)
        after = await get(service.port, "/started?verbose")
        service.publish(Verdict("8080"), Observation(service.board.clock(), Sample()))
        gone = await get(service.port, "/started?verbose")
    assert "[-]8080/listening failed: not seen yet\n" in before.text
    assert "[-]8080/round-trip failed: starting: 8080 not seen yet\n" in before.text
    assert "[-]8080/listening failed: sock_diag: permission denied\n" in after.text
    assert "[-]8080/listening failed: nothing listens\n" in gone.text
    assert "[+]8080/accept-queue ok\n" in gone.text


async def test_live_fails_for_the_reason_of_the_verdict_alone() -> None:
    async with serving() as service:
        service.publish(stalled(live=False), failed_trip(0.0, Stage.QUEUED))
        reply = await get(service.port, "/livez?verbose")
    assert [line[:3] for line in reply.text.splitlines()] == ["not", "[+]", "[-]", "[+]"]


@pytest.mark.parametrize("path", EVERY_PATH)
async def test_verbose_and_the_code_never_disagree(path: str) -> None:
    """An [-] line in an answer of 200, or none in one of 503, would send people astray."""
    async with serving() as service:
        now = service.board.clock()
        for verdict in (healthy(), stalled(live=False), unanswered(), Verdict("8080")):
            for observation in (seen(now), Observation(now, Sample()), failed_trip(now)):
                service.publish(verdict, observation)
                reply = await get(service.port, f"{path}?verbose")
                assert (reply.status == 503) == ("[-]" in reply.text), reply.text


# --- while somebody holds it

WHY = "accept_queue_stalled: 8080 accept queue stalled: 6 of 5 queued, nothing accepted for 12 s"


def held(service: Service, *, ready: bool = False, seconds: float = 60.0) -> str:
    """Hold it; until when, as answers say it."""
    board = service.board
    ends = board.wall() + seconds
    board.hold(Hold(board.clock() + seconds, ends, ready, "uid 0 (process 7)"))
    return f"held by hand until {utc(ends)}"


async def test_a_hold_is_told_in_every_answer_and_what_would_be_without_it() -> None:
    async with serving() as service:
        service.publish(stalled(live=False))
        until = held(service)
        ready, live, started = [
            await get(service.port, path) for path in ("/ready", "/live", "/started")
        ]
        assert (ready.status, ready.text) == (503, f"not ready: {WHY}; live is {until}\n")
        assert (live.status, live.text) == (200, f"live: {until}; without that not live: {WHY}\n")
        assert (started.status, started.text) == (200, f"started: live is {until}\n")
        until = held(service, ready=True)
        ready = await get(service.port, "/ready")
        assert (ready.status, ready.text) == (
            200,
            f"ready: {until}; without that not ready: {WHY}\n",
        )
        service.publish(healthy())
        assert (await get(service.port, "/live")).text == f"live: {until}\n"
        service.board.hold(None)
        assert (await get(service.port, "/live")).text == "live\n"


async def test_a_hold_is_told_check_by_check_and_to_programs() -> None:
    async with serving() as service:
        service.publish(stalled(live=False))
        until = held(service)
        lines = (await get(service.port, "/live?verbose")).text.splitlines()
        assert f"[+]8080/accept-queue ok: held by hand, in spite of {WHY}" in lines
        assert not any(line.startswith("[-]") for line in lines)
        assert "[-]8080/accept-queue failed" in (await get(service.port, "/ready?verbose")).text
        for path in ("/ready", "/live", "/started"):
            answer = json.loads((await get(service.port, path, "Accept: application/json")).body)
            assert until.endswith(answer["held"]["until"])
            assert answer["held"]["ready"] is False
            assert 0 < answer["held"]["seconds_left"] <= 60


async def test_a_hold_that_is_over_is_over_whoever_is_late_to_say_so() -> None:
    async with serving() as service:
        service.publish(stalled(live=False))
        held(service, ready=True, seconds=-0.001)
        assert (await get(service.port, "/live")).text == f"not live: {WHY}\n"
        assert (await get(service.port, "/ready")).status == 503


# --- JSON


async def test_json_for_programs() -> None:
    async with serving() as service:
        service.publish(unanswered(), seen(service.board.clock()))
        reply = await get(service.port, "/ready", "Accept: application/json")
        assert (reply.status, reply.headers["content-type"]) == (503, "application/json")
        answer = json.loads(reply.body)
        checks = answer.pop("checks")
        assert answer == {
            "ready": False,
            "reason": "round_trip_failed",
            "stage": "unanswered",
            "target": "8080",
            "message": "8080 round trip failed: no answer within 2 s",
            "failing": ["8080"],
            "degraded": [],
            "held": None,
        }
        assert [(check["name"], check["ok"]) for check in checks] == [
            ("shutdown", True),
            ("8080/listening", True),
            ("8080/accept-queue", True),
            ("8080/round-trip", False),
        ]
        live = await get(service.port, "/healthz", "Accept: application/json")
        assert live.status == 200
        assert json.loads(live.body)["live"] is True


@pytest.mark.parametrize(
    ("accept", "json_is_preferred"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/json", True),
        ("APPLICATION/JSON", True),
        ("application/*", True),
        ("application/json, */*;q=0.1", True),
        ("application/json;q=0.5, text/plain", False),
        ("text/plain;q=0.2,application/json;q=0.3", True),
        ("application/json;q=0", False),
        ("application/json; q=0, */*", False),
        ("application/json;q=0.9;charset=utf-8", True),
        ("application/json, text/plain", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
        ("application/json;q=banana", False),
        ("application/json;q=", False),
        ("application/json;q=nan", False),
        (",;,;;q=,application/json", True),
        ("image/png", False),
    ],
)
def test_the_accept_header_is_weighed(accept: str, json_is_preferred: bool) -> None:
    assert prefers_json(accept) is json_is_preferred


# --- how it is asked


@pytest.mark.parametrize(
    "path", [*EVERY_PATH, "/status", "/metrics", "/ready?verbose", "/ready/8080"]
)
async def test_head_has_the_headers_of_get_and_no_body(path: str) -> None:
    async with serving() as service:
        service.publish(healthy())
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(request(path, method="HEAD") + request("/live"))
        head = await read_reply(reader, "HEAD")
        assert int(head.headers["content-length"]) > 0
        assert (await read_reply(reader)).text == "live\n", "the next answer follows at once"
        writer.close()
        await writer.wait_closed()


watched: list[str] | None = None


def hook(event: str, arguments: tuple[object, ...]) -> None:
    # asyncio sends an answer by sendmsg since Python 3.14; that is no question to anybody.
    if event == "socket.sendmsg":
        return
    if watched is not None and event.split(".")[0] in {"open", "socket", "subprocess", "os"}:
        watched.append(f"{event}{arguments}")


sys.addaudithook(hook)


@contextmanager
def watching() -> Iterator[list[str]]:
    """Collect what the interpreter reports of files opened, sockets made and connections begun."""
    global watched
    found: list[str] = []
    watched = found
    try:
        yield found
    finally:
        watched = None


async def test_every_answer_comes_from_memory() -> None:
    async with serving() as service:
        service.publish(stalled(), seen(service.board.clock()))
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        for _warm in range(2):
            with watching() as events:
                for path in (*EVERY_PATH, "/ready/8080?exclude=1", "/status", "/metrics"):
                    writer.write(request(path))
                    assert (await read_reply(reader)).status in (200, 503)
        assert events == []
        with watching() as events:
            assert (await get(service.port, "/live")).status == 200
        assert events, "a connection is seen, so the watch works"
        writer.close()
        await writer.wait_closed()


async def test_who_is_kept_in_service_is_ready_and_says_why() -> None:
    """By every way to ask, and not while shutting down; what stalls is not kept."""
    why = "round trip failed, kept in service: 2 of 10 endpoints are ready"
    async with serving(Target(8080), Target(9090)) as service:
        service.board.gate_ready(
            lambda verdict: why if verdict.reason is Reason.ROUND_TRIP_FAILED else ""
        )
        service.publish(healthy("9090"))
        service.publish(unanswered())
        ready = await get(service.port, "/ready")
        assert (ready.status, ready.text) == (200, f"ready: {why}\n")
        assert f"[+]8080/round-trip ok: {why}\n" in (await get(service.port, "/ready?verbose")).text
        told = json.loads((await get(service.port, "/ready", "Accept: application/json")).text)
        assert (told["ready"], told["message"]) == (True, why)
        status = json.loads((await get(service.port, "/status")).text)
        assert [target["kept_ready"] for target in status["targets"]] == [why, None]
        assert status["ready"]
        metrics = (await get(service.port, "/metrics")).text
        assert 'acceptprobe_ready{target="8080"} 1.0' in metrics
        assert 'acceptprobe_reason{reason="round_trip_failed",target="8080"} 1.0' in metrics
        service.publish(stalled("9090"))
        assert (await get(service.port, "/ready")).text.startswith(
            "not ready: accept_queue_stalled: 9090"
        )
        service.publish(healthy("9090"))
        service.board.shut_down()
        assert (await get(service.port, "/ready")).status == 503
