"""Clients of an application: `traffic.py PORT RATE CLIENTS`, requests a second, whatever happens.

Each connects, asks, reads until the end and goes; who gets no answer gives up after two seconds. At
most CLIENTS are under way at once.
"""

import asyncio
import contextlib
import sys


async def ask(port: int, places: asyncio.Semaphore) -> None:
    async with places:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    await reader.read()
                finally:
                    writer.close()


async def main(port: int, rate: float, clients: int) -> None:
    places = asyncio.Semaphore(clients)
    loop = asyncio.get_running_loop()
    due = loop.time()
    print("flowing", flush=True)
    async with asyncio.TaskGroup() as tasks:
        while True:
            if not places.locked():
                tasks.create_task(ask(port, places))
            due += 1 / rate
            await asyncio.sleep(due - loop.time())


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
