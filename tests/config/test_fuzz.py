"""Whatever is thrown at it, a configuration is a Config or a ConfigError of readable lines."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probe.config import Config, ConfigError, load
from probe.config.commands import BY_NAME
from probe.config.fields import FIELDS
from probe.model import Policy

fuzz = settings(
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
COMMANDS = st.sampled_from(sorted(BY_NAME))
PLAUSIBLE = st.sampled_from(
    [
        *("", "80", "8080", "0", "true", "no", "500ms", "2s", "1h", "90%", "0.5", "64MiB", "tcp"),
        *("grpc", "https", "http://:80", "tcp://:81?send=%0d\\n", "grpcs://h:82/s?insecure=1"),
        *("[::1]:80", ":9809", "/healthz", "app-", "app=x", "quarantine", "vanished", "json"),
        *(
            "localhost",
            "tcp://10.0.0.1:80",
            "--port",
            "--",
            "-",
            "-x",
            "\\",
            "%",
            "'",
            "\x00",
            "\udcff",
        ),
    ]
)
VALUES = PLAUSIBLE | st.text(max_size=20)
WORDS = st.sampled_from([field.flag for field in FIELDS]) | VALUES
NAMES = st.sampled_from([field.environment for field in FIELDS]) | st.from_regex(
    r"PROBE_[A-Z_]{0,12}", fullmatch=True
)
KEYS = st.sampled_from([*(field.key for field in FIELDS), "targets", "<<", "pórt"]) | VALUES


def outcome(command: str, words: list[str], environment: dict[str, str]) -> None:
    """A Config that makes sense, or errors and notices that are each a line to be read."""
    try:
        config = load(command, words, environment)
    except ConfigError as error:
        errors, notices = error.errors, error.notices
    else:
        errors, notices = (), config.notices
        sensible(config, command)
    for line in (*errors, *notices):
        assert line.isprintable()
        assert ": " in line or line.startswith("and ")
        assert len(line) < 5000


def sensible(config: Config, command: str) -> None:
    assert config.command == command
    assert len({target.port for target in config.targets}) == len(config.targets) <= 64
    assert config.policy == Policy() or config.policy.recovered_below < 1
    assert 0 <= config.listen.port <= 65535
    if command in ("serve", "wait", "diagnose"):
        assert config.targets or config.discovery.mode in ("watch", "decide")
        assert config.sidecar is None
    if command in ("check", "watch"):
        assert bool(config.targets) is (config.sidecar is None)
    hash(config)  # frozen all the way down


@fuzz
@given(
    COMMANDS,
    st.lists(WORDS | st.tuples(WORDS, VALUES).map("=".join), max_size=12),
    st.dictionaries(NAMES, VALUES, max_size=6),
)
def test_any_words_and_variables(
    command: str, words: list[str], environment: dict[str, str]
) -> None:
    environment.pop("PROBE_CONFIG", None)
    outcome(command, words, environment)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], str]:
    def write(content: bytes) -> str:
        (tmp_path / "probe.yaml").write_bytes(content)
        return str(tmp_path / "probe.yaml")

    return write


@fuzz
@given(
    COMMANDS,
    st.binary(max_size=200)
    | st.text("\t\n -:,?&*!|>'\"%#[]{}<~ab0\\x", max_size=60).map(str.encode),
)
def test_any_bytes_in_a_file(write: Callable[[bytes], str], command: str, content: bytes) -> None:
    outcome(command, [], {"PROBE_CONFIG": write(content)})


def dump(value: Any) -> str:
    """YAML in flow style; strings bare or quoted, so that some of it means something else."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{dump(key)}: {dump(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(dump, value)) + "]"
    text = str(value)
    return text if text.isidentifier() else "'" + text.replace("'", "''") + "'"


@fuzz
@given(
    COMMANDS,
    st.dictionaries(
        KEYS,
        st.recursive(
            VALUES,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
        ),
        max_size=5,
    ),
)
def test_any_settings_in_a_file(
    write: Callable[[bytes], str], command: str, content: dict[str, Any]
) -> None:
    file = write(dump(content).encode("utf-8", "surrogatepass"))
    outcome(command, ["--port", "80"] if command == "serve" else [], {"PROBE_CONFIG": file})
