"""What stands in an answer of the API server, whatever shape it has. Pure."""

from datetime import datetime

from probe.kubernetes.client import quoted


def look_up(answer: object, *keys: str) -> object:
    """What stands there in an answer of the API server; None where it has another shape."""
    for key in keys:
        answer = answer.get(key) if isinstance(answer, dict) else None
    return answer


def look_up_text(answer: object, *keys: str) -> str:
    """The same as one printable line; "" where there is no text."""
    value = look_up(answer, *keys)
    return quoted(value) if isinstance(value, str) else ""


def items(answer: object) -> list[object] | None:
    """What a list has; None where the answer is no list.

    An empty one is null: Go's nil slice, as Kubernetes 1.36 sends it.
    """
    if not isinstance(answer, dict) or "items" not in answer:
        return None
    found = answer["items"] or []
    return found if isinstance(found, list) else None


def name_of(item: object) -> str:
    return look_up_text(item, "metadata", "name")


def uid_of(item: object) -> str:
    return look_up_text(item, "metadata", "uid")


def version_of(item: object) -> str:
    return look_up_text(item, "metadata", "resourceVersion")


def seconds_of(stamp: str) -> float:
    """Seconds since the epoch; 0 for what is no date with its zone."""
    try:
        at = datetime.fromisoformat(stamp)
        return at.timestamp() if at.tzinfo else 0.0
    except (ValueError, OverflowError):
        return 0.0
