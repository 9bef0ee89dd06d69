"""An API server on loopback: Events, pods and Leases by the API's own rules, and misbehaviour.

A fake stands here and nowhere else: a real API server does not cut connections on demand. What it
accepts is what the real one accepts (kubernetes, pkg/apis/core/validation/events.go); the same
reporter is run against a real cluster by tests/e2e.
"""

import asyncio
import copy
import itertools
import json
import re
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import kubernetes_validate
import trustme
from aiohttp import web

from probe.kubernetes.client import Account

TOKEN = "the-first-token"
Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]


def status(code: int, message: str = "no", headers: dict[str, str] | None = None) -> Fault:
    async def answer(_request: web.Request) -> web.Response:
        body = {"kind": "Status", "apiVersion": "v1", "code": code, "message": message}
        return web.json_response(body, status=code, headers=headers)

    return answer


def over_budget(said: str, headers: dict[str, str] | None = None) -> Fault:
    async def answer(_request: web.Request) -> web.Response:
        body = {
            "kind": "Status",
            "apiVersion": "v1",
            "message": "Cannot evict pod as it would violate the pod's disruption budget.",
            "reason": "TooManyRequests",
            "details": {"causes": [{"reason": "DisruptionBudget", "message": said}]},
            "code": 429,
        }
        return web.json_response(body, status=429, headers=headers)

    return answer


async def carry_out(request: web.Request) -> web.StreamResponse:
    """No fault at all."""
    return await request.match_info.handler(request)


async def lose_answer(request: web.Request) -> web.StreamResponse:
    await carry_out(request)
    return await cut(request)


