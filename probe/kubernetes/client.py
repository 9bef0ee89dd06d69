"""The API server, as far as a sidecar needs it: one request at a time, and typed refusals.

No watch, no cache, no generated client: few kinds of request are made in a pod's life. The token
and the CA are read again for every request, since kubelet replaces both on the disk.

What answers is not trusted to be an API server: its answers are bounded in size and time, what
they say is quoted printable and short, and whatever goes wrong with one is an ApiError.
"""

import json
import logging
import ssl
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from probe.imports.aiohttp_lean import aiohttp
from probe.kubernetes.identity import MOUNT

log = logging.getLogger(__name__)

TIMEOUT = 10.0
"""Seconds for one whole request."""
LONGEST_ANSWER = 1 << 20
"""Bytes. A pod has some 10 KiB, its metadata a third of that. The worst JSON of this size costs the
loop 80 ms, and 30 MiB while it is read."""
LONGEST_QUOTE = 300
"""Characters of what is told of an answer."""
LONGEST_RETRY_AFTER = 300.0
JSON = "application/json"
METADATA_LIST = f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""A list without specs: names and labels are all that is wanted of other pods."""
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
"""Lists whose items have a key are merged item by item (Kubernetes, patchMergeKey)."""


class Trouble(StrEnum):
    """Why the API server did not do what it was asked to."""

    NO_SERVICE_ACCOUNT = "no_service_account"
    UNTRUSTED = "untrusted"
    UNREACHABLE = "unreachable"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    THROTTLED = "throttled"
    DISRUPTION_BUDGET = "disruption_budget"
    REJECTED = "rejected"
    SERVER_ERROR = "server_error"


ADVICE = {
    Trouble.NO_SERVICE_ACCOUNT: "project a token and ca.crt into the sidecar's container, as "
    "examples/k8s/quarantine does",
    Trouble.UNTRUSTED: "its certificate is not signed by the mounted ca.crt, or is not for "
    "KUBERNETES_SERVICE_HOST: check what stands between the pod and the API server",
    Trouble.UNREACHABLE: "let the pod reach KUBERNETES_SERVICE_HOST: network policies, "
    "a service mesh that captures the sidecar's traffic, or the API server itself",
    Trouble.UNAUTHORIZED: "the token was refused: mount the pod's own projected token, which is "
    "renewed, and see that its service account still exists",
    Trouble.FORBIDDEN: "give the pod's service account the Role in docs/kubernetes.md",
    Trouble.NOT_FOUND: "check POD_NAME and POD_NAMESPACE, and that the cluster serves "
    "events.k8s.io/v1 (Kubernetes 1.19 and later)",
    Trouble.CONFLICT: "something else writes the same object: another controller or webhook",
    Trouble.THROTTLED: "the API server is short of capacity for this service account: "
    "check its priority and fairness settings",
    Trouble.DISRUPTION_BUDGET: "it is asked again; a budget with unhealthyPodEvictionPolicy: "
    "AlwaysAllow lets a pod go that is not ready",
    Trouble.REJECTED: "an admission webhook or policy may refuse it: its message says why",
    Trouble.SERVER_ERROR: "see the API server's own log",
}

_BY_STATUS = {
    401: Trouble.UNAUTHORIZED,
    403: Trouble.FORBIDDEN,
    404: Trouble.NOT_FOUND,
    409: Trouble.CONFLICT,
    429: Trouble.THROTTLED,
}

_FINAL = {
    Trouble.NO_SERVICE_ACCOUNT,
    Trouble.FORBIDDEN,
    Trouble.NOT_FOUND,
    Trouble.REJECTED,
}


def quoted(text: str) -> str:
    """What came from outside as one printable line, not longer than LONGEST_QUOTE."""
    line = text[:LONGEST_QUOTE].strip().partition("\n")[0]
    return "".join(letter if letter.isprintable() else "?" for letter in line)


class ApiError(Exception):
    """A request that was not carried out: one short printable line.

    `retry_after`: seconds the server asked us to wait.
    """

    def __init__(self, trouble: Trouble, detail: str, retry_after: float | None = None) -> None:
        super().__init__(quoted(detail))
        self.trouble = trouble
        self.retry_after = retry_after

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later, with nothing changed by hand."""
        return self.trouble not in _FINAL


class Account(NamedTuple):
    """The pod's service account, and where its API server is."""

    host: str = ""
    port: str = "443"
    mount: Path = MOUNT

    @classmethod
    def in_cluster(cls, environment: Mapping[str, str], mount: Path = MOUNT) -> "Account":
        return cls(
            environment.get("KUBERNETES_SERVICE_HOST", ""),
            environment.get("KUBERNETES_SERVICE_PORT", "443"),
            mount,
        )

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"

    def token(self) -> str:
        """The token as it is on the disk now. Raises ApiError when none is mounted."""
        if not self.host:
            raise ApiError(Trouble.NO_SERVICE_ACCOUNT, "KUBERNETES_SERVICE_HOST is not set")
        try:
            token = (self.mount / "token").read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ApiError(Trouble.NO_SERVICE_ACCOUNT, str(error)) from error
        # It becomes a header: whatever else stands there is not sent, and not quoted either.
        if not (token.isascii() and token.isprintable()):
            raise ApiError(Trouble.NO_SERVICE_ACCOUNT, f"{self.mount}/token is no token")
        return token

    def ca(self) -> str:
        """The cluster's CA as it is on the disk now. Raises ApiError when none is mounted."""
        try:
            return (self.mount / "ca.crt").read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ApiError(Trouble.NO_SERVICE_ACCOUNT, str(error)) from error


