"""`probe hold` and `probe release`: /live stays good for a while, or no longer."""

import sys

from probe import exits
from probe.config import Config
from probe.display import printable
from probe.sidecar.hold import NotHeard, ask


def run(config: Config) -> int:
    """Exit 0: done. 1: the sidecar did not hear us."""
    try:
        heard = ask(config.listen.port, config.hold_for, ready=config.hold_ready)
    except NotHeard as error:
        print(f"probe: {printable(str(error))}", file=sys.stderr)
        return exits.FAILED
    if config.command == "hold":
        what = "live and ready" if config.hold_ready else "live"
        print(f"{what} until {printable(heard.until)}, whatever is found; `probe release` ends it")
    elif heard.held_before:
        print("released: live says again what is found")
    else:
        print("nothing was held")
    return exits.OK
