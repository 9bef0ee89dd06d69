import re

import pytest

from probe.kubernetes import labels


def test_labels_are_written_as_kubectl_has_them() -> None:
    changes = labels(["app=web-quarantined", " pod-template-hash- ", "example.com/tier=", "a-b-"])
    assert changes == (
        ("app", "web-quarantined"),
        ("pod-template-hash", None),
        ("example.com/tier", ""),
        ("a-b", None),
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("app", "write KEY=VALUE to set a label, KEY- to remove it"),
        ("=value", "the label's name ''"),
        ("-", "the label's name ''"),
        ("a b=c", "the label's name 'a b'"),
        ("-app=c", "the label's name '-app'"),
        ("a" * 64 + "=c", "1 to 63 letters"),
        ("Example.com/app=c", "the prefix 'Example.com'"),
        ("a..b/app=c", "the prefix 'a..b'"),
        ("a/b/app=c", "the prefix 'a/b'"),
        ("/app=c", "the prefix ''"),
        ("a" * 254 + "/app=c", "at most 253"),
        ("app=c d", "the value 'c d'"),
        ("app=-c", "the value '-c'"),
        ("app=c.", "the value 'c.'"),
        ("app=" + "v" * 64, "at most 63"),
        ("app=\u00e4", "the value"),
        ("accept-probe/quarantine=held", "the mark that probe itself sets"),
    ],
)
def test_what_kubernetes_would_refuse_is_refused(change: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        labels([change])


def test_all_errors_are_told_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        labels(["app", "app=c d", "x=1", "x-"])
    told = str(caught.value)
    assert told.count("; ") == 2
    assert "label 'x' is given twice" in told


def test_no_label_is_no_quarantine() -> None:
    with pytest.raises(ValueError, match="name one that both the Service and the ReplicaSet"):
        labels([])
