"""Where evidence is sent, by the settings and the secrets in them, and what of it is shown."""

import base64
import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from probe.config.values import check_web_address
from probe.display import hide, host_port, printable
from probe.model import EvidenceOptions
from probe.roundtrip.exchange import CannotAsk
from probe.roundtrip.headers import filled_in, read_headers, secrets

WORTH_HIDING = 8
"""Characters from which on a part of an address may be a key; to hide less would hide figures."""

LONGEST_QUOTE = 200
"""Characters of what a server said."""

TAGS = re.compile(r"<[^>]*>")


class UnusableDestination(Exception):
    """There is nothing to send to, or with. str() says why, and shows neither."""


class Destination(NamedTuple):
    """Where one file goes, and the headers that go with it."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def is_signed(self) -> bool:
        """Whether the address is one file's alone, and perhaps one set of headers'."""
        return "?" in self.url

    @property
    def is_folder(self) -> bool:
        """Whether what is sent is named by us."""
        return self.url.endswith("/") and not self.is_signed

    @property
    def shown(self) -> str:
        """All of the address that is no secret: of a webhook the path is one."""
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        return f"{parts.scheme}://{host_port(host, parts.port) if parts.port else host}"

    def named(self, name: str) -> "Destination":
        return self._replace(url=self.url + name)

    def quoted(self, said: str) -> str:
        """What a server said as one printable line, less its markup and what is ours to keep."""
        words = " ".join(TAGS.sub(" ", said).split())
        return printable(hide(words, tuple(self._secrets()))[:LONGEST_QUOTE])

    def _secrets(self) -> set[str]:
        parts = urlsplit(self.url)
        fields = [field.partition("=")[2] for field in parts.query.split("&")]
        login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        basic = base64.b64encode(login.encode()).decode()  # as it is sent
        words = {parts.path, parts.query, parts.username, parts.password, basic, *fields}
        keys = {word for word in words if word and len(word) >= WORTH_HIDING}
        return keys | {unquote(word) for word in keys} | {*secrets([*self.headers])}


def resolve(options: EvidenceOptions) -> Destination:
    """Where to send to, and with what, now. Raises UnusableDestination.

    The secrets are read each time: an address that is signed has an end, and tokens are renewed.
    """
    method, _, where = options.put.partition(" ")
    try:
        url = filled_in("the address", where)
        check_web_address(url)
        return Destination(method, url, tuple(read_headers(options.put_headers)))
    except CannotAsk as error:
        raise UnusableDestination(str(error)) from None
    except ValueError:
        raise UnusableDestination("the address, with its secrets, is no URL") from None


def shown_before(options: EvidenceOptions) -> str:
    """What can be said of the address before any secret is read."""
    method, _, where = options.put.partition(" ")
    return "a secret address" if where.startswith("${") else Destination(method, where).shown
