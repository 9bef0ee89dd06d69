import asyncio
import logging
import time
from pathlib import Path

import pytest
import trustme

from probe.kubernetes.client import (
    ADVICE,
    METADATA_LIST,
    Account,
    ApiError,
    Client,
    Trouble,
    Troubles,
    path,
)
from tests.kubernetes.apiserver import (
    ApiServer,
    Fault,
    cut,
    endless,
    half,
    hang,
    status,
    text,
)

PODS = path("api", "v1", "namespaces", "shop", "pods")
QUERY = {
    "labelSelector": "app",
    "fieldSelector": "status.phase!=Succeeded,status.phase!=Failed",
}


async def list_pods(client: Client) -> dict[str, object]:
    return await client.request("GET", PODS, query=QUERY, accept=METADATA_LIST)


def refusal(mount: Path, authority: trustme.CA, fault: Fault, timeout: float = 5.0) -> ApiError:
    async def ask() -> ApiError:
        server = ApiServer()
        server.always = fault
        async with server.serve(mount, authority) as account:
            with pytest.raises(ApiError) as caught:
                await list_pods(Client(account, timeout))
            return caught.value

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("fault", "trouble", "detail", "passing"),
    [
        (status(401), Trouble.UNAUTHORIZED, "HTTP 401: no", True),
        (status(403, "pods is forbidden"), Trouble.FORBIDDEN, "HTTP 403: pods is", False),
        (status(404), Trouble.NOT_FOUND, "HTTP 404", False),
        (status(409), Trouble.CONFLICT, "HTTP 409", True),
        (status(422, "first\nsecond"), Trouble.REJECTED, "HTTP 422: first", False),
        (status(302), Trouble.REJECTED, "HTTP 302", False),
        (status(429), Trouble.THROTTLED, "HTTP 429", True),
        (status(500), Trouble.SERVER_ERROR, "HTTP 500", True),
        (status(503), Trouble.SERVER_ERROR, "HTTP 503", True),
        (text("not JSON"), Trouble.SERVER_ERROR, "HTTP 200, but no JSON object", True),
        (text("[]"), Trouble.SERVER_ERROR, "HTTP 200, but no JSON object", True),
        (cut, Trouble.UNREACHABLE, "", True),
        (half, Trouble.UNREACHABLE, "", True),
        (endless, Trouble.SERVER_ERROR, "an answer above 1 MiB", True),
    ],
)
def test_each_refusal_has_its_type(
    mount: Path,
    authority: trustme.CA,
    fault: Fault,
    trouble: Trouble,
    detail: str,
    passing: bool,
) -> None:
    error = refusal(mount, authority, fault)
    assert error.trouble is trouble
    assert str(error).startswith(detail)
    assert "second" not in str(error)
    assert str(error)
    assert error.passing is passing


def test_a_server_that_never_answers_is_left_after_the_timeout(
    mount: Path, authority: trustme.CA
) -> None:
    started = time.monotonic()
    error = refusal(mount, authority, hang, timeout=0.2)
    assert error.trouble is Trouble.UNREACHABLE
    assert str(error) == "no answer within 0.2 s"
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("86400", 300.0),
        ("-1", None),
        ("Wed, 21 Oct 2026", None),
        ("", None),
    ],
)
def test_retry_after_is_read_and_bounded(
    mount: Path, authority: trustme.CA, header: str, seconds: float | None
) -> None:
    error = refusal(mount, authority, status(429, headers={"Retry-After": header}))
    assert error.retry_after == seconds


async def test_a_rotated_token_and_ca_are_read_again(mount: Path, authority: trustme.CA) -> None:
    server = ApiServer()
    async with server.serve(mount, authority) as account:
        client = Client(account)
        assert (await list_pods(client))["kind"] == "PartialObjectMetadataList"
        server.token = "the-second-token"
        with pytest.raises(ApiError, match="401"):
            await list_pods(client)
        (mount / "token").write_text("the-second-token\n")
        assert (await list_pods(client))["kind"] == "PartialObjectMetadataList"
    other = trustme.CA()
    async with server.serve(mount, other) as account:
        # A new CA signs the server's certificate, and kubelet has replaced ca.crt.
        client.account = account
        assert (await list_pods(client))["kind"] == "PartialObjectMetadataList"


