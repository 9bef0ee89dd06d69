"""Asking the API server until it has answered: for what is decided by its answer alone."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

from probe.kubernetes.client import JSON, ApiError, Client, Trouble, Troubles
from probe.kubernetes.events import Pace


class PatientClient:
    """A client for one purpose, which stands in the log and in the metrics.

    It asks for ever: whoever calls sets the time, by `asyncio.timeout`.
    """

    def __init__(
        self, client: Client, purpose: str, troubles: Troubles, pace: Pace | None = None
    ) -> None:
        self._client = client
        self._purpose = purpose
        self._troubles = troubles
        self._pace = pace or Pace()

    async def ask(
        self,
        method: str,
        where: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        accept: str = JSON,
        expected: Collection[Trouble] = (),
    ) -> dict[str, Any] | None:
        """Ask until it is answered or refused for good, which raises ApiError.

        Returns None where it is refused as `expected`, which is an answer and no trouble.
        """
        attempt = 0
        while True:
            try:
                answer = await self._client.request(method, where, body, query=query, accept=accept)
            except ApiError as error:
                if error.trouble in expected:
                    return None
                self._troubles.refused(self._purpose, error)
                if not error.passing:
                    raise
                await asyncio.sleep(self._pace.delay(attempt, error))
                attempt += 1
            else:
                self._troubles.succeeded(self._purpose)
                return answer
