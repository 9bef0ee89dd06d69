"""Three sidecars as processes, beside three applications that fail at once: the floor for real.

The API server is the tests' own. A kubelet asks each sidecar and tells the EndpointSlices.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trustme

from probe.kubernetes.client import Account
from probe.kubernetes.identity import MOUNT
from tests.api.service import get
from tests.faults.harness import App, Sidecar
from tests.kubernetes.apiserver import ApiServer, cut
from tests.support import PATIENCE, eventually

PODS = ("web-0", "web-1", "web-2")
MOUNTED = 'mount -t tmpfs none /run && mkdir -p "$0" && cp "$1"/* "$0" && shift && exec "$@"'
"""A service account as kubelet mounts it: in a mount namespace of the sidecar's own."""


def sidecar(pod: str, app: App, account: Account) -> Sidecar:
    return Sidecar(
        *("--port", f"{app.port}", "--path", "/", "--interval", "200ms"),
        *("--floor", "50%", "--floor-unknown", "stay", "--kube-events"),
        wrapper=(
            *("env", f"POD_NAME={pod}", "POD_NAMESPACE=shop", f"POD_UID=uid-of-{pod}"),
            f"KUBERNETES_SERVICE_HOST={account.host}",
            f"KUBERNETES_SERVICE_PORT={account.port}",
            *("unshare", "--mount", "sh", "-c", MOUNTED, str(MOUNT), str(account.mount)),
        ),
    )


async def line(one: Sidecar) -> str:
    return (await get(one.port, "/ready")).text.strip()


@asynccontextmanager
async def three(
    server: ApiServer, account: Account
) -> AsyncIterator[tuple[list[App], list[Sidecar], list[int]]]:
    """The applications, their sidecars, and how many were ready whenever kubelet asked."""
    server.services["web"] = dict.fromkeys(PODS, False)
    server.services["other"] = {}
    for pod in PODS:
        server.pod(pod)
    serving: list[int] = []
    with contextlib.ExitStack() as stack:
        apps = [App() for _ in PODS]
        for app in apps:
            stack.callback(app.end)
        sidecars = []
        for pod, app in zip(PODS, apps, strict=True):
            sidecars.append(await asyncio.to_thread(sidecar, pod, app, account))
            stack.callback(sidecars[-1].end)

        async def kubelet() -> None:
            while True:
                lines = [await line(one) for one in sidecars]
                for pod, said in zip(PODS, lines, strict=True):
                    server.services["web"][pod] = said.startswith("ready")
                serving.append(sum(said.startswith("ready") for said in lines))
                await asyncio.sleep(0.05)

        asking = asyncio.create_task(kubelet())
        try:
            await eventually(lambda: bool(serving) and serving[-1] == 3, "three ready pods")
            serving.clear()
            yield apps, sidecars, serving
            assert not asking.done()
        finally:
            asking.cancel()


def answer(apps: list[App], what: str) -> None:
    for app in apps:
        app.tell(f"answer {what}")


async def test_all_fail_at_once_and_one_stays(mount: Path, authority: trustme.CA) -> None:
    server = ApiServer()
    async with server.serve(mount, authority) as account, three(server, account) as running:
        apps, sidecars, serving = running
        await asyncio.to_thread(answer, apps, "ok 503")
        await eventually(lambda: serving[-1:] == [1], "two that leave")
        await eventually(lambda: len(server.events) >= 4, "an Event of each, and of who stays")
        async with asyncio.timeout(PATIENCE):
            said = [await line(one) for one in sidecars]
            while any("are being asked for" in each for each in said):
                said = [await line(one) for one in sidecars]
        lines = sorted(said)
        assert lines[2] == "ready: round trip failed, kept in service: 1 of 3 endpoints are ready"
        assert all(each.startswith("not ready: round_trip_failed/status") for each in lines[:2])
        told = [event["note"] for event in server.events.values()]
        assert sum("; kept in service: 1 of 3" in note for note in told) == 1
        assert len(server.leases) == 2
        # Whoever stalls leaves, and another comes back for it.
        stays = apps[said.index(lines[2])]
        stays.stop()
        await eventually(lambda: 0 in serving, "a stall that leaves")
        await eventually(lambda: serving[-1] == 1, "another that comes back")
        stays.resume()
        serving.clear()
        await asyncio.to_thread(answer, apps, "ok 200")
        await eventually(lambda: serving[-1:] == [3], "all back")


async def test_without_an_api_server_they_stay_until_it_is_back(
    mount: Path, authority: trustme.CA
) -> None:
    server = ApiServer()
    async with server.serve(mount, authority) as account, three(server, account) as running:
        apps, sidecars, serving = running
        server.always = cut
        await asyncio.to_thread(answer, apps, "ok 503")
        for one in sidecars:
            async with asyncio.timeout(PATIENCE):
                while "kept in service: the" not in await line(one):  # noqa: ASYNC110 - as kubelet
                    await asyncio.sleep(0.05)
        await eventually(lambda: serving[-1:] == [3], "three that stay")
        server.always = None
        await eventually(lambda: serving[-1] == 1, "two that leave")
        assert min(serving) == 1
