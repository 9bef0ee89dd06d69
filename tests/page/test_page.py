"""The page in a real browser: who can use it, who is shown what, and what it does without us."""

from pathlib import Path

from probe.api.view.live import LiveLimits
from probe.model import Condition, Hold, Protocol, Target
from tests.api.service import LISTENER, failed_trip, good_trip, healthy, seen, serving, stalled
from tests.api.test_page import looking
from tests.page.browser import Tab, browsing
from tests.page.test_incident import holds_up

HOSTILE = "<img src=x onerror=\"document.title='taken'\">"


async def focused(tab: Tab) -> str:
    return str(await tab.evaluate("document.activeElement.outerHTML.slice(0, 120)"))


async def test_it_is_used_by_keyboard_and_shows_what_others_wrote_as_text(tmp_path: Path) -> None:
    found = Target(9090, Protocol.QUEUE, discovered=True)
    targets = Target(8080, path=f"/{HOSTILE}"), Target(0, socket=f"/run/{HOSTILE}"), found
    async with serving(*targets) as service, browsing(tmp_path) as browser:
        board = service.board
        now = board.clock()
        for ago in range(300, 60, -1):
            service.publish(healthy("8080"), seen(now - ago))
            service.publish(healthy("8080"), good_trip(now - ago))
        for ago in range(60, -1, -1):
            bad = stalled("8080", now - 60)._replace(message=f"8080 stalled: {HOSTILE}")
            service.publish(bad, seen(now - ago, LISTENER._replace(length=6)))
        service.publish(bad, failed_trip(now))
        service.publish(healthy(f"/run/{HOSTILE}"), seen(now))
        service.publish(healthy("9090")._replace(condition=Condition.UNKNOWN), seen(now))
        board.evidence_saved("8080", "20261126T044012Z-8080-stalled", f"port 8080: {HOSTILE}")
        board.hold(Hold(now + 3600, board.wall() + 3600, by="uid 0"))

        tab = await browser.open()
        await tab.show(f"http://127.0.0.1:{service.port}/")
        await tab.until("document.title.startsWith('✕ Not ready')")
        shown = await tab.text()
        assert f"8080 stalled: {HOSTILE}" in shown
        assert f"port 8080: {HOSTILE}" in shown
        assert f"/run/{HOSTILE}" in shown
        assert await tab.evaluate("document.querySelectorAll('img').length") == 0
        assert "What holds /live good by hand ends" in shown
        await holds_up(tab)

        # A card that is closed opens, and a moment of the past is read, without a pointer.
        await tab.evaluate("document.body.focus()")
        reached: list[str] = []
        while 'type="range"' not in (reached[-1:] or [""])[0]:
            await tab.press("Tab", 9)
            reached.append(await focused(tab))
            assert len(reached) < 40, reached
        said = ""
        for _ in range(100):
            await tab.press("ArrowLeft", 37)
            said = await tab.evaluate("document.activeElement.getAttribute('aria-valuetext')")
            if "unhealthy, queue 6 of 5" in said:
                break
        assert "unhealthy, queue 6 of 5" in said
        await tab.press("Home", 36)
        said = await tab.evaluate("document.activeElement.getAttribute('aria-valuetext')")
        assert said.endswith("nothing was observed")
        picture = await tab.evaluate(
            "document.querySelector('.bar svg').getAttribute('aria-label')"
        )
        assert picture.startswith("The last ten minutes: healthy for ")
        assert ", unhealthy for 1 min" in picture
        assert tab.complaints == []


async def test_from_outside_the_pod_it_shows_less(tmp_path: Path, pod_address: str) -> None:
    async with serving() as service, browsing(tmp_path) as browser:
        now = service.board.clock()
        service.publish(healthy(), seen(now))
        service.publish(stalled(at=now), seen(now))
        service.board.evidence_saved("8080", "20261126T044012Z-8080-stalled", "thread `acceptor`")
        inside, outside = await browser.open(), await browser.open()
        for tab, host in ((inside, "127.0.0.1"), (outside, pod_address)):
            await tab.show(f"http://{host}:{service.port}/")
            await tab.until("document.title.startsWith('✕ Not ready')")
        assert "thread `acceptor`" in await inside.text()
        shown = await outside.text()
        assert "8080 accept queue stalled: 6 of 5 queued" in shown
        assert "acceptor" not in shown
        assert "See the evidence" not in shown
        assert outside.complaints == []


async def test_it_comes_back_with_the_sidecar(tmp_path: Path) -> None:
    async with browsing(tmp_path) as browser:
        tab = await browser.open()
        async with serving() as service:
            service.publish(healthy(), seen(service.board.clock()))
            await tab.show(f"http://127.0.0.1:{service.port}/")
            await tab.until("document.title.startsWith('✓')")
        await tab.until("document.title.startsWith('? No answer')")
        async with serving(port=service.port) as service:
            service.publish(healthy(), seen(service.board.clock()))
            service.publish(stalled(at=service.board.clock()), seen(service.board.clock()))
            await tab.until("document.title.startsWith('✕ Not ready')")
            assert "Live" in await tab.text()


async def test_who_is_refused_comes_again(tmp_path: Path) -> None:
    limits = LiveLimits(viewers=1)
    async with serving(live=limits) as service, browsing(tmp_path) as browser:
        service.publish(healthy(), seen(service.board.clock()))
        tab = await browser.open()
        async with looking(service):
            await tab.show(f"http://127.0.0.1:{service.port}/")
            await tab.until("source.readyState === EventSource.CLOSED")
            await tab.until("$('connection').textContent.startsWith('Refused')")
        await tab.until("document.title.startsWith('✓')")
        assert "Live" in await tab.text()


async def test_targets_that_come_change_the_scale_of_all(tmp_path: Path) -> None:
    async with serving() as service, browsing(tmp_path) as browser:
        for ago in range(60, 0, -1):
            service.publish(healthy(), seen(service.board.clock() - ago))
        tab = await browser.open()
        await tab.show(f"http://127.0.0.1:{service.port}/")
        await tab.until("document.title.startsWith('✓')")
        for port in range(9000, 9019):
            service.board.add(Target(port, Protocol.QUEUE, discovered=True))
        await tab.until("document.querySelectorAll('#targets details').length === 20")
        shown = "[...known.get('8080').history.placed()].filter((point) => point.state)"
        await tab.until(
            f"{shown}.length >= 29 && {shown}.every((point) => point.to - point.from === 2)"
        )
        assert tab.complaints == []


async def test_of_many_targets_the_worst_is_on_top(tmp_path: Path) -> None:
    targets = [Target(port) for port in range(8000, 8084)]
    async with serving(*targets) as service, browsing(tmp_path) as browser:
        now = service.board.clock()
        for target in targets:
            for ago in range(600, 0, -10):
                service.publish(healthy(target.name), seen(now - ago))
        service.publish(stalled("8077", at=now), seen(now))
        tab = await browser.open()
        await tab.show(f"http://127.0.0.1:{service.port}/")
        await tab.until("document.title.includes('8077 accepts no connections')")
        first = await tab.evaluate("document.querySelector('#targets details').innerText")
        assert "Port 8077" in first
        assert await tab.evaluate("document.querySelector('#targets details').open")
        assert await tab.evaluate("document.querySelectorAll('#targets details').length") == 84
