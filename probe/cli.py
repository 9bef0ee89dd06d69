"""The door: what every command line comes through, and how it ends."""

import os
import sys
from io import TextIOWrapper

from probe.display import printable

STDOUT = 1

COULD_NOT_TELL = 3
INTERRUPTED = 128 + 2  # SIGINT, as shells count
BROKEN_PIPE = 128 + 13  # SIGPIPE


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit status. 2: wrong usage or configuration, told on stderr.

    A fault of ours, or an output that cannot be written, is 3: it says nothing of the application.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # What cannot be written in the terminal's encoding costs no verdict.
            stream.reconfigure(errors="backslashreplace")
    try:
        status = run(sys.argv[1:] if argv is None else argv)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        discard_output()
        return BROKEN_PIPE
    except OSError as error:
        discard_output()
        print(f"probe: {printable(str(error))}", file=sys.stderr)
        return COULD_NOT_TELL
    except Exception:  # noqa: BLE001 - printed in full, and 1 would mean: not healthy
        from traceback import print_exc

        print_exc()
        return COULD_NOT_TELL
    return status


def discard_output() -> None:
    """Let what could not be written go: Python tries once more at its end, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)


def run(words: list[str]) -> int:
    from probe.commands.dispatch import dispatch

    return dispatch(words)


if __name__ == "__main__":
    sys.exit(main())
