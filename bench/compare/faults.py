"""What the faults are. Who brings one about in a server stands in that server's row."""

from typing import NamedTuple


class Fault(NamedTuple):
    """In words. Where `serving`, clients are served, and a verdict that restarts is a false one."""

    title: str
    about: str
    serving: bool = False
    attributed: bool = True
    """Whether all that is queued at the end came from the prober: other clients were accepted."""


FAULTS = {
    "dead": Fault(
        "accept thread dead",
        "The thread that accepts ends of an error that nobody catches. Process, listener and health"
        " port live on. Nobody else connects, so that what is queued is the prober's.",
    ),
    "dead, clients": Fault(
        "accept thread dead, clients come",
        "The same, while five clients a second connect, and give up after 2 s.",
        attributed=False,
    ),
    "stopped": Fault("process stopped", "Every process of the server is sent SIGSTOP."),
    "limit": Fault(
        "connection limit reached, stuck",
        "Clients hold as many connections as the server allows, and ask nothing.",
    ),
    "deadlock": Fault(
        "handlers deadlocked",
        "Every handler waits for ever, at a request that was accepted.",
    ),
    "descriptors": Fault(
        "no file descriptor left",
        "accept() of the traffic port fails with EMFILE, again and again. The health port's thread"
        " sleeps inside accept(), which took its descriptor before: it goes on answering.",
    ),
    "closed": Fault(
        "listener closed", "The traffic port is closed, and refuses; the health port lives on."
    ),
    "slow": Fault(
        "slow, and serving",
        "20 connections are accepted a second, and 25 clients come again whenever they are served:"
        " each waits 1.3 s. Nothing is broken. (Where far more than 25 are queued at the end, the"
        " machine was too busy for this, and clients gave up.)",
        serving=True,
        attributed=False,
    ),
    "saturated": Fault(
        "saturated, and serving",
        "Five connections are accepted a second of the 40 that come: the queue is full all the time"
        " and moves all the time. No new client gets in, so not ready is right; a restart is not.",
        serving=True,
        attributed=False,
    ),
}
