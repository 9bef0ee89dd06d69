"""Documents as a sidecar sends them, and scenes of them."""

from typing import Any

from probe.watch.document import Document, read
from probe.watch.scene import Scene, hear

NOW = "2026-11-26T14:02:31.100Z"
STALLED = "accept queue stalled: 6 of 5 queued, nothing accepted for 12 s"


def moment(time: str, ago: float) -> dict[str, Any]:
    return {"at": f"2026-11-26T{time}.000Z", "seconds_ago": ago}


def target(
    name: str, condition: str = "healthy", message: str = "healthy", **more: Any
) -> dict[str, Any]:
    """One that is well by default; its history is of ten minutes."""
    well = condition == "healthy"
    queue = {"length": 0, "limit": 50, "full": False}
    exchanged = {"last": 0.002, "p50": 0.0021, "p99": 0.0132}
    return {
        "name": name,
        "port": int(name) if name.isdecimal() else None,
        "ready": well,
        "live": True,
        "verdict": {
            "condition": condition,
            "message": f"{name} {message}",
            "since": moment("14:01:58", 33),
            "kept_live": None,
        },
        "queue": queue if well else {"length": 6, "limit": 5, "full": True},
        "accepts_per_second": 12.3,
        "accepts_of": "namespace",
        "drops": {"last_10_minutes": 0 if well else 4},
        "accept_delay": {"last": 0.0002, "p50": 0.00021, "p99": 0.012},
        "round_trip": {**exchanged, "outcome": "ok" if well else "failed"},
        "last_failure": None if well else {"stage": "unanswered"},
        "own_connection_queued_seconds": None,
        "history": {
            "step": 1,
            "last": 600,
            "condition": "h" * 560 + ("h" * 40 if well else "s" * 4 + "x" * 36),
            "queue": [0] * 560 + [0 if well else 6] * 40,
            "accept_delay": [0.0002] * 560 + [None] * 40,
        },
        **more,
    }


def transition(time: str, name: str, after: str, text: str, **more: Any) -> dict[str, Any]:
    return {
        "when": moment(time, 30),
        "target": name,
        "before": "healthy",
        "after": after,
        "text": f"{name} {text}",
        "ready": after != "unhealthy",
        "live": True,
        **more,
    }


TRANSITIONS = [
    transition("14:02:01", "8080", "unhealthy", "accept queue stalled: 2 of 5 queued"),
    transition("14:01:58", "8080", "suspect", "accept queue stalled: 1 of 5 queued"),
    transition("12:00:01", "8080", "healthy", "healthy: 0 of 5 queued, round trip 6 ms"),
]


def document(*targets: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Of a pod that is as well as the worst of its targets."""
    conditions = ("unhealthy", "suspect")
    bad = [each for each in targets if each["verdict"]["condition"] in conditions]
    worst = min(bad, key=lambda each: conditions.index(each["verdict"]["condition"]), default=None)
    following: dict[str, Any] = {"text": "nothing is due", "in_seconds": None}
    if worst is None:
        headline, reason, condition = "All is well: ready and live", "", "healthy"
    else:
        condition, reason = worst["verdict"]["condition"], worst["verdict"]["message"]
        headline = f"Not ready: {worst['name']} accepts no connections"
        text = "/live fails, and kubelet restarts the container"
        following = {"text": text, "in_seconds": 17.4, "target": worst["name"]}
    return {
        "version": "0.1.0",
        "view": "sock_diag",
        "at": NOW,
        "started_at": moment("12:00:00", 7951),
        "condition": condition,
        "ready": worst is None,
        "live": True,
        "headline": headline,
        "reason": reason,
        "since": moment("14:01:58", 33),
        "next": [following],
        "targets": list(targets),
        "transitions": TRANSITIONS,
        "sidecar": {"cannot_see": []},
        **more,
    }


def stalled(**more: Any) -> dict[str, Any]:
    return target("8080", "unhealthy", STALLED, own_connection_queued_seconds=11.2, **more)


def scene(*targets: dict[str, Any], **more: Any) -> Scene:
    return hear(Scene("at 127.0.0.1:9809"), known(*targets, **more), now=0.0)


def known(*targets: dict[str, Any], **more: Any) -> Document:
    return read(document(*targets, **more))
