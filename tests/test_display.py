"""Nothing foreign reaches a terminal as it is, and no secret leaves the process."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.display import hide, printable, without_secrets
from probe.model import Protocol, Target


@given(st.text())
def test_whatever_it_was_it_is_one_printable_line(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    assert text.isprintable() == (shown == text)


def test_what_differs_looks_different() -> None:
    assert printable("a\x1b[2J\nb\u202e\udcff") == r"a\x1b[2J\nb\u202e\udcff"
    assert printable("fermé – ü") == "fermé – ü"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("/healthz", "/healthz"),
        ("/healthz?token=s3cret", "/healthz"),
        ("/users/@me?x", "/users/@me"),
        ("", ""),
        ("http://:8080/healthz?token=s3cret#s3cret", "http://:8080/healthz"),
        (r"tcp://:6379?send=AUTH me@s3cret\r\n", "tcp://:6379"),
        ("http://user:s3cret@db:8080/a", "http://..."),
        ("http://s3:cr?et@db:8080/a?s3cret", "http://..."),
        ("http://s3/cret@db:8080", "http://..."),
    ],
)
def test_a_url_without_its_secrets(written: str, shown: str) -> None:
    assert without_secrets(written) == shown


@given(st.text("s3cret:@/?#&= \n"))
def test_whatever_follows_a_question_mark_is_not_shown(rest: str) -> None:
    assert "?" not in without_secrets(f"http://:80/?{rest}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('HTTP 401: "no user correct-hor…"', 'HTTP 401: "no user ...…"'),
        ('HTTP 401: "no user correct"', 'HTTP 401: "no user ..."'),
        ('"correct-horse", "corr" and "cor"', '"...", "..." and "cor"'),
        ("a correct answer", "a correct answer"),
    ],
)
def test_nor_is_a_secret_shown_that_a_quotation_cut_off(text: str, shown: str) -> None:
    assert hide(text, ("correct-horse",)) == shown


def test_what_an_application_repeats_is_hidden() -> None:
    redis = Target(1, Protocol.TCP, send=b"AUTH s3cret\r\n", expect=b"+WORD")
    said = "-ERR unknown command 'AUTH', with args beginning with: 's3cret'"
    assert (
        hide(said, redis.secrets) == "-ERR unknown command '...', with args beginning with: '...'"
    )
    http = Target(1, path="/healthz?user=me&token=s3cret&x")
    assert hide("Cannot GET /healthz?user=me&token=s3cret&x", http.secrets) == (
        "Cannot GET /healthz?user=me&token=...&x"
    )
    assert Target(1).secrets == ()