async def test_a_certificate_of_another_authority_is_not_trusted(
    mount: Path, authority: trustme.CA
) -> None:
    async with ApiServer().serve(mount, authority) as account:
        trustme.CA().cert_pem.write_to_path(str(mount / "ca.crt"))
        with pytest.raises(ApiError, match="certificate verify failed") as caught:
            await list_pods(Client(account))
        assert caught.value.trouble is Trouble.UNTRUSTED


async def test_a_certificate_for_another_name_is_not_trusted(
    mount: Path, authority: trustme.CA
) -> None:
    async with ApiServer().serve(mount, authority, name="kubernetes.default") as account:
        with pytest.raises(ApiError, match=r"127\.0\.0\.1") as caught:
            await list_pods(Client(account))
        assert caught.value.trouble is Trouble.UNTRUSTED


async def test_an_api_server_on_ipv6(mount: Path, authority: trustme.CA) -> None:
    async with ApiServer().serve(mount, authority, host="::1") as account:
        assert account.url.startswith("https://[::1]:")
        assert (await list_pods(Client(account)))["kind"] == "PartialObjectMetadataList"


def test_nobody_listens(mount: Path, authority: trustme.CA) -> None:
    authority.cert_pem.write_to_path(str(mount / "ca.crt"))
    (mount / "token").write_text("token")
    with pytest.raises(ApiError) as caught:
        asyncio.run(list_pods(Client(Account("127.0.0.1", "1", mount))))
    assert caught.value.trouble is Trouble.UNREACHABLE


@pytest.mark.parametrize("missing", ["KUBERNETES_SERVICE_HOST", "token", "ca.crt"])
def test_no_service_account(mount: Path, authority: trustme.CA, missing: str) -> None:
    environment = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
    environment.pop(missing, None)
    if missing != "token":
        (mount / "token").write_text("token")
    if missing != "ca.crt":
        authority.cert_pem.write_to_path(str(mount / "ca.crt"))
    with pytest.raises(ApiError, match=missing) as caught:
        asyncio.run(list_pods(Client(Account.in_cluster(environment, mount))))
    assert caught.value.trouble is Trouble.NO_SERVICE_ACCOUNT
    assert not caught.value.passing


def test_a_ca_file_of_noise(mount: Path) -> None:
    (mount / "token").write_text("token")
    (mount / "ca.crt").write_text("noise")
    with pytest.raises(ApiError) as caught:
        asyncio.run(list_pods(Client(Account("127.0.0.1", "1", mount))))
    assert caught.value.trouble is Trouble.UNTRUSTED


def test_a_name_stays_one_part_of_the_path() -> None:
    assert path("pods", "../secrets?x=1") == "/pods/..%2Fsecrets%3Fx%3D1"


def test_each_kind_is_logged_once_with_what_to_change(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    troubles = Troubles()
    for _ in range(3):
        for trouble in Trouble:
            troubles.refused("events", ApiError(trouble, "HTTP 999"))
    assert len(caplog.records) == len(Trouble)
    for record, trouble in zip(caplog.records, Trouble, strict=True):
        assert ADVICE[trouble] in record.getMessage()
    assert set(troubles.counts.values()) == {3}
    caplog.clear()
    troubles.succeeded("quarantine")
    assert not caplog.records
    troubles.succeeded("events")
    troubles.succeeded("events")
    assert [record.getMessage() for record in caplog.records] == [
        "events: the Kubernetes API works again"
    ]
    troubles.refused("events", ApiError(Trouble.FORBIDDEN, "HTTP 403"))
    assert len(caplog.records) == 2
