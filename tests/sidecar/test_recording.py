"""What was recorded replays to the same verdicts."""

import logging
import os
import resource
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probe import judge
from probe.model import (
    Listener,
    Observation,
    Outcome,
    Phases,
    Policy,
    RoundTrip,
    Sample,
    Stage,
    Target,
    Work,
)
from probe.sidecar import recording

listeners = st.builds(
    Listener,
    family=st.sampled_from([2, 10]),
    address=st.sampled_from(["0.0.0.0", "::1"]),
    port=st.just(8080),
    cookie=st.integers(0, 2**64 - 1),
    length=st.integers(0, 5000),
    limit=st.none() | st.integers(0, 5000),
    drops=st.none() | st.integers(0, 2**32),
    inode=st.integers(0, 2**32),
    uid=st.integers(0, 2**32 - 1),
)
times = st.none() | st.floats(0, 100)
round_trips = st.builds(
    RoundTrip,
    at=st.floats(0, 1e6),
    outcome=st.sampled_from(list(Outcome)),
    stage=st.none() | st.sampled_from(list(Stage)),
    detail=st.text(max_size=30),
    status=st.none() | st.integers(100, 599),
    accepted=st.booleans(),
    phases=st.builds(Phases, *[times] * 5),
)
samples = st.builds(
    Sample,
    listeners=st.lists(listeners, max_size=3).map(tuple),
    accepts=st.none() | st.integers(-5, 5),
    head=st.lists(st.integers(0, 2**64 - 1), max_size=3).map(tuple),
    error=st.text(max_size=20),
)
works = st.builds(
    Work,
    accepted=st.integers(0, 50_000),
    served=st.integers(0, 50_000),
    sent_ago=times,
    working=st.integers(0, 50_000),
    resets=st.none() | st.integers(0, 2**32),
    youngest_owner=times,
    acceptors_gone=st.sampled_from([None, True, False]),
)
observations = st.builds(
    Observation,
    at=st.floats(0, 1e6),
    sample=st.none() | samples,
    round_trip=st.none() | round_trips,
    accepted=st.booleans(),
    own_queued_for=st.none() | st.floats(0, 100),
    work=st.none() | works,
)
fresh_file_each_time = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
TARGETS = {"8080": Target(8080)}


@fresh_file_each_time
@given(seen=st.lists(observations, max_size=8))
def test_reads_what_it_wrote(tmp_path: Path, seen: list[Observation]) -> None:
    path = tmp_path / "recording"
    policy = Policy(stalled_for=4.5, live_on=frozenset({"vanished"}))
    recorder = recording.Recorder(path, TARGETS, policy)
    for observation in seen:
        recorder("8080", observation)
    recorder.close()
    header, read = recording.read(path)
    assert header == recording.RecordingHeader(policy, ("8080",))
    assert list(read) == [("8080", observation) for observation in seen]


