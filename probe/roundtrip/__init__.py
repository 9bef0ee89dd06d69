"""Round trips: one request over one fresh connection, and where it got stuck if it did.

A protocol is an exchange: bytes to send, bytes fed, a result; it knows neither sockets nor time.
An attempt is one non-blocking connection that carries an exchange. A driver waits for attempts:
`blocking` for a command that asks once, `aio` for the sidecar.
"""

from probe.roundtrip.address import Address, address
from probe.roundtrip.attempt import Attempt

__all__ = ["Address", "Attempt", "address"]