async def cut(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def hang(_request: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 65536)
        await asyncio.sleep(0)  # a write to who has gone need not wait, so nobody would be told


async def half(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"kind": "Ev')
    assert request.transport is not None
    request.transport.abort()
    return response


def text(body: str) -> Fault:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text=body)

    return answer


def raw(body: bytes, code: int = 200, encoding: str = "identity") -> Fault:
    async def answer(_request: web.Request) -> web.Response:
        headers = {"Content-Encoding": encoding}
        return web.Response(body=body, status=code, headers=headers)

    return answer


class ApiServer:
    """State by name, the requests seen, and the faults that the next requests meet."""

    def __init__(self) -> None:
        self.token = TOKEN
        self.events: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.leases: dict[str, dict[str, Any]] = {}
        self.budget: str | None = None
        """What a PodDisruptionBudget says that allows no eviction now."""
        self.services: dict[str, dict[str, bool]] = {}
        """By Service, which of its pods are ready, as the EndpointSlices tell."""
        self.may_list = True
        """Whether the account may list pods, which the example's may not."""
        self.broken_rules: list[Exception] = []
        self.seen: list[tuple[str, str]] = []
        self.faults: deque[Fault] = deque()
        self.always: Fault | None = None
        self._versions = itertools.count(1)
        self._changed = asyncio.Condition()

    async def until(self, settled: Callable[[], bool], within: float = 10.0) -> None:
        """Wait until a request makes `settled` true."""
        async with asyncio.timeout(within), self._changed:
            await self._changed.wait_for(settled)

    def pod(self, name: str, owner: str = "web-6d4c", kind: str = "ReplicaSet") -> dict[str, Any]:
        self.pods[name] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": "shop",
                "uid": f"uid-of-{name}",
                "resourceVersion": f"{next(self._versions)}",
                "labels": {"app": "web", "pod-template-hash": "6d4c"},
                "ownerReferences": [
                    {
                        "apiVersion": "apps/v1",
                        "kind": kind,
                        "name": owner,
                        "uid": f"uid-of-{owner}",
                        "controller": True,
                    }
                ],
            },
            "spec": {},
            "status": {"startTime": "2026-11-22T09:00:00Z", "phase": "Running"},
        }
        return self.pods[name]

    def delete_pod(self, name: str) -> None:
        """Delete a pod, and what it owns, as the garbage collector does a little later."""
        uid = self.pods.pop(name)["metadata"]["uid"]
        for name, lease in list(self.leases.items()):
            if lease["metadata"]["ownerReferences"][0]["uid"] == uid:
                del self.leases[name]

    @web.middleware
    async def _gate(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        fault = self.faults.popleft() if self.faults else self.always
        try:
            if fault is not None:
                return await fault(request)
            if request.headers.get("Authorization") != f"Bearer {self.token}":
                return await status(401, "Unauthorized")(request)
            return await handler(request)
        except (AssertionError, kubernetes_validate.ValidationError) as error:
            self.broken_rules.append(error)
            return await status(422, str(error))(request)
        finally:
            async with self._changed:
                self.seen.append((request.method, request.path))
                self._changed.notify_all()

    async def _create_event(self, request: web.Request) -> web.StreamResponse:
        event = await request.json()
        kubernetes_validate.validate(event, "1.37", strict=True)
        for field in ("eventTime", "action", "reason", "reportingController"):
            assert event[field]
        assert 0 < len(event["reportingInstance"]) <= 128
        assert len(event["note"].encode()) <= 1024
        assert event["type"] in ("Normal", "Warning")
        assert event["regarding"]["namespace"] == event["metadata"]["namespace"]
        assert request.match_info["namespace"] == event["metadata"]["namespace"]
        name = event["metadata"]["name"]
        if name in self.events:
            return await status(409, "already exists")(request)
        self.events[name] = event
        return web.json_response(event, status=201)

    async def _patch_event(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in self.events:
            return await status(404, "not found")(request)
        patch = await self._merge_patch(request)
        assert patch.keys() == {"series"}, "only the series may change"
        assert patch["series"]["count"] >= 2
        merge(self.events[name], patch)
        kubernetes_validate.validate(self.events[name], "1.37", strict=True)
        return web.json_response(self.events[name])

    async def _list_pods(self, request: web.Request) -> web.StreamResponse:
        if not self.may_list:
            return await status(403, "cannot list resource pods")(request)
        label, _, value = request.query["labelSelector"].partition("=")
        assert "as=PartialObjectMetadataList" in request.headers["Accept"], "no spec is wanted"
        assert request.query["fieldSelector"] == "status.phase!=Succeeded,status.phase!=Failed"
        items = [
            {"metadata": pod["metadata"]}
            for pod in self.pods.values()
            if pod["metadata"]["labels"].get(label) == value
            and pod["status"]["phase"] not in ("Succeeded", "Failed")
        ]
        kind = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}
        return web.json_response(kind | {"items": items or None})  # as Go writes it

    async def _patch_pod(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in self.pods:
            return await status(404, f'pods "{name}" not found')(request)
        changed = copy.deepcopy(self.pods[name])
        patch = await self._merge_patch(request)
        version = changed["metadata"]["resourceVersion"]
        if patch.get("metadata", {}).get("resourceVersion", version) != version:
            return await status(409, "the object has been modified")(request)
        merge(changed, patch)
        if changed == self.pods[name]:  # nothing is written, and the version stays
            return web.json_response(changed)
        changed["metadata"]["resourceVersion"] = f"{next(self._versions)}"
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Pod", "metadata": changed["metadata"]}, "1.37"
        )
        was = self.pods[name]["spec"].get("activeDeadlineSeconds")
        if was is not None and changed["spec"]["activeDeadlineSeconds"] > was:
            return await status(422, "must be less than or equal to previous value")(request)
        self.pods[name] = changed
        return web.json_response(changed)

    async def _evict_pod(self, request: web.Request) -> web.StreamResponse:
        """As kubernetes does it, pkg/registry/core/pod/storage/eviction.go; tried with 1.36."""
        name = request.match_info["name"]
        eviction = await request.json()
        kubernetes_validate.validate(eviction, "1.37", strict=True)
        assert eviction["metadata"] == {"name": name, "namespace": "shop"}
        if name not in self.pods:
            return await status(404, f'pods "{name}" not found')(request)
        if self.budget is not None:
            return await over_budget(self.budget)(request)
        wanted = eviction.get("deleteOptions", {}).get("preconditions", {}).get("uid")
        if wanted not in (None, self.pods[name]["metadata"]["uid"]):
            return await status(409, "the UID in the precondition does not match")(request)
        self.delete_pod(name)
        done = {"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201}
        return web.json_response(done, status=201)

    async def _patch_status(self, request: web.Request) -> web.StreamResponse:
        """Conditions are merged by their type (kubernetes, api/core/v1, patchMergeKey)."""
        assert request.content_type == "application/strategic-merge-patch+json"
        name = request.match_info["name"]
        if name not in self.pods:
            return await status(404, f'pods "{name}" not found')(request)
        patch = await request.json()
        assert patch.keys() == {"status"}, "metadata is nothing of the sidecar's"
        assert patch["status"].keys() == {"conditions"}
        conditions = self.pods[name]["status"].setdefault("conditions", [])
        for condition in patch["status"]["conditions"]:
            present = next((one for one in conditions if one["type"] == condition["type"]), None)
            if present is None:
                conditions.append(condition)
            else:
                present.update(condition)
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Pod", "status": self.pods[name]["status"]}, "1.37"
        )
        return web.json_response(self.pods[name])

    async def _create_lease(self, request: web.Request) -> web.StreamResponse:
        lease = await request.json()
        kubernetes_validate.validate(lease, "1.37", strict=True)
        name = lease["metadata"]["name"]
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]{,251}[a-z0-9])?", name)
        (owner,) = lease["metadata"]["ownerReferences"]
        # The garbage collector would delete at once what is owned by nobody.
        assert owner["uid"] == self.pods[owner["name"]]["metadata"]["uid"]
        if name in self.leases:
            return await status(409, f'leases "{name}" already exists')(request)
        lease["metadata"]["uid"] = f"uid-{next(self._versions)}"
        lease["metadata"]["resourceVersion"] = f"{next(self._versions)}"
        self.leases[name] = lease
        return web.json_response(lease, status=201)

    async def _list_leases(self, request: web.Request) -> web.StreamResponse:
        label = request.query["labelSelector"]
        found = [
            lease for lease in self.leases.values() if label in lease["metadata"].get("labels", {})
        ]
        kind = {"kind": "LeaseList", "apiVersion": "coordination.k8s.io/v1"}
        return web.json_response(kind | {"items": found or None})

    async def _list_slices(self, request: web.Request) -> web.StreamResponse:
        """One slice a Service, and one of them in an answer: the rest is asked for by its token."""
        assert int(request.query["limit"]) <= 20
        selector = request.query.get("labelSelector", "")
        wanted = re.fullmatch(r"kubernetes\.io/service-name in \((.+)\)", selector)
        names = [
            name
            for name in sorted(self.services)
            if wanted is None or name in wanted.group(1).split(",")
        ]
        at = int(request.query.get("continue", "0"))
        slices = [
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": f"{name}-abc",
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": "IPv4",
                "endpoints": [
                    {
                        "addresses": [f"10.1.0.{number}"],
                        "conditions": {"ready": ready, "serving": ready, "terminating": False},
                        "targetRef": {
                            "kind": "Pod",
                            "name": pod,
                            "uid": self.pods[pod]["metadata"]["uid"],
                        },
                    }
                    for number, (pod, ready) in enumerate(self.services[name].items(), 1)
                ],
            }
            for name in names[at : at + 1]
        ]
        for each in slices:
            kubernetes_validate.validate(each, "1.37", strict=True)
        more = {"continue": f"{at + 1}"} if at + 1 < len(names) else {}
        kind = {"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1"}
        return web.json_response(kind | {"metadata": more, "items": slices or None})

    async def _get_lease(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in self.leases:
            return await status(404, f'leases "{name}" not found')(request)
        return web.json_response(self.leases[name])

    async def _delete_lease(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in self.leases:
            return await status(404, f'leases "{name}" not found')(request)
        options = await request.json()
        if options["preconditions"]["uid"] != self.leases[name]["metadata"]["uid"]:
            return await status(409, "the UID in the precondition does not match")(request)
        del self.leases[name]
        return web.json_response({"kind": "Status", "apiVersion": "v1", "status": "Success"})

    @staticmethod
    async def _merge_patch(request: web.Request) -> dict[str, Any]:
        assert request.content_type == "application/merge-patch+json"
        patch = json.loads(await request.read())
        assert isinstance(patch, dict)
        return patch

    @asynccontextmanager
    async def serve(
        self, mount: Path, authority: trustme.CA, host: str = "127.0.0.1", name: str = ""
    ) -> AsyncIterator[Account]:
        """Serve on a free port, with a certificate for `name`; yields the account to ask with."""
        app = web.Application(middlewares=[self._gate])
        events = "/apis/events.k8s.io/v1/namespaces/{namespace}/events"
        pods = "/api/v1/namespaces/shop/pods"
        app.router.add_post(events, self._create_event)
        app.router.add_patch(events + "/{name}", self._patch_event)
        app.router.add_get(pods, self._list_pods)
        app.router.add_patch(pods + "/{name}", self._patch_pod)
        app.router.add_post(pods + "/{name}/eviction", self._evict_pod)
        app.router.add_patch(pods + "/{name}/status", self._patch_status)
        leases = "/apis/coordination.k8s.io/v1/namespaces/shop/leases"
        app.router.add_post(leases, self._create_lease)
        app.router.add_get(leases, self._list_leases)
        app.router.add_get(leases + "/{name}", self._get_lease)
        slices = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"
        app.router.add_get(slices, self._list_slices)
        app.router.add_delete(leases + "/{name}", self._delete_lease)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(name or host).configure_cert(context)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, 0, ssl_context=context).start()
            authority.cert_pem.write_to_path(str(mount / "ca.crt"))
            (mount / "token").write_text(self.token)
            yield Account(host, str(runner.addresses[0][1]), mount)
        finally:
            await runner.cleanup()
        assert not self.broken_rules


def merge(target: dict[str, Any], patch: dict[str, Any]) -> None:
    """RFC 7396."""
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            merge(target.setdefault(key, {}), value)
        else:
            target[key] = value
