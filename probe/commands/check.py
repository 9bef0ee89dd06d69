"""`probe check`: one round trip, or a question to a sidecar; one line, one status."""

import time

from probe.commands.ask import ask_sidecar, report
from probe.config import Config


def run(config: Config) -> int:
    """Print one line that says why; exit 0 healthy, 1 not, 3 could not tell."""
    return report(*once(config, config.time_limit))


def once(config: Config, limit: float) -> tuple[int, str]:
    """Check everything once within `limit` seconds; return the exit code and the line."""
    deadline = time.monotonic() + limit
    if config.sidecar is not None:
        host, port = config.sidecar
        return ask_sidecar(host, port, "live" if config.live else "ready", limit)
    # Not loaded for nothing: to ask a sidecar is what kubelet may do every few seconds.
    from probe.commands import once
    from probe.kernel import open_view
    from probe.kernel.sampler import Sampler
    from probe.roundtrip import blocking

    view = open_view(walk=True)
    sampler = Sampler(view, once.counters())
    # What a target expects may be a password, and `wait` writes into the container's log.
    ask = once.frankly if config.command == "check" else blocking.run
    seen = []
    try:
        for left, target in zip(range(len(config.targets), 0, -1), config.targets, strict=True):
            share = (deadline - time.monotonic()) / left
            seen.append(once.at(target, config.policy, sampler, max(share, once.PAUSE), ask))
    finally:
        view.close()
    status = once.worst(one.status for one in seen)
    return status, "; ".join(one.line for one in seen if one.status == status)
