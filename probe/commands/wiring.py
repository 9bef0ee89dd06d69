"""What `serve` and `watch` wire alike: the kernel's view, the samplers and the counters, which are
closed with the stack that they are given.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack

from probe.config import Config, ConfigError
from probe.kernel import CannotTell, KernelView, open_view
from probe.kernel.hosts import Elsewhere
from probe.kernel.procfs import Counters
from probe.kernel.sampler import Sampler
from probe.model import Protocol
from probe.roundtrip import aio

logger = logging.getLogger("probe")

POOR_VIEWS = {
    "procfs": "sock_diag is refused: limits and drops are unknown, so is saturation",
    "nowhere": "neither sock_diag nor /proc/net tells anything: the round trip alone decides",
}


async def require_here(config: Config) -> None:
    """Raise ConfigError for targets of another network namespace.

    Their listeners cannot be watched, and a pod that is taken out of service for another one's
    fault helps nobody: so it is a mistake, and told before anything is served. A name that the
    resolver does not know by now may be known later.
    """
    asked = {
        asyncio.create_task(aio.hosts(target, config.policy.timeout)): target
        for target in config.targets
        if target.host
    }
    if not asked:
        return
    done, late = await asyncio.wait(asked, timeout=config.policy.timeout)
    for task in late:
        task.cancel()
    errors = {asked[task].port: task.exception() for task in done}
    refused = [
        f"{port}: {error}, whose listeners are all that {config.command} can watch; "
        "`probe check` and `probe wait` ask another host"
        for port, error in sorted(errors.items())
        if isinstance(error, Elsewhere)
    ]
    if refused:
        raise ConfigError(refused)


def open_kernel(config: Config, stack: AsyncExitStack) -> KernelView:
    """What tells of listeners here; in the log, what it cannot tell."""
    # Where only /proc can be read, a look-up costs the whole table: for tcp it is the only proof.
    view = open_view(walk=any(target.protocol is Protocol.TCP for target in config.targets))
    stack.callback(view.close)
    if view.name in POOR_VIEWS:
        logger.warning(POOR_VIEWS[view.name])
    return view


def samplers_of(config: Config, sampler: Sampler, stack: AsyncExitStack) -> dict[str, Sampler]:
    """By target, who takes its samples: for all ports one, for each unix socket its own."""
    samplers = {}
    for target in config.targets:
        if target.socket:
            from probe.kernel.unixdiag import open_sampler  # not loaded for nothing

            own = samplers[target.name] = open_sampler(target)
            stack.callback(own.view.close)
            if own.view.name in POOR_VIEWS:
                logger.warning("%s: the round trip alone decides: no queue is told", target.name)
        else:
            samplers[target.name] = sampler
    return samplers


def open_counters(stack: AsyncExitStack, uncounted: Callable[[str], None]) -> Counters | None:
    """Those of the namespace; None where it does not tell them: `uncounted` is told why."""
    try:
        counters = Counters()
    except CannotTell as error:
        uncounted(f"accepts are not counted: {error}")
        return None
    stack.callback(counters.close)
    return counters
