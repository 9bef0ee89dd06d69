"""`probe replay FILE`: what the judge makes of a recorded sequence of observations."""

import sys
from pathlib import Path

from probe import exits, judge
from probe.config import Config
from probe.display import printable
from probe.model import Target, Transition
from probe.sidecar import recording


def run(config: Config) -> int:
    """Print a line per transition. Exit 0 when every target ends healthy, else 1; 2: bad file."""
    try:
        header, observations = recording.read(Path(config.file))
        states = {name: judge.initial(target(name)) for name in header.targets}
        began: float | None = None
        for name, observation in observations:
            if began is None:
                began = observation.at
            state = states.get(name) or judge.initial(target(name), observation.at)
            states[name], transition = judge.step(state, observation, header.policy)
            if transition is not None:
                print(printable(_line(transition, transition.at - began)))
    except OSError as error:
        print(f"probe: {printable(config.file)}: {error.strerror}", file=sys.stderr)
        return exits.USAGE
    except recording.BadRecording as error:
        print(f"probe: {printable(str(error))}", file=sys.stderr)
        return exits.USAGE
    for name, state in states.items():
        print(printable(f"{name} ends {state.verdict.condition}: {state.verdict.message}"))
    return exits.OK if all(state.verdict.ready for state in states.values()) else exits.FAILED


def target(name: str) -> Target:
    """As much of it as a recording tells."""
    return Target(int(name)) if name.isdecimal() else Target(0, socket=name)


def _line(transition: Transition, after: float) -> str:
    verdict = transition.after
    flags = " ".join(
        (
            "ready" if verdict.ready else "not-ready",
            "live" if verdict.live else "not-live",
            "started" if verdict.started else "not-started",
        )
    )
    return f"{after:9.2f} s  {verdict.condition:<9}  {flags:<27}  {verdict.message}"
