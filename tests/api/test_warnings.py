"""What a caller is told who knows more than yes and no: Envoy by a header, Consul by a status."""

import json

import pytest

from probe.model import Target, Verdict
from tests.api.service import (
    get,
    healthy,
    saturated,
    serving,
    stalled,
    suspect,
    unanswered,
)


@pytest.mark.parametrize(
    ("verdict", "degraded"),
    [
        (healthy(), False),
        (suspect(), True),
        (saturated(), True),
        (stalled(), False),
        (unanswered(), False),
        (Verdict("8080"), False),
    ],
)
async def test_envoy_is_told_while_a_target_is_suspect_or_saturated(
    verdict: Verdict, degraded: bool
) -> None:
    async with serving() as service:
        service.publish(verdict)
        for path in ("/ready", "/live", "/started", "/ready/8080", "/ready?verbose"):
            headers = (await get(service.port, path)).headers
            assert ("x-envoy-degraded" in headers) is degraded
        assert "x-envoy-degraded" not in (await get(service.port, "/status")).headers


async def test_a_target_that_is_not_meant_degrades_nothing() -> None:
    async with serving(Target(8080), Target(9000)) as service:
        service.publish(healthy("8080"))
        service.publish(suspect("9000"))
        for path in ("/ready/8080", "/ready?exclude=9000"):
            assert "x-envoy-degraded" not in (await get(service.port, path)).headers
        for path in ("/ready", "/ready/9000"):
            assert "x-envoy-degraded" in (await get(service.port, path)).headers


async def test_consul_is_warned_by_the_status_it_knows() -> None:
    why = (
        "accept_queue_stalled: 8080 accept queue stalled: 6 of 5 queued, nothing accepted for 12 s"
    )
    async with serving() as service:
        service.publish(healthy())
        well = await get(service.port, "/ready?warn=429")
        assert (well.status, well.text) == (200, "ready\n")
        service.publish(suspect())
        warned = await get(service.port, "/ready?warn=429")
        assert (warned.status, warned.text) == (429, f"ready\nwarning: {why}\n")
        told = await get(service.port, "/ready?warn=429", "Accept: application/json")
        assert (told.status, json.loads(told.body)["degraded"]) == (429, ["8080"])
        assert (await get(service.port, "/ready")).text == "ready\n", "nobody else is"
        service.publish(stalled())
        failed = await get(service.port, "/ready?warn=429")
        assert (failed.status, failed.text) == (503, f"not ready: {why}\n")


@pytest.mark.parametrize("value", ["", "none", "99", "199", "299", "600", "4 29", "-1", "42_9x"])
@pytest.mark.parametrize("path", ["/ready", "/live/8080"])
async def test_what_is_no_status_of_an_answer_is_refused(path: str, value: str) -> None:
    async with serving() as service:
        service.publish(suspect())
        reply = await get(service.port, f"{path}?warn={value.replace(' ', '+')}")
    assert reply.status == 400
    assert reply.text == "400: warn takes the status of an answer, as in warn=429\n"
