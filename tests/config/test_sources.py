"""Flags, environment and file: what each accepts, and which of them wins."""

import os
from pathlib import Path

import pytest

from probe.config import Config, ConfigError, ListenAddress, load
from probe.model import Policy, Target

POD = {
    "PROBE_PORT": "tcp://10.0.0.1:80",
    "PROBE_PORT_80_TCP": "tcp://10.0.0.1:80",
    "PROBE_PORT_80_TCP_PROTO": "tcp",
    "PROBE_PORT_80_TCP_PORT": "80",
    "PROBE_PORT_80_TCP_ADDR": "10.0.0.1",
    "PROBE_SERVICE_HOST": "10.0.0.1",
    "PROBE_SERVICE_PORT": "80",
    "PROBE_SERVICE_PORT_HTTP": "80",
    "PROBE_LIVE_PORT": "udp://10.0.0.2:53",
    "PROBE_LIVE_SERVICE_HOST": "10.0.0.2",
}
"""What Kubernetes sets in a namespace with the Services `probe` and `probe-live`."""


def errors(command: str, *words: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(command, words, environment)
    return list(raised.value.errors)


def yaml(directory: Path, text: str) -> str:
    file = directory / "probe.yaml"
    file.write_text(text)
    return str(file)


def test_nothing_but_a_port_is_needed() -> None:
    assert load("serve", ["--port", "8080"], {}) == Config("serve", (Target(8080),))
    assert load("check", ["--port", "8080"], {}).time_limit == 0.9
    assert load("wait", ["--port", "8080"], {}).time_limit == 60


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = yaml(tmp_path, "port: 1\ninterval: 1s\nstalled_for: 7s\nlive_after: 40s\n")
    environment = {"PROBE_CONFIG": file, "PROBE_INTERVAL": "2s", "PROBE_STALLED_FOR": "8s"}
    config = load("serve", ["--interval", "3s"], environment)
    assert config.targets == (Target(1),)
    assert config.policy == Policy(interval=3, stalled_for=8, live_after=40)


def test_targets_of_one_source_replace_those_of_the_next(tmp_path: Path) -> None:
    file = yaml(tmp_path, "port: 1\ntargets: [tcp://:2]\npath: /x")
    config = load("serve", ["--config", file], {"PROBE_PORT": "3"})
    assert config.targets == (Target(3, path="/x"),)


def test_every_value_is_read_even_one_that_does_not_count(tmp_path: Path) -> None:
    file = yaml(tmp_path, "port: 1\ninterval: never\ntimeout: never\n")
    assert errors("serve", "--interval", "1s", "--interval", "soon", "--config", file) == [
        "--interval: 'soon' is not a duration from 100ms to 1m, written like 500ms, 2s or 1m",
        f"{file}:2: interval: 'never' is not a duration from 100ms to 1m, "
        "written like 500ms, 2s or 1m",
        f"{file}:3: timeout: 'never' is not a duration from 50ms to 24h, "
        "written like 500ms, 2s or 1m",
    ]


def test_one_file_serves_every_command(tmp_path: Path) -> None:
    file = yaml(tmp_path, "port: 1\ninterval: 5s\ntimeout: 3s\nlisten: :80\nevidence_dir: /e\n")
    assert load("serve", ["--config", file], {}).policy.interval == 5
    check = load("check", ["--config", file], {})
    assert (check.time_limit, check.policy, check.listen) == (3, Policy(), ListenAddress("", 80))
    evidence = load("evidence list", ["--config", file], {})
    assert (evidence.evidence.dir, evidence.targets) == ("/e", ())
    assert evidence.listen == ListenAddress("", 80)


def test_repeated_flags_add_up_or_the_last_counts() -> None:
    words = "--port 1 --port 2 --interval 1s --interval 2s --live-on vanished --live-on unanswered"
    config = load("serve", words.split(), {})
    assert [target.port for target in config.targets] == [1, 2]
    assert config.policy.interval == 2
    assert config.policy.live_on == {"vanished", "unanswered"}


def test_everything_lands_where_it_belongs() -> None:
    words = (
        "--port 80 --listen [::1]:0 --log-format json --log-level debug --record r --kube-events "
        "--evidence-dir d --evidence-max-count 3 --evidence-max-size 2MiB --evidence-redact "
        "--evidence-deadline 5s --evidence-cooldown 1m --jvm-attach --on-incident-timeout 9s "
        "--evidence-put-ca-file ca.pem "
        "--on-stall quarantine --on-stall terminate --terminate-grace 3s "
        "--quarantine-label app- --quarantine-label q=y --quarantine-max 2 "
        "--quarantine-for 2h --saturated-at 80% --saturated-for 4s --recovered-below 40% "
        "--kube-condition --floor 60% --floor-unknown stay "
        "--recovered-for 1s --round-trip-timeout 1s --failure-threshold 3 --success-threshold 4"
    )
    spaced = ["--on-incident", "tell 'the team'", "--evidence-put", "POST https://hook/"]
    config = load("serve", [*words.split(), *spaced, "--evidence-put-header", "Token: x"], {})
    assert config == Config(
        "serve",
        (Target(80),),
        Policy(
            saturated_at=0.8,
            saturated_for=4,
            recovered_below=0.4,
            recovered_for=1,
            timeout=1,
            failure_threshold=3,
            success_threshold=4,
        ),
        ListenAddress("::1", 0),
        log_format="json",
        log_level="debug",
        record="r",
        evidence=config.evidence,
        response=config.response,
        kube_events=True,
        kube_condition=True,
    )
    assert tuple(config.evidence) == (
        *("d", 3, 2 << 20, True, 5, 60, True),
        *(("tell", "the team"), 9),
        *("POST https://hook/", (("Token", "x"),), "ca.pem"),
    )
    labels = ("app", None), ("q", "y")
    ways = ("quarantine", "terminate")
    assert tuple(config.response) == (ways, labels, 2, 7200, 3, 0.6, "stay")


def test_what_the_small_commands_take() -> None:
    words = ["--port", "80", "--json", "--pid", "7", "--netns", "/proc/7/ns/net"]
    diagnose = load("diagnose", words, {})
    assert (diagnose.json, diagnose.pid, diagnose.netns) == (True, 7, "/proc/7/ns/net")
    assert load("replay", ["a file"], {}).file == "a file"
    assert load("evidence show", ["2026-11-22", "--json"], {}).incident == "2026-11-22"
    assert load("audit", [], {}).targets == ()
    assert load("demo", [], {}) == Config("demo")
    wait = load("wait", ["--port", "80", "--", "server", "--port", "80", "--", "x"], {})
    assert wait.then == ("server", "--port", "80", "--", "x")


def test_words_that_nobody_asked_for() -> None:
    assert errors("check", "8080", "--port", "80") == [
        "check: '8080' is one word too many; did you mean --port 8080?"
    ]
    assert errors("check", "http://:8080") == [
        "check: 'http://:8080' is one word too many; a URL is given by --target",
        "--port: give a target: --port N or --target URL, or --sidecar",
    ]
    assert errors("check", "--port", "http://:8080") == [
        "--port: 'http://:8080' is not a port from 1 to 65535; a URL is given by --target"
    ]
    assert errors("wait", "--port", "80", "server") == [
        "wait: 'server' is one word too many; a command to run comes after --"
    ]
    assert errors("check", "--port", "80", "--", "server") == [
        "--: check runs no command, and 'server' follows"
    ]
    assert errors("replay", "a", "b") == ["replay: 'b' is one word too many"]
    assert errors("replay") == ["FILE: is missing, as in probe replay FILE"]


def test_flags_that_nobody_knows() -> None:
    assert errors("serve", "--prot", "8080", "--intervall=1s", "-port", "80", "--port", "1") == [
        "--prot: no such flag; did you mean --port?",
        "--intervall: no such flag; did you mean --interval?",
        "-port: no such flag; did you mean --port?",
    ]
    assert errors("check", "--port", "80", "--record", "x", "--kube-events") == [
        "--record: is a flag of serve, not of check",
        "--kube-events: is a flag of serve, not of check",
    ]
    assert errors("check", "--port", "80", "--round-trip-timeout", "5s") == [
        "--round-trip-timeout: is a flag of serve, wait, diagnose, watch, not of check; "
        "it has --timeout"
    ]
    assert errors("check", "--port", "80", "--client-cert=a", "--tls-client-key=b") == [
        "--client-cert: no such flag; did you mean --cert-file?",
        "--tls-client-key: no such flag; did you mean --key-file?",
    ]
    assert errors("check", "--port", "80", "--xyzzy") == [
        "--xyzzy: no such flag: see probe check --help"
    ]


def test_flags_without_their_value() -> None:
    assert errors("check", "--port", "--path", "/x", "--host") == [
        "--port: needs a value: a port from 1 to 65535",
        "--host: needs a value: a host name or an IP address",
    ]
    assert errors("check", "--port=", "--insecure=perhaps") == [
        "--port: '' is not a port from 1 to 65535",
        "--insecure: 'perhaps' is not true or false",
    ]


def test_a_target_is_needed_where_there_is_something_to_probe() -> None:
    assert errors("check") == ["--port: give a target: --port N or --target URL, or --sidecar"]
    for command in ("wait", "diagnose"):
        assert errors(command) == ["--port: give a target: --port N or --target URL"]
    assert errors("serve", "--discover=perhaps") == [
        "--discover: 'perhaps' is not one of watch, decide"
    ]
    assert errors("serve", "--discover=no") == [
        "--port: give a target: --port N or --target URL, or --discover"
    ]


@pytest.mark.parametrize(
    ("words", "environment", "mode"),
    [
        ([], {}, "watch"),
        (["--discover"], {}, "watch"),
        (["--discover", "decide"], {}, "decide"),
        (["--discover", "--port", "8080"], {}, "watch"),
        (["--port", "8080"], {}, None),
        (["--port", "8080"], {"PROBE_DISCOVER": "decide"}, "decide"),
        (["--port", "8080", "--discover=false"], {"PROBE_DISCOVER": "decide"}, None),
        (["--port", "8080"], {"PROBE_DISCOVER": "yes"}, "watch"),
    ],
)
def test_whatever_listens_is_discovered_where_no_target_is_given_or_where_it_is_asked_for(
    words: list[str], environment: dict[str, str], mode: str | None
) -> None:
    config = load("serve", words, environment)
    assert config.discovery.mode == mode
    assert bool(config.targets) is ("--port" in words)
    more = load("serve", [*words, "--discover", "--exclude-port", "1", "--exclude-port=2"], {})
    assert more.discovery.excluded == (1, 2)


@pytest.mark.parametrize(
    ("words", "address"),
    [
        (["--sidecar"], ListenAddress("127.0.0.1", 9809)),
        (["--sidecar", "--live"], ListenAddress("127.0.0.1", 9809)),
        (["--sidecar", ":80"], ListenAddress("127.0.0.1", 80)),
        (["--sidecar=[::1]:80"], ListenAddress("::1", 80)),
    ],
)
def test_the_sidecar_may_be_anywhere(words: list[str], address: ListenAddress) -> None:
    assert load("check", words, {}).sidecar == address


def test_watch_asks_the_sidecar_unless_the_command_line_has_targets(tmp_path: Path) -> None:
    """Beside a sidecar its variables and its file are there: their targets are the sidecar's."""
    file = tmp_path / "probe.yaml"
    file.write_text("port: 80\nlisten: :9000\n")
    beside = ListenAddress("127.0.0.1", 9809)
    for words, environment, address in (
        ([], {}, beside),
        ([], {"PROBE_PORT": "80", "PROBE_TARGET": "tcp://:81"}, beside),
        (["--sidecar"], {"PROBE_PORT": "80"}, beside),
        ([], {"PROBE_SIDECAR": "no"}, beside),
        ([], {"PROBE_LISTEN": ":9000"}, ListenAddress("127.0.0.1", 9000)),
        ([], {"PROBE_CONFIG": str(file)}, ListenAddress("127.0.0.1", 9000)),
        (["--sidecar", "[::1]:80"], {"PROBE_LISTEN": ":9000"}, ListenAddress("::1", 80)),
    ):
        asked = load("watch", words, environment)
        assert (asked.sidecar, asked.targets) == (address, ())
    alone = load("watch", ["--port", "82"], {"PROBE_PORT": "80", "PROBE_SIDECAR": "yes"})
    assert (alone.sidecar, alone.targets) == (None, (Target(82),))
    assert errors("watch", "--sidecar", "--port", "80") == [
        "--sidecar: has targets of its own; leave it out, or the targets"
    ]
    assert errors("watch", "--sidecar", "nowhere") == [
        "--sidecar: 'nowhere' is not HOST:PORT, :PORT or [IPv6]:PORT"
    ]


def test_the_sidecar_or_the_application() -> None:
    """The variables of `serve` are there as well when kubelet runs `check` beside it."""
    assert load("check", ["--sidecar"], {"PROBE_PORT": "80"}).targets == ()
    assert load("check", [], {"PROBE_SIDECAR": "true", "PROBE_PORT": "80"}).targets == ()
    asked = load("check", ["--port", "80"], {"PROBE_SIDECAR": "true"})
    assert (asked.sidecar, asked.targets) == (None, (Target(80),))
    off = load("check", ["--sidecar=no"], {"PROBE_PORT": "80"})
    assert (off.sidecar, off.targets) == (None, (Target(80),))
    assert errors("check", "--sidecar", "--port", "80") == [
        "--sidecar: has targets of its own; leave it out, or the targets"
    ]
    assert errors("check", "--live", "--port", "80") == [
        "--live: is for --sidecar: liveness is what a sidecar remembers"
    ]
    assert errors("check", PROBE_LIVE="1", PROBE_PORT="80") == [
        "PROBE_LIVE: is for --sidecar: liveness is what a sidecar remembers"
    ]


def test_variables_of_kubernetes_are_told_once_and_ignored() -> None:
    config = load("serve", ["--target", "tcp://:80"], POD)
    assert config.targets == load("serve", ["--target", "tcp://:80"], {}).targets
    assert config.notices == (
        "PROBE_PORT: 'tcp://10.0.0.1:80' is what Kubernetes sets for a Service of that name; "
        "ignored",
    )
    with pytest.raises(ConfigError) as raised:
        load("wait", [], POD)
    assert raised.value.errors == ("--port: give a target: --port N or --target URL",)
    assert raised.value.notices == config.notices


def test_other_peoples_variables_are_left_alone() -> None:
    environment = {"PROBE_INTERVALL": "1s", "PROBE_COLOUR": "red", "PROBED": "1", "PROBE_": "x"}
    assert load("serve", ["--port", "1"], environment).notices == (
        "PROBE_INTERVALL: no such setting; did you mean PROBE_INTERVAL?",
    )


def test_an_empty_variable_is_not_set() -> None:
    config = load("serve", ["--port", "1"], {"PROBE_INTERVAL": "", "PROBE_TARGET": " "})
    assert config.policy.interval == 1


def test_variables_of_other_commands_do_not_count() -> None:
    assert load("check", ["--port", "1"], {"PROBE_DRAIN": "nonsense"}).targets


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    assert errors("serve", "--config", str(missing)) == [
        f"--config: {missing}: No such file or directory"
    ]
    assert errors("serve", PROBE_CONFIG=str(tmp_path)) == [
        f"PROBE_CONFIG: {tmp_path}: Is a directory"
    ]
    assert errors("serve", "--config", "/dev/zero") == [
        "/dev/zero: is no YAML: larger than 65536 bytes"
    ]
    strange = tmp_path / "line\nbreak.yaml"
    strange.write_text("x: 1")
    (line,) = errors("check", "--sidecar", "--config", str(strange))
    assert line == f"{str(strange)!r}:1: x: no such setting"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00", "is no YAML: unacceptable character #x0000: special characters are not allowed"),
        (b"port: \xff\xfe", "is no YAML: unacceptable character #x00ff: invalid start byte"),
        (b'path: "\\U00110000"', "is no YAML: chr() arg not in range(0x110000)"),
        (b"[" * 65536, "is nested too deeply"),
        (b"{a: " * 16000, "is nested too deeply"),
    ],
)
def test_files_that_are_hostile(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "probe.yaml"
    file.write_bytes(content)
    assert errors("serve", "--config", str(file)) == [f"{file}: {message}"]


def test_a_file_from_a_pipe() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"port: 80")
    os.close(writer)
    try:
        assert load("serve", ["--config", f"/dev/fd/{reader}"], {}).targets == (Target(80),)
    finally:
        os.close(reader)


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert load("check", ["--port", "80", "--config", yaml(tmp_path, "# nothing")], {}).targets


