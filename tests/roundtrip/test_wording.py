"""What came from outside, in a message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.model import Protocol, Target
from probe.roundtrip.wording import QUOTED, asks_for_tls, describe, escape, quote

LONGEST = len('binary data "…"') + 4 * QUOTED


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"db is down\nsince noon\n", '"db is down"'),
        (b"\r\n  db is down  \r\n", '"db is down"'),
        (b'{\n  "status": "DOWN"\n}', '""status": "DOWN""'),
        (b"<html>\r\n<head><title>502 Bad Gateway</title></head>", '"502 Bad Gateway"'),
        (
            b"<!doctype html><html><head><style>h1 {}</style><script>x</script><TITLE>\n Oops"
            b"\n</TITLE></head><body><h1>Not this</h1>",
            '"Oops"',
        ),
        (b"<html><body><h1>Whitelabel Error Page</h1><p>more", '"Whitelabel Error Page"'),
        (b"<html>\n<body>\n<div></div>", '"<html>"'),
        (b"<title></title><p>text", '"text"'),
        (b"x" * 100, '"' + "x" * QUOTED + '…"'),
        ("caf\u00e9 \u2713".encode(), '"caf\u00e9 \u2713"'),
        (b"caf\xe9", r'"caf\xe9"'),
        (b"\x1b[31mred alert\x1b[0m", r'"\x1b[31mred alert\x1b[0m"'),
        (b"\x1f\x8b\x08\0\0\0\0\0", r'binary data "\x1f\x8b\x08\x00\x00\x00\x00\x00"'),
        (b"", '""'),
    ],
)
def test_a_quote_is_the_line_that_says_most(said: bytes, shown: str) -> None:
    assert quote(said) == shown


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_whatever_it_is_a_message_stays_printable_and_short(said: bytes) -> None:
    for protocol in Protocol:
        for told in (quote(said), describe(said, Target(1, protocol))):
            assert told.isprintable()
            assert len(told) <= LONGEST
            assert (
                "\N{REPLACEMENT CHARACTER}" not in told
                or "\N{REPLACEMENT CHARACTER}".encode() in said
            )
    asks_for_tls(said)


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_bytes_that_differ_are_written_differently(one: bytes, other: bytes) -> None:
    assert (escape(one) == escape(other)) == (one == other)
    assert escape(one).isprintable()


@pytest.mark.parametrize("secure", [True, False])
def test_tls_is_offered_to_those_who_do_not_speak_it(secure: bool) -> None:
    alert = bytes.fromhex("15030300020228")
    for protocol, scheme in (("http", "https"), ("tcp", "tcps"), ("grpc", "grpcs")):
        told = describe(alert, Target(1, Protocol(protocol), tls=secure))
        offer = "" if secure else f"; the port speaks TLS: {scheme}://"
        assert told == f"a TLS alert (handshake failure){offer}"
    told = describe(alert[:-1] + b"\xee", Target(1, tls=True))
    assert told == "a TLS alert (number 238)"
    assert describe(b"\x16\3\1\2\0\1", Target(1, tls=True)) == "TLS"
