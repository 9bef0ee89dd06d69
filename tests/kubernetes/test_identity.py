import base64
import json
from pathlib import Path

import pytest

from probe.kubernetes.identity import identify

CLAIMS = {
    "aud": ["https://kubernetes.default.svc"],
    "kubernetes.io": {
        "namespace": "shop",
        "node": {"name": "node-7", "uid": "9c"},
        "pod": {"name": "web-6d4c-x2x1z", "uid": "0b1f"},
        "serviceaccount": {"name": "web", "uid": "77"},
    },
}


def token(claims: object) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJSUzI1NiJ9.{payload}.c2lnbmF0dXJl\n"


def test_the_downward_api_names_the_pod(mount: Path) -> None:
    environment = {
        "POD_NAME": "web-1",
        "POD_NAMESPACE": "shop",
        "POD_UID": "u",
        "NODE_NAME": "n",
    }
    who = identify(environment, mount)
    assert who == ("web-1", "shop", "u", "n")
    assert str(who) == "pod shop/web-1 on node n"


def test_the_token_names_the_pod_where_the_environment_does_not(mount: Path) -> None:
    (mount / "token").write_text(token(CLAIMS))
    assert identify({}, mount) == ("web-6d4c-x2x1z", "shop", "0b1f", "node-7")
    assert identify({"POD_NAME": "other"}, mount).pod == "other"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "opaque",
        "a.b.c",
        "a.####.c",
        token([]),
        token({"kubernetes.io": "text"}),
        token({"kubernetes.io": {"pod": "text", "namespace": 7}}),
        "\u00e4.\u00e4.\u00e4",
    ],
)
def test_any_other_token_says_nothing(mount: Path, content: str) -> None:
    (mount / "token").write_text(content)
    who = identify({}, mount)
    assert who == ("", "", "", "")
    assert not who.known
    assert str(who) == "no pod"


def test_without_a_token_nothing_is_known(mount: Path) -> None:
    assert not identify({}, mount).known
