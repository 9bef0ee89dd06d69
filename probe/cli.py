"""The door: what every command line comes through, and how it ends."""

import gc
import os
import sys
from io import TextIOWrapper

from probe import exits
from probe.display import printable

STDOUT = 1

QUESTIONS = {
    ("check", "--sidecar"): "ready",
    ("check", "--sidecar", "--live"): "live",
    ("check", "--live", "--sidecar"): "live",
}
"""What kubelet may start every few seconds in every pod. To find the command and to read the
settings would cost as much as the start of Python, and here there is nothing to read."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit status. 2: wrong usage or configuration, told on stderr.

    A fault of ours, or an output that cannot be written, is 3: it says nothing of the application.
    """
    # What kubelet may start every few seconds ends before there is garbage worth collecting; and to
    # take Python down piece by piece would cost as much CPU time as a fifth of its start.
    brief = argv is None and sys.argv[1:2] == ["check"]
    if brief:
        gc.disable()
    if sys.stdout is None:  # so Python says that it was started with `>&-`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - until the end; io is here already
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # What cannot be written in the terminal's encoding costs no verdict.
            stream.reconfigure(errors="backslashreplace")
    try:
        status = run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except BrokenPipeError:
        discard_output()
        return exits.BROKEN_PIPE
    except OSError as error:
        discard_output()
        print(f"probe: {printable(str(error))}", file=sys.stderr)
        return exits.UNKNOWN
    except Exception:  # noqa: BLE001 - printed in full, and 1 would mean: not healthy
        from traceback import print_exc

        print_exc()
        return exits.UNKNOWN
    if brief:
        os._exit(status)
    return status


def discard_output() -> None:
    """Let what could not be written go: Python tries once more at its end, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)


def run(words: list[str]) -> int:
    if question := plain_question(words, dict(os.environ)):
        from probe.commands import ask

        return ask.run(question)
    from probe.commands.dispatch import dispatch

    return dispatch(words)


def plain_question(words: list[str], environment: dict[str, str]) -> str:
    """What a sidecar is asked, where flags and environment say no more than that; else "".

    No more does PROBE_PORT, where it is a port: that is how the sidecar beside us was told what to
    watch. Any other variable of ours may be a setting, or an error to tell of.
    """
    for name, text in environment.items():
        if name.startswith("PROBE_") and not (name == "PROBE_PORT" and is_port(text)):
            return ""
    return QUESTIONS.get(tuple(words), "")


def is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65535


if __name__ == "__main__":
    sys.exit(main())
