"""HTTP/2: one request, one whole answer, judged as that of HTTP/1 is."""

from __future__ import annotations

from probe.model import Target
from probe.roundtrip import headers
from probe.roundtrip.answers import fault, judge
from probe.roundtrip.exchange import Result
from probe.roundtrip.http import as_url, kept, ordinary
from probe.roundtrip.stream import Stream


class Http2(Stream):
    """What is good is said in `probe.roundtrip.answers`. Trailers are read, and mean nothing."""

    def __init__(self, target: Target, host: str) -> None:
        asked = headers.read(target)
        self.secrets = headers.secrets(asked)
        ours = list(ordinary(target, host).items())
        lines = [(name.lower(), value) for name, value in headers.merge(ours, asked)]
        if target.send:
            lines.append(("content-length", str(len(target.send))))
        (authority,) = (value for name, value in lines if name == "host")
        super().__init__(
            target,
            [
                (":method", target.method),
                (":scheme", "https" if target.encrypted else "http"),
                (":path", as_url(target.path or "/").decode()),
                (":authority", authority),
                *(line for line in lines if line[0] != "host"),
            ],
            target.send,
        )

    def late(self) -> Result:
        return self._fault() or super().late()

    def so_far(self) -> str:
        if self._answer:
            return f"{len(self._message)} bytes of the body"
        return f"{self._received} bytes, no headers" if self.answered else ""

    def _judge(self) -> None:
        if (status := self._status()) is not None:
            said = self._message[: kept(self._target)]
            self.result = judge(self._target, status, said, self._answer.get(b"location", b""))

    def _enough(self, much: str) -> None:
        """So much of an answer is enough, once it is known which it is."""
        if self._answer:
            self._judge()
        else:
            super()._enough(much)

    def _fault(self) -> Result | None:
        if not self._answer or (status := self._status()) is None:
            return self.result
        return fault(self._target, status, self._message, self._answer.get(b"location", b""))
