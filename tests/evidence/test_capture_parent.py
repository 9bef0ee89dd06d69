"""The parent's side of a capture, with children that hang, crash, flood and talk nonsense."""

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from probe.evidence.capture import parent as capture
from probe.evidence.records.report import CaptureRequest, Missing, Report

CHILD = (sys.executable, str(Path(__file__).with_name("fake_child.py")))


def gather(
    *steps: str,
    seconds: float = 10,
    each: float = 5,
    command: tuple[str, ...] = CHILD,
) -> capture.Gathered:
    return asyncio.run(
        capture.gather(
            CaptureRequest(port=8080),
            seconds=seconds,
            steps=dict.fromkeys(steps, each),
            command=command,
        ),
        debug=True,
    )


def no_children_left() -> bool:
    """Nothing of ours runs any more, zombies included."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return not children


def test_all_goes_well() -> None:
    gathered = gather("one", "two")
    assert gathered.sections == {"one": True, "two": True}
    assert gathered.missing == ()
    assert [step.name for step in gathered.steps] == ["one", "two"]
    assert gathered.children == 1
    assert no_children_left()


@pytest.mark.parametrize(
    ("step", "why"),
    [
        ("hang", "it took longer than its 0.5 s"),
        ("fork", "it took longer than its 0.5 s"),
        ("crash", "the capture's child was ended by SIGSEGV"),
        ("fail", "the capture's child ended with exit code 7"),
        ("leave", "the capture's child left it out"),
        ("rubbish", "the capture's child made no sense: Expecting value: line 1 column 1 (char 0)"),
        (
            "list",
            "the capture's child made no sense: list indices must be integers or slices, not str",
        ),
    ],
)
def test_a_bad_step_costs_itself_alone(step: str, why: str) -> None:
    began = time.monotonic()
    gathered = gather("one", step, "two", "three", each=0.5)
    assert gathered.sections == {"one": True, "two": True, "three": True}
    (missing,) = gathered.missing
    assert missing.what == step
    assert missing.why.startswith(why)
    assert gathered.children == 2
    assert time.monotonic() - began < 3
    assert no_children_left()


def test_every_step_is_bad() -> None:
    gathered = gather("hang-1", "one", "crash-2", "two", "hang-3", each=0.4)
    assert gathered.sections == {"one": True, "two": True}
    assert [missing.what for missing in gathered.missing] == ["hang-1", "crash-2", "hang-3"]


def test_the_time_for_all_ends() -> None:
    """What was gathered before stays."""
    began = time.monotonic()
    gathered = gather("one", "hang", "two", seconds=1)
    assert 0.9 < time.monotonic() - began < 2
    assert gathered.sections == {"one": True}
    assert gathered.missing == (
        Missing("hang", "the capture's time was over"),
        Missing("two", "no time was left of the capture's 1 s"),
    )
    assert no_children_left()


def test_a_flood_is_stopped() -> None:
    gathered = gather("one", "flood", "two")
    assert gathered.sections == {"one": True, "two": True}
    why = "the capture's child made no sense: the child wrote more than 4194304 bytes"
    assert gathered.missing == (Missing("flood", why),)


def test_a_later_child_goes_on_with_what_an_earlier_one_found() -> None:
    gathered = gather("one", "crash", "before", "two")
    ((pid, _),) = gathered.sections["before"]
    assert pid > 1
    assert gathered.sections["two"] is True


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (("/no/such/interpreter",), "cannot be started: No such file or directory"),
        ((sys.executable, "-c", "raise SystemExit(1)"), "ended with exit code 1"),
        ((sys.executable, "-c", ""), "left it out"),
    ],
)
def test_no_child_at_all(command: tuple[str, ...], why: str) -> None:
    gathered = gather("one", "two", command=command)
    assert gathered.sections == {}
    assert [missing.what for missing in gathered.missing] == ["one", "two"]
    assert all(missing.why.endswith(why) for missing in gathered.missing)


def test_it_is_cancelled() -> None:
    """At the sidecar's end the child is ended as well."""

    async def begin_and_cancel() -> None:
        task = asyncio.create_task(
            capture.gather(CaptureRequest(8080), seconds=10, steps={"hang": 10.0}, command=CHILD)
        )
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(begin_and_cancel())
    assert no_children_left()


def test_sections_that_make_no_sense_are_missing() -> None:
    gathered = capture.Gathered({"sysctls": [["a", "b"]], "cgroup": [1], "other": 1}, (), (), 1)
    report = capture.assemble(Report("id", "at", 8080, "diagnose"), gathered)
    assert report.sysctls == (("a", "b"),)
    assert report.cgroup is None
    assert [missing.what for missing in report.missing] == ["cgroup", "other"]


@pytest.mark.parametrize("turns", range(4))
async def test_who_is_cancelled_as_the_child_speaks_does_not_go_on(turns: int) -> None:
    """Or a sidecar that is told to end, while it learns, never does."""

    output = asyncio.StreamReader()
    progress = capture.Progress({"one": 5.0})
    listening = asyncio.create_task(capture.listen(output, progress, time.monotonic() + 60))
    for _ in range(3):
        await asyncio.sleep(0)  # until it waits for the child
    output.feed_data(b'{"begin": "one"}\n')
    for _ in range(turns):
        await asyncio.sleep(0)
    listening.cancel()
    await asyncio.wait([listening], timeout=5)
    assert listening.cancelled()