def test_a_file_of_nonsense_does_not_flood(tmp_path: Path) -> None:
    told = errors("serve", "--config", yaml(tmp_path, "".join(f"k{n}: 1\n" for n in range(500))))
    assert len(told) == 101
    assert told[-1] == "and 400 more"


def test_what_is_sent_away_is_redacted_unless_it_is_asked_for_otherwise() -> None:
    put = ["--port", "8080", "--evidence-put", "https://store/"]
    assert load("serve", put, {}).evidence.redact
    assert not load("serve", [*put, "--evidence-redact=false"], {}).evidence.redact
    assert not load("serve", put, {"PROBE_EVIDENCE_REDACT": "no"}).evidence.redact
    assert not load("serve", ["--port", "8080"], {}).evidence.redact


def test_a_header_is_of_use_for_what_is_sent() -> None:
    with pytest.raises(ConfigError, match="PROBE_EVIDENCE_PUT_HEADER: is for evidence-put"):
        load("serve", ["--port=8080"], {"PROBE_EVIDENCE_PUT_HEADER": "Token: x"})
    put = ["--port=8080", "--evidence-put=https://store/", "--evidence-put-header"]
    with pytest.raises(ConfigError, match="Token: there is no variable 'KEY'"):
        load("serve", [*put, "Token: ${env:KEY}"], {})
    assert load("serve", [*put, "Token: ${env:KEY}"], {"KEY": "x"}).evidence.put_headers
