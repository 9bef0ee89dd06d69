"""`probe check`: one round trip, or a question to a sidecar; one line, one status."""

from __future__ import annotations

import time

from probe import exits
from probe.commands.ask import ask_sidecar, report
from probe.config import Config
from probe.imports.typing_lite import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from probe.commands.once import CheckResult


class Checked(NamedTuple):
    """What a check came to: a status of `exits`, or WARNING, and why in one line."""

    status: int
    line: str
    targets: tuple[CheckResult, ...] = ()
    """Each by itself; none where a sidecar has answered for them."""


def run(config: Config) -> int:
    """Print why, and exit as the caller takes it: 0 healthy, 1 not, 3 could not tell."""
    checked = examine(config, config.time_limit)
    code = exits.STYLES[style(config)][checked.status]
    if config.format == "text":
        return report(code, checked.line)
    from probe.commands import check_formats  # what kubelet may run every few seconds has none

    print(check_formats.FORMATS[config.format](config, checked, code), end="")
    return code


def style(config: Config) -> str:
    """Whose exit statuses it has: one of `exits.STYLES`."""
    return config.exit_style or ("nagios" if config.format == "nagios" else "kubelet")


def tells_warnings(config: Config) -> bool:
    """Whether a warning looks otherwise than a good answer does."""
    return config.format != "text" or exits.STYLES[style(config)][exits.WARNING] != exits.OK


def examine(config: Config, limit: float) -> Checked:
    """Check everything once within `limit` seconds."""
    deadline = time.monotonic() + limit
    if config.sidecar is not None:
        host, port = config.sidecar
        question = "live" if config.live else "ready"
        return Checked(*ask_sidecar(host, port, question, limit, warn=tells_warnings(config)))
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
    status = once.worst(each.status for each in seen)
    telling = [each for each in seen if each.status == status]
    if status == exits.OK and (suspects := [each for each in seen if each.suspect]):
        status, telling = exits.WARNING, suspects
    return Checked(status, "; ".join(each.line for each in telling), tuple(seen))
