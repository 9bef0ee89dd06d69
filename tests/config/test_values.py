"""How values are written, kind by kind."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probe.config.fields import FIELDS, Field
from probe.config.records import ListenAddress
from probe.config.values import (
    Duration,
    Escaped,
    Fraction,
    Host,
    HostPort,
    HttpPath,
    Kind,
    Label,
    SendTo,
    Size,
    Switch,
    Words,
)

DURATION = Duration(0, 1e6)
SIZE = Size(1, 1 << 40)
LISTEN = HostPort(least_port=0)
SIDECAR = HostPort(empty_host="127.0.0.1", bare=ListenAddress("127.0.0.1", 9809))

in_namespace = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (DURATION, "500ms", 0.5),
        (DURATION, "2s", 2.0),
        (DURATION, "1m", 60.0),
        (DURATION, "1h", 3600.0),
        (DURATION, "1m30s", 90.0),
        (DURATION, "1.5s", 1.5),
        (DURATION, "700ms", 0.7),
        (DURATION, "0", 0.0),
        (SIZE, "64MiB", 64 << 20),
        (SIZE, "64Mi", 64 << 20),
        (SIZE, "512KiB", 512 << 10),
        (SIZE, "1GiB", 1 << 30),
        (SIZE, "4096", 4096),
        (Fraction(), "0.9", 0.9),
        (Fraction(), "90%", 0.9),
        (Fraction(), "1", 1.0),
        (Fraction(), ".5", 0.5),
        (Switch(), "true", True),
        (Switch(), "No", False),
        (Switch(), "1", True),
        (LISTEN, ":9809", ListenAddress("", 9809)),
        (LISTEN, ":0", ListenAddress("", 0)),
        (LISTEN, "127.0.0.1:80", ListenAddress("127.0.0.1", 80)),
        (LISTEN, "[::1]:80", ListenAddress("::1", 80)),
        (LISTEN, "[fe80::1%eth0]:80", ListenAddress("fe80::1%eth0", 80)),
        (LISTEN, "pod.svc:80", ListenAddress("pod.svc", 80)),
        (SIDECAR, "true", ListenAddress("127.0.0.1", 9809)),
        (SIDECAR, ":80", ListenAddress("127.0.0.1", 80)),
        (SIDECAR, "off", None),
        (Host(), "::1", "::1"),
        (Host(), "[::1]", "::1"),
        (Host(), "Some_Host.example.", "Some_Host.example."),
        (Escaped(), r"PING\r\n", b"PING\r\n"),
        (Escaped(), r"\x00\0\t\xff", b"\x00\x00\t\xff"),
        (Escaped(), r"\\n", b"\\n"),
        (Escaped(), r"\\\n", b"\\\n"),
        (Escaped(), "ü", "ü".encode()),
        (Escaped(), "", b""),
        (Words(), "/bin/notify --text 'it stalled'", ("/bin/notify", "--text", "it stalled")),
        (SendTo(), "https://store/x?Signature=a%2Bb", "PUT https://store/x?Signature=a%2Bb"),
        (SendTo(), "POST http://[::1]:8080", "POST http://[::1]:8080"),
        (
            SendTo(),
            "https://me:pass@store.example:9000/",
            "PUT https://me:pass@store.example:9000/",
        ),
        (SendTo(), "POST ${file:/run/hook}", "POST ${file:/run/hook}"),
        (SendTo(), "https://hook.example/T0/${env:KEY}", "PUT https://hook.example/T0/${env:KEY}"),
        (Label(), "app=shop", ("app", "shop")),
        (Label(), "app=", ("app", "")),
        (Label(), "app-", ("app", None)),
        (Label(), "example.com/state=a.b_c-d", ("example.com/state", "a.b_c-d")),
        (HttpPath(), "/healthz?full=1&deep", "/healthz?full=1&deep"),
    ],
)
def test_accepted(kind: Kind, text: str, value: object) -> None:
    assert kind.parse(text) == value


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (
            DURATION,
            ["", "2", "s", "2 s", "-2s", "+2s", "1e3s", "2sm", "1s2", ".s", "∞s", "٣s", "2m\n"],
        ),
        (SIZE, ["", "0", "64MB", "64mib", "MiB", "1.5MiB", "64MiBB", "-1", "9" * 19, "1TiB"]),
        (
            Fraction(),
            ["", "0", "0%", "101%", "1.01", "%", "-0.5", "nan", "inf", "1e-1", "0.9.1", "."],
        ),
        (Switch(), ["", "2", "ja", "truee"]),
        (
            LISTEN,
            ["", ":", "9809", "host", "::1:80", "[::1]", "[::1]80", "[a]:80", ":65536", ":-1"],
        ),
        (LISTEN, ["*:80", "a b:80", "http://a:80", "1.2.3:80", "[fe80::1%]:80", ":٣", "true"]),
        (SIDECAR, [":0", "9809", "", "maybe"]),
        (
            Host(),
            ["", "a b", "a/b", "a..b", "-a", "256.1.1.1", "a" * 64, "a@b", "[::1", "\0", "\udcff"],
        ),
        (HttpPath(), ["", "healthz", "/a b", "/a#b", "/ü", "/a\r\nX: y", "/" + "a" * 2048]),
        (Escaped(), ["\\", "\\q", "\\x1", "\\xzz", "\\x 1", "a" * 4097]),
        (Words(), ["", " ", "'open", "''", "a\0b"]),
        (
            SendTo(),
            [
                *(
                    "",
                    "PUT ",
                    "store/x",
                    "ftp://store/",
                    "GET https://store/",
                    "put https://store/",
                ),
                *("https://", "https:///x", "https://a b/", "https://store/#x", "https://store:0/"),
                *("https://store:99999/", "https://store:x/", "https://-x-/", "https://caf\u00e9/"),
                *("https://store/\r\nX: y", "https://store/" + 8192 * "x", "/run/secrets/address"),
                *("https://${env:HOST}/", "https://store${env:X}/", "https://store/${file:}"),
                *("${shell:id}", "ftp://${env:X}", "https://store/${env:X"),
            ],
        ),
        (
            Label(),
            ["", "app", "=x", "-", "-app=x", "app=x y", "app=-x", "a/b/c=x", "/a=x", "A.b/c=x"],
        ),
        (Label(), ["a" * 64 + "-", "app=" + "x" * 64, "a..b/c=x", "example.com/-"]),
        (Kind(), ["", "two\nlines", "bell\a", "a" * 4097, "\udcff"]),
    ],
)
def test_refused(kind: Kind, texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(ValueError):
            pytest.fail(f"{text!r} was read as {kind.parse(text)!r}")


WRITTEN = [field for field in FIELDS if field.default not in (None, "", b"", (), frozenset())]
"""The others have nothing for a default, and nothing is written of it."""


@pytest.mark.parametrize("field", WRITTEN, ids=lambda field: f"{field.name}-{field.commands[0]}")
def test_every_default_is_written_as_it_is_read(field: Field) -> None:
    assert field.kind.parse(field.kind.show(field.default)) == field.default


@in_namespace
@given(st.integers(0, 10**9).map(lambda milliseconds: milliseconds / 1000))
def test_a_duration_shown_is_the_duration_read(seconds: float) -> None:
    assert DURATION.parse(DURATION.show(seconds)) == pytest.approx(seconds, rel=1e-5)


@in_namespace
@given(st.binary(max_size=64))
def test_any_bytes_can_be_written(data: bytes) -> None:
    assert Escaped().parse("".join(f"\\x{byte:02x}" for byte in data)) == data


@in_namespace
@given(
    st.sampled_from([field.kind for field in FIELDS]),
    st.text() | st.text("0159.,:/%[]@?#hmsKMGiB+-=_ax\\ '\"٣", max_size=8),
)
def test_any_text_is_read_or_refused(kind: Kind, text: str) -> None:
    try:
        value = kind.parse(text)
    except ValueError:
        return
    assert kind.show(value)
