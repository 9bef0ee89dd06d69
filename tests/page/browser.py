"""Debian's Chromium without a window, told what to do by its own protocol
(https://chromedevtools.github.io/devtools-protocol/), and what it complains of.
"""

import asyncio
import base64
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "accept-probe-tests"
RULES = CACHE / "axe/axe_playwright_python/axe.min.js"
"""Deque's axe-core, where .ci/install has put it."""

PATIENCE = 60.0
"""Seconds for what takes a tenth of one, unless the machine is busy."""

LISTENING = re.compile(r"DevTools listening on ws://127\.0\.0\.1:(\d+)")

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    *("--disable-dev-shm-usage", "--disable-background-networking", "--disable-sync"),
    *("--disable-component-update", "--remote-debugging-port=0", "--force-color-profile=srgb"),
    "--force-prefers-reduced-motion",
)


class Tab:
    """One page in the browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.complaints: list[str] = []
        """What the console has of errors and warnings."""
        self.requests: list[str] = []
        """Every address that was asked for."""
        self._loaded = asyncio.Event()

    async def call(self, method: str, **parameters: Any) -> Any:
        """Have something done; raises AssertionError with what the browser says."""
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        question = {"id": self._number, "method": method, "params": parameters}
        await self._socket.send_json(question)
        async with asyncio.timeout(PATIENCE):
            return await answer

    async def hear(self) -> None:
        """Take what the browser says, until it ends."""
        async for message in self._socket:
            self._take(message.json())

    def _take(self, message: dict[str, Any]) -> None:
        """Take what the browser says."""
        if "id" in message:
            answer = self._answers.pop(message["id"])
            if "error" in message:
                answer.set_exception(AssertionError(message["error"]["message"]))
            else:
                answer.set_result(message["result"])
            return
        event, told = message["method"], message["params"]
        match event:
            case "Runtime.exceptionThrown":
                details = told["exceptionDetails"]
                thrown = details.get("exception", {}).get("description", details["text"])
                self.complaints.append(f"exception: {thrown}")
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                words = [str(word.get("value", word.get("description"))) for word in told["args"]]
                self.complaints.append(" ".join(words))
            case "Log.entryAdded":
                self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
            case "Page.loadEventFired":
                self._loaded.set()
            case "Network.requestWillBeSent":
                self.requests.append(told["request"]["url"])

    async def show(self, url: str, width: int = 1280, height: int = 900) -> None:
        """Go there for the first time, in a window of this size."""
        await self.call("Page.enable")
        await self.call("Runtime.enable")
        await self.call("Log.enable")
        await self.call("Network.enable")
        await self.resize(width, height)
        await self.go(url)

    async def go(self, url: str) -> None:
        """Go there, and wait until it is loaded."""
        await self.arrive(self.call("Page.navigate", url=url))

    async def arrive(self, going: Awaitable[object]) -> None:
        """Do what leads to another page, and wait until that is loaded."""
        self._loaded.clear()
        await going
        async with asyncio.timeout(PATIENCE):
            await self._loaded.wait()

    async def resize(self, width: int, height: int = 900, *, scale: float = 1) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 500,
        )

    async def prefer(self, scheme: str) -> None:
        """`light` or `dark`."""
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression, or of what it promises; raises AssertionError for what it
        throws.
        """
        told = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in told:
            raise AssertionError(told["exceptionDetails"]["exception"]["description"])
        return told["result"].get("value")

    async def until(self, condition: str, within: float = PATIENCE) -> Any:
        """Wait in the browser until an expression is true, whatever happens in the page."""
        try:
            async with asyncio.timeout(within):
                return await self.evaluate(
                    "new Promise(resolve => { const look = () => {"
                    f"  const found = {condition};"
                    "  if (found) resolve(found); else setTimeout(look, 50);"
                    "}; look(); })"
                )
        except TimeoutError:
            pytest.fail(f"{condition} is not so; shown is: {await self.text()}")

    async def text(self) -> str:
        return str(await self.evaluate("document.body ? document.body.innerText : ''"))

    async def title(self) -> str:
        return str(await self.evaluate("document.title"))

    async def press(self, key: str, code: int = 0) -> None:
        """Press a key of the keyboard."""
        for kind in ("keyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
            )

    async def breaches(self) -> list[str]:
        """What axe-core's rules have against the page, each with the element."""
        await self.evaluate(RULES.read_text() + "; 0")
        found = await self.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{rule['id']}: {node['html'][:200]}: {node['failureSummary']}"
            for rule in found["violations"]
            for node in rule["nodes"]
        ]

    async def picture(self) -> bytes:
        """What is in sight as WebP, which is a third of a PNG."""
        shot = await self.call("Page.captureScreenshot", format="webp", quality=80)
        return base64.b64decode(shot["data"])


class Browser:
    """One Chromium, by the port that it tells of its tabs on."""

    def __init__(self, client: aiohttp.ClientSession, port: int) -> None:
        self._client = client
        self._port = port
        self._hearing: list[asyncio.Task[None]] = []
        self._sockets: list[aiohttp.ClientWebSocketResponse] = []

    async def open(self) -> Tab:
        """A tab that shows nothing yet."""
        new = f"http://127.0.0.1:{self._port}/json/new?about:blank"
        async with self._client.put(new) as answer:
            target = await answer.json(content_type=None)
        socket = await self._client.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)
        tab = Tab(socket)
        self._sockets.append(socket)
        self._hearing.append(asyncio.create_task(tab.hear()))
        return tab

    async def close(self) -> None:
        for socket in self._sockets:
            await socket.close()
        await asyncio.gather(*self._hearing)


@asynccontextmanager
async def browsing(folder: Path) -> AsyncIterator[Browser]:
    """A browser that keeps what it keeps in an empty folder."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium: see .ci/install")
    process = await asyncio.create_subprocess_exec(
        *(chromium, *FLAGS, f"--user-data-dir={folder}", "about:blank"),
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        env=os.environ | {"HOME": str(folder)},
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(PATIENCE):
            port = await _listening(process.stderr)
        draining = asyncio.create_task(process.stderr.read())
        async with aiohttp.ClientSession() as client:
            browser = Browser(client, port)
            try:
                yield browser
            finally:
                await browser.close()
    finally:
        process.terminate()
        await process.wait()
    await draining


async def _listening(log: asyncio.StreamReader) -> int:
    said = []
    async for line in log:
        said.append(line.decode())
        if found := LISTENING.search(said[-1]):
            return int(found[1])
    pytest.fail(f"chromium did not start: {''.join(said)}")
