"""Targets, however they are written."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probe.config import ConfigError, load
from probe.model import Protocol, Target


def targets(*words: str, **environment: str) -> tuple[Target, ...]:
    return load("check", words, environment).targets


def errors(*words: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load("check", words, environment)
    return list(raised.value.errors)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://:8080", Target(8080)),
        ("http://:8080/", Target(8080)),
        ("http://:8080/healthz", Target(8080, path="/healthz")),
        ("http://:8080/healthz?full=%20", Target(8080, path="/healthz?full=%20")),
        ("http://:8080?full", Target(8080, path="/?full")),
        ("http://db.local:8080/", Target(8080, host="db.local")),
        (
            "http://me:p%40ss@db.local:8080/",
            Target(8080, host="db.local", headers=(("Authorization", "Basic bWU6cEBzcw=="),)),
        ),
        ("http://:80/a?b \n", Target(80, path="/a?b")),
        ("http://[::1]:8080/", Target(8080, host="::1")),
        ("https://:8443/", Target(8443, Protocol.HTTPS)),
        (
            "https://:8443/a?x=1&insecure=1&y=2&server_name=shop&x=1",
            Target(8443, Protocol.HTTPS, path="/a?x=1&y=2&x=1", server_name="shop", verify=False),
        ),
        (
            "https://:8443?ca_file=/etc/a%20b.pem",
            Target(8443, Protocol.HTTPS, ca_file="/etc/a b.pem"),
        ),
        ("tcp://:6379", Target(6379, Protocol.TCP)),
        (
            r"tcp://:6379?send=PING\r\n&expect=+PONG",
            Target(6379, Protocol.TCP, send=b"PING\r\n", expect=b"+PONG"),
        ),
        (
            r"tcp://:25?expect=220&send=QUIT\r\n&expect=221",
            Target(25, Protocol.TCP, expect=b"220", then=((b"QUIT\r\n", b"221"),)),
        ),
        (
            "tcp://:1?send=a&send=b&expect=c&expect=d&send=e",
            Target(1, Protocol.TCP, send=b"ab", expect=b"c", then=((b"", b"d"), (b"e", b""))),
        ),
        (
            "tcps://db:6380?ca_file=/ca&expect=+PONG&server_name=redis",
            Target(
                6380,
                Protocol.TCP,
                "db",
                expect=b"+PONG",
                tls=True,
                ca_file="/ca",
                server_name="redis",
            ),
        ),
        ("tcp://:1?send=%26%25%5Cn%ff", Target(1, Protocol.TCP, send=b"&%\n\xff")),
        ("tcp://:1/?expect=a=b", Target(1, Protocol.TCP, expect=b"a=b")),
        ("fastcgi://:9000", Target(9000, Protocol.FASTCGI)),
        ("fastcgi://db:9000/status?json", Target(9000, Protocol.FASTCGI, "db", "/status?json")),
        ("queue://:3306", Target(3306, Protocol.QUEUE)),
        ("queue://[::1]:3306/", Target(3306, Protocol.QUEUE, "::1")),
        ("unix:///run/a.sock", Target(0, Protocol.TCP, socket="/run/a.sock")),
        ("unix:///run/a%20b.sock", Target(0, Protocol.TCP, socket="/run/a b.sock")),
        ("unix://@app", Target(0, Protocol.TCP, socket="@app")),
        (
            r"unix:///run/redis.sock?send=PING\r\n&expect=+PONG",
            Target(0, Protocol.TCP, socket="/run/redis.sock", send=b"PING\r\n", expect=b"+PONG"),
        ),
        ("http+unix:///run/a.sock", Target(0, socket="/run/a.sock")),
        ("http+unix:///run/a.sock?path=/ok", Target(0, path="/ok", socket="/run/a.sock")),
        (
            "fastcgi+unix:///run/php.sock?path=/ping",
            Target(0, Protocol.FASTCGI, path="/ping", socket="/run/php.sock"),
        ),
        (
            "grpc+unix:///csi/csi.sock?service=csi.v1",
            Target(0, Protocol.GRPC, service="csi.v1", socket="/csi/csi.sock"),
        ),
        ("queue+unix://@app", Target(0, Protocol.QUEUE, socket="@app")),
        ("grpc://:50051", Target(50051, Protocol.GRPC)),
        ("grpc://:50051/shop.Cart", Target(50051, Protocol.GRPC, service="shop.Cart")),
        (
            "grpcs://h:50051/shop.Cart?insecure=true",
            Target(50051, Protocol.GRPC, "h", service="shop.Cart", tls=True, verify=False),
        ),
    ],
)
def test_urls(url: str, target: Target) -> None:
    assert targets("--target", url) == (target,)


def test_only_a_talk_says_a_thing_twice() -> None:
    assert errors("--target", "tcps://:1?insecure=1&insecure=0") == [
        "--target 'tcps://:1': insecure: is given twice"
    ]


def test_options_apply_to_every_port() -> None:
    assert targets("--port", "80", "--port=81", "--path", "/healthz", "--host", "::1") == (
        Target(80, path="/healthz", host="::1"),
        Target(81, path="/healthz", host="::1"),
    )
    assert targets(
        *("--port", "50051", "--protocol", "grpc", "--tls", "--service", "shop.Cart"),
        *("--ca-file", "/ca.pem", "--server-name", "shop"),
    ) == (
        Target(
            50051,
            Protocol.GRPC,
            service="shop.Cart",
            tls=True,
            ca_file="/ca.pem",
            server_name="shop",
        ),
    )
    assert targets("--port", "1", "--protocol", "tcp", "--send", r"\x01", "--expect", "-ERR") == (
        Target(1, Protocol.TCP, send=b"\x01", expect=b"-ERR"),
    )
    assert targets("--port", "1", "--protocol=tcp", "--tls", "--insecure", "--expect", "x") == (
        Target(1, Protocol.TCP, expect=b"x", tls=True, verify=False),
    )


def test_ports_and_urls_stand_side_by_side() -> None:
    assert targets("--port", "80", "--target", "tcp://:81", "--path", "/x") == (
        Target(80, path="/x"),
        Target(81, Protocol.TCP),
    )


def test_the_environment_takes_several() -> None:
    assert targets(PROBE_PORT="80, 81") == (Target(80), Target(81))
    assert targets(PROBE_TARGET="http://:80/a,b\ttcp://:81") == (
        Target(80, path="/a,b"),
        Target(81, Protocol.TCP),
    )


def test_the_file_takes_urls_and_mappings(tmp_path: Path) -> None:
    file = tmp_path / "probe.yaml"
    file.write_text(
        "port: 80\n"
        "targets:\n"
        "  - http://:81/healthz\n"
        "  - {port: 6379, protocol: tcp, send: 'PING\\r\\n', expect: +PONG}\n"
        "  - port: 8443\n"
        "    protocol: https\n"
        "    path: off\n".replace("off", "/off")
        + "    insecure: yes\n"
    )
    assert targets("--config", str(file)) == (
        Target(80),
        Target(81, path="/healthz"),
        Target(6379, Protocol.TCP, send=b"PING\r\n", expect=b"+PONG"),
        Target(8443, Protocol.HTTPS, path="/off", verify=False),
    )


NO_SOCKET = "is not the path of a unix socket from / on, or @NAME, of at most 107 bytes"


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("unix://run/a.sock", "the socket's path is missing, as in unix:///run/app.sock"),
        ("unix://", "the socket's path is missing, as in unix:///run/app.sock"),
        (
            "http+unix:///run/a.sock?port=1",
            "a parameter that there is not (accepted: path, header, ",
        ),
        ("queue+unix:///run/a.sock?path=/x", "a parameter that there is not (accepted: none; "),
        ("queue://:3306/x", "queue has no path, and '/x' is one"),
        (
            "unix:///" + "x" * 107,
            NO_SOCKET,
        ),
        ("unix:///a%00b", NO_SOCKET),
        ("unix://@", NO_SOCKET),
    ],
)
def test_urls_of_sockets_that_are_none(url: str, error: str) -> None:
    (said,) = errors("--target", url)
    assert error in said


def test_several_in_one_variable() -> None:
    found = targets(PROBE_TARGET="http+unix:///a unix:///b http://:1")
    assert [target.name for target in found] == ["/a", "/b", "1"]


@pytest.mark.parametrize("duplicate", [("--port", "80"), ("--target", "tcp://:80")])
def test_no_two_targets_share_a_port(duplicate: tuple[str, str]) -> None:
    assert errors("--port", "80", *duplicate) == [
        f"{duplicate[0]}: port 80 is a target already, by --port"
    ]


def test_what_does_not_go_together_is_said_once_for_all_ports() -> None:
    assert errors("--port", "1", "--port", "2", "--send", "x", "--insecure") == [
        "--insecure: is for https, and for tcp and grpc over TLS",
        "--send: is the body of a request, and GET has none; POST has, and so has tcp",
    ]
    assert errors("--target", "http://:80", "--path", "/x") == [
        "--path: is for --port, and there is none"
    ]


def test_an_option_from_afar_does_no_harm_to_urls() -> None:
    assert targets("--target", "http://:80", PROBE_PATH="/x") == (Target(80),)


def test_switched_off_is_not_given() -> None:
    assert targets("--port", "80", "--insecure=false", "--tls=no") == (Target(80),)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["http", "https", "tcp", "tcps", "grpc", "grpcs", "", "ftp"]),
    st.sampled_from(["://", ":", "//", ""]),
    st.text("aA0.:[]%/?&=#@+\\xrn ü\0\udcff", max_size=30) | st.just(":80/?insecure=1"),
)
def test_any_url_is_a_target_or_an_error(scheme: str, separator: str, rest: str) -> None:
    try:
        (target,) = targets(f"--target={scheme}{separator}{rest}")
    except ConfigError as error:
        told = error.errors
    else:
        told = ()
        assert 1 <= target.port <= 65535
    assert all(line.isprintable() for line in told)


PING = Target(6379, Protocol.TCP, send=b"PING\r\n", expect=b"+PONG")


@pytest.mark.parametrize(
    "text",
    [
        r"tcp://:6379?send=PING\r\n&expect=+PONG",
        "tcp://:6379?send=PING\r\n&expect=+PONG",
        "tcp://:6379?send=PING%0D%0A&expect=+PONG",
    ],
    ids=["escaped", "double quotes", "percent"],
)
def test_a_line_break_may_be_written_as_it_is(text: str, tmp_path: Path) -> None:
    """So a YAML file has it that is written in double quotes."""
    file = tmp_path / "probe.yaml"
    quoted = text.replace("\\", "\\\\").replace("\r\n", r"\r\n")
    file.write_text(f'targets: ["{quoted}"]\n')
    assert targets("--target", text) == (PING,)
    assert targets(PROBE_TARGET=text) == (PING,)
    assert targets("--config", str(file)) == (PING,)


def test_nor_is_it_lost_at_the_end() -> None:
    text = "tcp://:6379?expect=+PONG&send=PING\r\n"
    (target,) = targets(PROBE_TARGET=text)
    assert (target.expect, target.then) == (b"+PONG", ((b"PING\r\n", b""),))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"tcp://:1?send=AUTH x\r\n&expect=-ERR", [(b"AUTH x\r\n", b"-ERR")]),
        ("tcp://:1?send=stats\n", [(b"stats\n", b"")]),
        ("tcp://:1?send=a b tcp://:2?send=c\td", [(b"a b", b""), (b"c\td", b"")]),
        ("tcp://:1?send=PING\r\n tcp://:2", [(b"PING\r\n", b""), (b"", b"")]),
        ("\ntcp://:1?send=a\ntcp://:2?send=b", [(b"a", b""), (b"b", b"")]),
        ("tcp://:1?send=a   tcp://:2", [(b"a", b""), (b"", b"")]),
        ("tcp://:1 \n", [(b"", b"")]),
    ],
)
def test_of_several_in_one_variable_nothing_is_lost(
    text: str, found: list[tuple[bytes, bytes]]
) -> None:
    assert [(target.send, target.expect) for target in targets(PROBE_TARGET=text)] == found


def test_lines_of_a_block_are_targets() -> None:
    text = "http://:80/healthz\ngrpc://:81/shop.Cart\n\nhttps://:82\n"
    assert targets(PROBE_TARGET=text) == (
        Target(80, path="/healthz"),
        Target(81, Protocol.GRPC, service="shop.Cart"),
        Target(82, Protocol.HTTPS),
    )


@pytest.mark.parametrize(
    "words",
    [
        (r"--target=tcp://:1?send=AUTH s3cret\q",),
        ("--target=tcp://:1?send=AUTH s3cret&s3cret=1",),
        ("--target=tcp://:1?send=s3cret%",),
        ("--target", "tcp://:1?send=AUTH", "s3cret"),
        ("--target=tcp://s3cret@:1",),
        ("--target=http://me:s3cret@:1/health z",),
        ("--target=http://me:s3cret@:0",),
        ("--target=http://@s3cret:1",),
        ("--target=grpc://me:s3cret@:1/healthz",),
        ("--target=http://me:s3cret?s3cret@:1",),
        ("--target=http://:1/a b?token=s3cret",),
        ("--target=http://:1/?token=s3cret#",),
        ("--target=ftp://me:s3cret@h:1",),
        ("--target=http://:0?token=s3cret",),
        ("--target=grpc://:1/shop?token=s3cret",),
        ("--target=" + "http://:1/?token=s3cret" * 300,),
        ("--port=1", "--protocol=tcp", r"--send=s3cret\q"),
        ("--port=1", "--protocol=tcp", "--send", "AUTH", "s3cret"),
        ("--port=1", "--protocol=tcp", "--expect=s3cret\\"),
        ("--port=1", "--path=/a b?s3cret"),
        ("--port=1", "--host=me:s3cret@db"),
        ("--port=1", "--header=Authorization s3cret"),
        ("--port=1", "--header=Authorization: Bearer\ns3cret"),
        ("--port=1", "--header", "Authorization: Bearer", "s3cret"),
        ("--port=1", "--header=Authorization: ${vault:s3cret}"),
        ("--port=1", "--match=(s3cret"),
        ("--target=http://:1/?header=Authorization s3cret",),
        ("--target=http://:1/?header=X: y&status=s3cret%",),
        ("--sidecar=me:s3cret@db:1",),
        ("tcp://:1?send=s3cret",),
    ],
)
def test_no_error_repeats_what_may_be_a_password(words: tuple[str, ...]) -> None:
    told = errors(*words)
    assert told
    assert "s3cret" not in "".join(told)


def test_nor_does_a_notice_or_the_file(tmp_path: Path) -> None:
    file = tmp_path / "probe.yaml"
    file.write_text(
        'on_incident: "mail \'s3cret"\n'
        "targets:\n"
        "  - {port: 1, protocol: tcp, send: 's3cret\\q', expect: 's3cret\\'}\n"
        "  - {port: 2, path: '/a b?s3cret'}\n"
        "  - tcp://:3?send=s3cret%\n"
    )
    with pytest.raises(ConfigError) as raised:
        load("serve", ["--config", str(file)], {"PROBE_PORT": "tcp://:1?send=s3cret"})
    assert len(raised.value.errors) == 5
    assert len(raised.value.notices) == 1
    assert "s3cret" not in "".join((*raised.value.errors, *raised.value.notices))


SHOP = (("Host", "shop.example"), ("X-Trace", "a, b: c"))


@pytest.mark.parametrize(
    "written",
    [
        "headers: ['Host: shop.example', 'X-Trace: a, b: c']",
        "headers: {Host: shop.example, X-Trace: 'a, b: c'}",
        "headers: [Host: shop.example, X-Trace: 'a, b: c']",
        "headers: [{name: Host, value: shop.example}, {name: X-Trace, value: 'a, b: c'}]",
    ],
    ids=["lines", "mapping", "mappings in a list", "as kubelet's"],
)
def test_headers_in_the_file(written: str, tmp_path: Path) -> None:
    file = tmp_path / "probe.yaml"
    file.write_text(f"port: 80\n{written}\n")
    assert targets("--config", str(file)) == (Target(80, headers=SHOP),)
    file.write_text(f"targets:\n  - port: 80\n    {written}\n")
    assert targets("--config", str(file)) == (Target(80, headers=SHOP),)


def test_headers_elsewhere() -> None:
    words = ("--header", "Host: shop.example", "--header=X-Trace:a, b: c ")
    assert targets("--port", "80", "--port", "81", *words) == (
        Target(80, headers=SHOP),
        Target(81, headers=SHOP),
    )
    lines = "Host: shop.example\n\n  X-Trace: a, b: c\n"
    assert targets("--port", "80", PROBE_HEADER=lines) == (Target(80, headers=SHOP),)
    url = "http://:80/?header=Host: shop.example&header=X-Trace:a, b: c"
    assert targets("--target", url) == (Target(80, headers=SHOP),)


def test_a_request_in_every_way(tmp_path: Path) -> None:
    asked = Target(
        8443,
        Protocol.HTTPS,
        path="/graphql?status",
        send=b'{"a": 1}',
        expect=b"ok",
        ca_file="/ca",
        server_name="shop.example",
        method="POST",
        status=((200, 299), (401, 401)),
        match='"db":\\s*"up"',
        http_version="2",
        cert_file="/cert",
        key_file="/key",
        proxy_protocol="2",
    )
    settings = {
        "protocol": "https",
        "path": "/graphql?status",
        "send": '{"a": 1}',
        "expect": "ok",
        "ca-file": "/ca",
        "server-name": "shop.example",
        "method": "POST",
        "status": "200-299, 401",
        "match": '"db":\\s*"up"',
        "http-version": "2",
        "cert-file": "/cert",
        "key-file": "/key",
        "proxy-protocol": "2",
    }
    words = [f"--{name}={value}" for name, value in settings.items()]
    assert targets("--port", "8443", *words) == (asked,)
    variables = {
        f"PROBE_{name.upper().replace('-', '_')}": value for name, value in settings.items()
    }
    assert targets("--port", "8443", **variables) == (asked,)
    keys = {name.replace("-", "_"): value for name, value in settings.items()}
    file = tmp_path / "probe.yaml"
    pairs = (f"    {key}: '{value}'\n" for key, value in keys.items())
    file.write_text("targets:\n  - port: 8443\n" + "".join(pairs))
    assert targets("--config", str(file)) == (asked,)
    url = "https://:8443/graphql?%73tatus&" + "&".join(
        f"{key}={value}" for key, value in keys.items() if key not in ("protocol", "path")
    )
    assert targets("--target", url) == (asked._replace(path="/graphql?%73tatus"),)


def test_a_variable_that_holds_a_secret_must_be_there() -> None:
    token = "Authorization: Bearer ${env:TOKEN}"
    assert targets("--port", "80", f"--header={token}", TOKEN="s3cret") == (
        Target(80, headers=(("Authorization", "Bearer ${env:TOKEN}"),)),
    )
    assert errors("--port", "80", "--port", "81", f"--header={token}") == [
        "--header: header Authorization: there is no variable 'TOKEN'"
    ]
