"""Whether a pod may leave its Services, or is needed there. Pure: no I/O and no clock.

Pods that take more than they can do are slow; a Service without pods serves nobody. So whoever is
merely overloaded, or answers badly, leaves only while enough others stay. What that means:

- Of each Service that sends traffic to this pod, a share of its *other* endpoints has to be ready,
  and one at the least: whoever is the only endpoint stays. Endpoints that end do not count.
- Whoever wants to leave claims it first, by a Lease of its own, and then looks at the claims of all
  others. Claims are in order, that in which the API server has made them. An endpoint whose claim
  is older than ours is taken for gone, whatever the EndpointSlices say: they are late.
- Whoever has left looks again and again, and comes back where too few are left. The youngest claim
  comes back first: an endpoint whose claim is younger than ours is trusted to be back soon.

Why no more leave than may: take those who have left at a moment, and of them the one whose claim is
the youngest. The others had theirs before it made its own, so it has seen them, and taken them for
gone; and without them enough were ready. Whoever claims later sees its claim in turn. So all that
can take the Service below its floor is what the EndpointSlices did not show yet: pods that fail.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from probe.kubernetes.answers import look_up, look_up_text

SERVICE = "kubernetes.io/service-name"
"""The label of an EndpointSlice that names its Service."""

ROUNDING = 9
"""Digits of a product that count: 0.07 of 100 endpoints are 7, where binary fractions have more."""

Services = Mapping[str, Mapping[str, bool]]
"""By the name of a Service, whether each of its endpoints is ready. An endpoint is the uid of its
pod, which has several addresses in a Service of both families; else an address."""


class LeaveClaim(NamedTuple):
    """That a pod has left, or is about to. `order`: the lesser of two is the older."""

    pod: str
    order: float


class Standing(NamedTuple):
    """How it stands with leaving, in the Service that can spare the fewest."""

    may_leave: bool
    service: str = ""
    """Empty: no Service sends traffic to this pod."""
    ready: int = 0
    """Endpoints that serve, this one with them: those that are ready and older claims spare."""
    endpoints: int = 0
    needed: int = 0
    """How many others have to be ready."""

    @property
    def figures(self) -> str:
        if not self.service:
            return "no Service sends traffic to this pod"
        are = "endpoint is" if self.endpoints == 1 else "endpoints are"
        return f"{self.ready} of {self.endpoints} {are} ready"


def stand(
    services: Services,
    claims: Iterable[LeaveClaim],
    pod: str,
    share: float,
    *,
    trusting: bool = True,
) -> Standing:
    """Tell whether `pod` may leave, or stay away. Without a claim of its own it stands behind all.

    `trusting`: those behind it, who have to come back first, are counted as if they had.
    """
    claims = tuple(claims)
    own = min((claim.order for claim in claims if claim.pod == pod), default=math.inf)
    gone = {claim.pod for claim in claims if claim.order < own}
    back = {claim.pod for claim in claims if claim.order > own} if trusting else set[str]()
    standings = []
    for service, endpoints in services.items():
        if pod not in endpoints:
            continue
        others = {other: ready for other, ready in endpoints.items() if other != pod}
        needed = max(1, math.ceil(round(share * len(others), ROUNDING)))
        serving = sum(
            other not in gone and (ready or other in back) for other, ready in others.items()
        )
        standings.append(Standing(serving >= needed, service, serving + 1, len(endpoints), needed))
    return min(standings, key=lambda one: one.ready - one.needed, default=Standing(may_leave=True))


def services_of(slices: Iterable[object]) -> dict[str, dict[str, bool]]:
    """Join EndpointSlices to Services (discovery.k8s.io/v1).

    Whoever ends is left out: it will not come back. What is not said is taken as the API wants it
    taken, for ready. `serving` is the pod's own readiness, where `ready` is true for every endpoint
    of a Service that publishes those which are not.
    """
    services: dict[str, dict[str, bool]] = {}
    for slice_ in slices:
        service = services.setdefault(look_up_text(slice_, "metadata", "labels", SERVICE), {})
        found = look_up(slice_, "endpoints")
        for endpoint in found if isinstance(found, list) else ():
            if look_up(endpoint, "conditions", "terminating") is True:
                continue
            ready = look_up(endpoint, "conditions", "serving")
            if ready is None:
                ready = look_up(endpoint, "conditions", "ready")
            name = _name(endpoint)
            if name:
                service[name] = service.get(name, False) or ready is not False
    services.pop("", None)
    return services


def pod_uid(slices: Iterable[object], pod: str) -> str:
    """The uid of the pod of that name, as an EndpointSlice has it; "" where none has."""
    for slice_ in slices:
        found = look_up(slice_, "endpoints")
        for endpoint in found if isinstance(found, list) else ():
            target = look_up(endpoint, "targetRef")
            if look_up(target, "kind") == "Pod" and look_up_text(target, "name") == pod:
                return look_up_text(target, "uid")
    return ""


def _name(endpoint: object) -> str:
    uid = look_up_text(endpoint, "targetRef", "uid")
    addresses = look_up(endpoint, "addresses")
    if uid or not isinstance(addresses, list) or not addresses:
        return uid
    return addresses[0] if isinstance(addresses[0], str) else ""
