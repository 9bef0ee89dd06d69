"""The page in a real browser, before, during and after a real incident: whoever has never seen this
project is to see what is wrong, since when, and what happens next.

With PICTURES=FOLDER, what is seen is kept there (`make pictures`).
"""

import asyncio
import json
import os
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.page.browser import RULES, Tab, browsing

PICTURES = os.environ.get("PICTURES")

ACCEPTOR = "acceptor" if PICTURES else "<i>acceptor</i>"
"""What the thread that accepts is called: the most that a name may have, and no markup."""


class Pod(NamedTuple):
    """An application and its sidecar."""

    tell: asyncio.StreamWriter
    hear: asyncio.StreamReader
    application: int
    sidecar: asyncio.subprocess.Process
    port: int

    @property
    def page(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def stop(self) -> None:
        """From now on nobody accepts."""
        self.tell.write(b"stop\n")
        assert await self.hear.readline() == b"stopped\n"

    def go(self) -> None:
        """From now on somebody does."""
        self.tell.write(b"go\n")

    @asynccontextmanager
    async def clients(self, number: int) -> AsyncIterator[None]:
        """So many who come, and wait."""
        with ExitStack() as stack:
            for _ in range(number):
                client = stack.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", self.application))
            yield


@asynccontextmanager
async def pod(folder: Path, *flags: str) -> AsyncIterator[Pod]:
    application = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.page.application", ACCEPTOR),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert application.stdin is not None
    assert application.stdout is not None
    try:
        port = int(await application.stdout.readline())
        sidecar = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "probe", "serve", "--port", str(port), "--listen", ":0"),
            *("--evidence-dir", str(folder / "evidence"), "--log-format", "json", *flags),
            stderr=asyncio.subprocess.PIPE,
        )
        assert sidecar.stderr is not None
        try:
            answers = await serving_at(sidecar.stderr)
            draining = asyncio.create_task(sidecar.stderr.read())
            yield Pod(application.stdin, application.stdout, port, sidecar, answers)
        finally:
            if sidecar.returncode is None:
                sidecar.terminate()
            await sidecar.wait()
        said = (await draining).decode()
        assert "Traceback" not in said, said
    finally:
        application.kill()
        await application.wait()


async def serving_at(log: asyncio.StreamReader) -> int:
    async for line in log:
        told = json.loads(line)
        if told.get("event") == "serving":
            return int(told["port"])
    pytest.fail("the sidecar did not start")


async def pass_the_time(watched: Pod, minutes: float) -> None:
    """Let clients come, a few in a second, so that there is a past to be seen."""
    until = asyncio.get_running_loop().time() + 60 * minutes
    while asyncio.get_running_loop().time() < until:
        reader, writer = await asyncio.open_connection("127.0.0.1", watched.application)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        await reader.read()
        writer.close()
        await asyncio.sleep(0.1)


async def keep(tab: Tab, name: str, width: int = 1280, scheme: str = "light") -> None:
    """Keep what is seen first as a picture, if pictures are wanted."""
    if PICTURES:
        await tab.prefer(scheme)
        await tab.resize(width, 800)
        picture = await tab.picture()
        await asyncio.to_thread((Path(PICTURES) / f"{name}.webp").write_bytes, picture)
        await tab.prefer("light")
        await tab.resize(1280)


async def holds_up(tab: Tab) -> None:
    """Nothing is wrong with the page itself: at both widths, in light and dark, for everyone."""
    for width, scheme in ((360, "dark"), (1600, "light")):
        await tab.prefer(scheme)
        await tab.resize(width)
        shown = await tab.evaluate("document.documentElement.scrollWidth")
        assert shown <= width, "it has to be scrolled sideways"
        if RULES.exists():
            assert await tab.breaches() == []
    await tab.resize(1280)


def seconds(text: str) -> float:
    """What is said of a time to come: `in 12 s`."""
    found = re.search(r"\bin (?:(\d+) min ?)?(?:(\d+) s)?", text)
    assert found, text
    return 60 * int(found[1] or 0) + int(found[2] or 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_an_incident_as_it_is_seen(tmp_path: Path) -> None:
    if not RULES.exists():
        print("no axe-core, whose rules are left out: see .ci/install")
    async with (
        pod(tmp_path, "--live-after", "20s") as watched,
        browsing(tmp_path / "browser") as browser,
    ):
        tab = await browser.open()
        await tab.show(watched.page)

        await tab.until("document.title.startsWith('✓ All is well')")
        before = await tab.text()
        assert "/ready ✓ 200" in before
        assert "Nothing is due." in before
        assert "Port " + str(watched.application) in before
        await holds_up(tab)
        await keep(tab, "page-before")

        if PICTURES:
            await pass_the_time(watched, minutes=4)
        await watched.stop()
        async with watched.clients(24):
            await tab.until("document.title.startsWith('✕ Not ready:')")
            await tab.until("!document.getElementById('found').hidden")
            during = await tab.text()
            assert f"Not ready: {watched.application} accepts no connections" in during
            assert re.search(r"First noticed (just now|\d+ s ago), at \d\d:\d\d:\d\d\.", during)
            assert re.search(r"2\d of 20 queued, nothing accepted for \d", during)
            assert "the thread that accepted connections has exited" in during
            assert "restarts the container, unless it accepts a connection first" in during
            assert "/ready ✕ 503" in during
            assert "/live ✓ 200" in during
            left = seconds(during)
            assert 0 < left < 20
            await tab.until(f"Number(/in (\\d+) s/.exec(document.body.innerText)[1]) < {left:.0f}")
            await holds_up(tab)
            await keep(tab, "page")
            await keep(tab, "page-dark", scheme="dark")
            await keep(tab, "page-360", width=360)
            # What others have named is text.
            assert f"`{ACCEPTOR}`" in during
            assert await tab.evaluate("document.querySelectorAll('main i').length") == 0

            await tab.until("document.title.startsWith('✕ Not ready and not live')")
            failed = await tab.text()
            assert "/live ✕ 503" in failed
            assert re.search(r"now\s+/live fails, and kubelet restarts the container\.", failed)
            await holds_up(tab)

        watched.go()
        await tab.until("document.title.startsWith('✓ All is well')")
        after = await tab.text()
        assert re.search(r"The last incident lasted [\d.]+ (s|min .*?) and ended at", after)
        assert "See the evidence" in after
        await holds_up(tab)
        await keep(tab, "page-after")

        await tab.arrive(tab.evaluate("document.querySelector('#since a').click()"))
        assert "has exited" in await tab.title()
        found = await tab.text()
        assert "the thread that accepted connections has exited" in found
        assert f"`{ACCEPTOR}`" in found
        assert "What proves it" in found
        assert "report.json" in found
        await holds_up(tab)
        await tab.go(f"{watched.page}evidence")
        assert (await tab.title()).startswith("Evidence")
        await holds_up(tab)
        await tab.go(watched.page)
        await tab.until("document.title.startsWith('✓ All is well')")

        watched.sidecar.terminate()
        await tab.until("document.title.startsWith('? No answer')")
        assert re.search(r"what is shown is [\d.]+ s old", await tab.text())

        elsewhere = (watched.page, "data:")
        assert [one for one in tab.requests if not one.startswith(elsewhere)] == []
        # That nobody answers any more is Chromium's own complaint.
        assert [one for one in tab.complaints if "ERR_" not in one] == []