def test_an_incident_replays_exactly(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    recorder = recording.Recorder(path, TARGETS, Policy())
    state = judge.initial(TARGETS["8080"])
    for at in range(60):
        row = Listener(2, "0.0.0.0", 8080, 1, at % 7, 5, 0, 7, 0)
        observation = Observation(float(at), Sample((row,), accepts=at // 20))
        recorder("8080", observation)
        state, _ = judge.step(state, observation, Policy())
    recorder.close()
    header, read = recording.read(path)
    again = judge.initial(TARGETS["8080"])
    for _, observation in read:
        again, _ = judge.step(again, observation, header.policy)
    assert again == state


def test_it_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    recorder = recording.Recorder(path, TARGETS, Policy(), max_bytes=4000)
    for at in range(1000):
        recorder("8080", Observation(float(at), Sample()))
    recorder.close()
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 8000
    _, read = recording.read(path)
    assert [observation.at for _, observation in read][-1] == 999


def test_a_file_that_cannot_be_begun_is_an_error() -> None:
    with pytest.raises(OSError, match="No space left"):
        recording.Recorder(Path("/dev/full"), {}, Policy())


def test_it_is_for_nobody_else_to_read(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    path.write_text("an older one, that everybody may read\n" * 100)
    path.chmod(0o644)
    recorder = recording.Recorder(path, TARGETS, Policy(), max_bytes=4000)
    for at in range(100):
        recorder("8080", Observation(float(at), Sample()))
    recorder.close()
    both = sorted(tmp_path.iterdir())
    assert [file.name for file in both] == ["recording", "recording.1"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in both} == {0o600}
    assert not any("older" in file.read_text() for file in both)


@pytest.mark.parametrize("trap", ["fifo", "directory", "symbolic", "hard"])
def test_what_others_left_there(tmp_path: Path, trap: str) -> None:
    """It is never waited for, and nothing of ours is written over by another name."""
    path, precious = tmp_path / "recording", tmp_path / "precious"
    precious.write_text("precious")
    match trap:
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "symbolic":
            path.symlink_to(precious)
        case "hard":
            path.hardlink_to(precious)
    with pytest.raises(OSError, match=str(path)):
        recording.Recorder(path, TARGETS, Policy())
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("room", [0, 10])
def test_a_write_that_fails_ends_the_recording_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, room: int
) -> None:
    """Behind the last line that was whole: what a full disk has room for is no line."""
    path = tmp_path / "recording"
    recorder = recording.Recorder(path, {}, Policy())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, hard))
    try:
        with caplog.at_level(logging.WARNING):
            for at in range(3):
                recorder("8080", Observation(float(at), Sample()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [record.message for record in caplog.records] == [
        f"recording to {path} has ended: [Errno 27] File too large"
    ]
    assert list(recording.read(path)[1]) == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", ":1: not the header"),
        ("nonsense\n", ":1: not the header"),
        (
            '{"format":99}\n',
            ":1: not the header of a recording: its format is 99, and this probe reads 1",
        ),
        (
            '{"format":1,"targets":["8080"],"policy":{"nonsense":1}}\n',
            ":1: not the header of a recording: policy: this probe knows no nonsense$",
        ),
        (
            '{"format":1,"targets":["8080"],"policy":{"interval":"x"}}\n',
            ":1: not the header of a recording: interval: 'x' is not of type float$",
        ),
        ('{"format":1,"targets":["8080"],"policy":{"timeout":0}}\n', "must be above 0$"),
        ('{"format":1,"targets":["8080"]}\n', "policy is missing$"),
        (
            '{"format":1,"targets":["\\u001b[2J"],"policy":{}}\n',
            r"target '\\x1b\[2J' is no port and no unix socket$",
        ),
        ("[]\n", "it is no JSON object$"),
        ("[" * 100_000, "nested too deeply$"),
        ("\0" * 1000, "it is no JSON$"),
    ],
)
def test_a_bad_header_is_named(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "recording"
    path.write_text(text)
    with pytest.raises(recording.BadRecording, match=place):
        recording.read(path)


@pytest.mark.parametrize(
    "line", ["x", "{}", '{"target":"8080"}', '{"target":"8080","at":"x"}', "[]"]
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "recording"
    recording.Recorder(path, TARGETS, Policy()).close()
    with path.open("a") as file:
        file.write(line + "\n")
    _, read = recording.read(path)
    with pytest.raises(recording.BadRecording, match=":2: not an observation"):
        list(read)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "it is empty"),
        ('{"at":1}', "target is missing"),
        ('{"target":"8080"}', "at is missing"),
        ('{"target":"8080","at":"x"}', "at: 'x' is not of type float"),
        ('{"target":"8080","at":NaN}', "NaN is no number"),
        ('{"target":"8080","at":1e999}', "1e999 is no number"),
        ('{"target":"8080","at":1%s}' % ("0" * 400), "int too large to convert to float"),
        ('{"target":"8080","at":1,"sample":5}', "sample: Sample cannot be made of 5"),
        ('{"target":"8080","at":1,"sample":{"listeners":[{}]}}', "family is missing"),
        ('{"target":"8080","at":1,"sample":{"head":"x"}}', "sample: head: 'x' is not a list"),
        (
            '{"target":"8080","at":1,"round_trip":{"at":1,"outcome":"ok","stage":"x"}}',
            "round_trip: stage: 'x' is not a valid Stage",
        ),
    ],
)
def test_what_is_no_observation_is_told_with_its_line(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "recording"
    recorder = recording.Recorder(path, TARGETS, Policy())
    recorder("8080", Observation(1.0))
    recorder.close()
    with path.open("a") as file:
        file.write(line + "\n")
    _, read = recording.read(path)
    assert next(read) == ("8080", Observation(1.0))
    with pytest.raises(recording.BadRecording) as raised:
        next(read)
    assert str(raised.value).startswith(f"{path}:3: not an observation: ")
    assert why in str(raised.value)


def test_a_line_without_an_end_is_no_recording() -> None:
    with pytest.raises(recording.BadRecording, match=r":1: .* longer than 4194304 characters$"):
        recording.read(Path("/dev/zero"))