def path(*parts: str) -> str:
    """A path of the API; each part is quoted, so that a name stays one part."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


class Client:
    """One request, one connection: nothing is kept open to a server that is asked so seldom."""

    def __init__(self, account: Account, timeout: float = TIMEOUT) -> None:
        self.account = account
        self._timeout = timeout
        self._trust: tuple[str, ssl.SSLContext] | None = None

    async def request(
        self,
        method: str,
        where: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        accept: str = JSON,
        patch: str = MERGE_PATCH,
    ) -> dict[str, Any]:
        """The object that the API server answers with. `patch`: what kind a PATCH is.

        Raises ApiError, and nothing else: the caller's loop is not to end because of a server.
        """
        token, context = self.account.token(), self._context()
        content_type = patch if method == "PATCH" else JSON
        url = self.account.url + where + (f"?{urlencode(query)}" if query else "")
        try:
            async with (
                aiohttp.ClientSession(
                    timeout=aiohttp.ClientTimeout(total=self._timeout),
                    connector=aiohttp.TCPConnector(ssl=context, force_close=True),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    # Neither asked for nor undone: a bounded answer stays one.
                    auto_decompress=False,
                ) as session,
                session.request(
                    method,
                    url,
                    data=None if body is None else json.dumps(body),
                    headers={
                        "Authorization": f"Bearer {token}",
                        "Accept": accept,
                        "Accept-Encoding": "identity",
                        "Content-Type": content_type,
                        "User-Agent": "accept-probe",
                    },
                    allow_redirects=False,
                ) as response,
            ):
                return _answer(response, await _body(response))
        except ApiError:
            raise
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError) as error:
            raise ApiError(Trouble.UNTRUSTED, str(error)) from error
        except TimeoutError as error:
            detail = f"no answer within {self._timeout:g} s"
            raise ApiError(Trouble.UNREACHABLE, detail) from error
        except Exception as error:
            # Whatever an answer makes the library raise, it is the answer's fault and not ours.
            detail = str(error) or type(error).__name__
            raise ApiError(Trouble.UNREACHABLE, detail) from error

    def _context(self) -> ssl.SSLContext:
        ca = self.account.ca()
        if self._trust is None or self._trust[0] != ca:
            try:
                self._trust = ca, ssl.create_default_context(cadata=ca)
            except (ssl.SSLError, ValueError) as error:
                raise ApiError(Trouble.UNTRUSTED, f"ca.crt is no certificate: {error}") from error
        return self._trust[1]


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > LONGEST_ANSWER:
            raise ApiError(Trouble.SERVER_ERROR, f"an answer above {LONGEST_ANSWER >> 20} MiB")
    return bytes(body)


def _answer(response: aiohttp.ClientResponse, body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):  # the latter is raised for what is nested too deep
        answer = None
    if 200 <= response.status < 300:
        if isinstance(answer, dict):
            return answer
        raise ApiError(Trouble.SERVER_ERROR, f"HTTP {response.status}, but no JSON object")
    said = answer.get("message") if isinstance(answer, dict) else None
    message = quoted(said) if isinstance(said, str) else ""
    trouble = _BY_STATUS.get(
        response.status, Trouble.SERVER_ERROR if response.status >= 500 else Trouble.REJECTED
    )
    if trouble is Trouble.THROTTLED and (budget := _budget(answer)) is not None:
        trouble, message = Trouble.DISRUPTION_BUDGET, quoted(budget) or message
    raise ApiError(
        trouble,
        f"HTTP {response.status}" + (f": {message}" if message else ""),
        _retry_after(response.headers.get("Retry-After", "")),
    )


def _budget(answer: object) -> str | None:
    """What a PodDisruptionBudget says that forbids an eviction for now; None: none does."""
    details = answer.get("details") if isinstance(answer, dict) else None
    causes = details.get("causes") if isinstance(details, dict) else None
    for cause in causes if isinstance(causes, list) else ():
        if isinstance(cause, dict) and cause.get("reason") == "DisruptionBudget":
            said = cause.get("message")
            return said if isinstance(said, str) else ""
    return None


def _retry_after(header: str) -> float | None:
    """The API server sends seconds, never a date."""
    return min(float(header), LONGEST_RETRY_AFTER) if header.isdecimal() else None


class Troubles:
    """Counts every refusal; logs the first of a kind, with what to change, until one succeeds."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, Trouble]] = Counter()
        """By what was tried ('events', 'quarantine') and what came of it."""
        self._told: set[tuple[str, Trouble]] = set()

    def refused(self, what: str, error: ApiError) -> None:
        key = what, error.trouble
        self.counts[key] += 1
        if key not in self._told:
            self._told.add(key)
            log.warning(
                "%s: the Kubernetes API: %s (%s); %s",
                what,
                error,
                error.trouble,
                ADVICE[error.trouble],
            )

    def succeeded(self, what: str) -> None:
        told = {key for key in self._told if key[0] == what}
        if told:
            self._told -= told
            log.info("%s: the Kubernetes API works again", what)
