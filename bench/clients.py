"""Clients of a server: `python -m bench.clients PORT CLIENTS [OPTION ...]`, until SIGTERM.

They say `flowing` when they begin, and how many answers they have had when they end. Each waits for
its answer before it asks again, so that a server is offered all that it can take, and no more.
"""

import argparse
import asyncio
import random
import signal
import sys
from contextlib import suppress

PATIENCE = 30.0
"""Seconds that a client waits for an answer."""

REQUEST = r"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWER = r"\r\n\r\nok"


class Clients:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.say: bytes = options.say.encode().decode("unicode_escape").encode()
        self.expect: bytes = options.expect.encode().decode("unicode_escape").encode()
        self.answers = 0
        self.failures = 0

    async def visit(self) -> None:
        """One connection, for as many answers as it is kept."""
        async with asyncio.timeout(PATIENCE) as patience:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.options.port)
            try:
                while True:
                    writer.write(self.say)
                    await reader.readuntil(self.expect)
                    self.answers += 1
                    if not self.options.keep:
                        return
                    await self.pause()
                    patience.reschedule(asyncio.get_running_loop().time() + PATIENCE)
            finally:
                writer.close()

    async def pause(self) -> None:
        if self.options.pause:
            await asyncio.sleep(random.uniform(0.5, 1.5) * self.options.pause)

    async def come_again(self) -> None:
        while True:
            try:
                await self.visit()
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                self.failures += 1
                await asyncio.sleep(0.1)
            await self.pause()

    async def run(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, sys.exit)
        print("flowing", flush=True)
        async with asyncio.TaskGroup() as tasks:
            if not self.options.burst:
                for _ in range(self.options.clients):
                    tasks.create_task(self.come_again())
            while self.options.burst:
                for _ in range(self.options.clients):
                    tasks.create_task(self.once())
                await asyncio.sleep(self.options.burst)

    async def once(self) -> None:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            await self.visit()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("clients", type=int)
    parser.add_argument("--keep", action="store_true", help="ask again on the same connection")
    parser.add_argument("--pause", type=float, default=0, help="seconds between two questions")
    parser.add_argument("--burst", type=float, help="all come at once, every so many seconds")
    parser.add_argument("--say", default=REQUEST)
    parser.add_argument("--expect", default=ANSWER)
    clients = Clients(parser.parse_args())
    with suppress(SystemExit):
        asyncio.run(clients.run())
    print(clients.answers, flush=True)


if __name__ == "__main__":
    main()
