"""Finds the command, reads its configuration, runs it.

A command's module is imported when it runs and not before: `probe check`, which kubelet may start
every few seconds, must not pay for what only the sidecar needs.
"""

import os
import sys
from collections.abc import Sequence

from probe import __version__, exits
from probe.config import ConfigError, load
from probe.config.commands import BY_NAME, COMMANDS, Command
from probe.config.problems import did_you_mean, nearest, quote
from probe.display import printable

QUIET = ("serve", "check")
"""Serve logs what was ignored; what check prints ends up in Events, where only its line belongs."""


def dispatch(words: list[str]) -> int:
    """Run one command; its exit status. 2: wrong usage or configuration, told on stderr."""
    before = words[: words.index("--")] if "--" in words else words
    if before[:1] == ["--version"]:
        print(f"probe {__version__}")
        return exits.OK
    asked = before[:1] == ["help"] or not {"-h", "--help"}.isdisjoint(before)
    named = [word for word in before if word not in {"help", "-h", "--help"}] if asked else words
    if not named:
        return show_help((), asked)
    commands = find(named)
    if asked and commands:
        return show_help(commands, asked)
    if len(commands) == 1:
        return run(commands[0], words[len(commands[0].name.split()) :])
    return complain([which(named[0], commands)])


def find(words: Sequence[str]) -> tuple[Command, ...]:
    """The command that the words begin with; its siblings too when the second word is missing."""
    if command := BY_NAME.get(" ".join(words[:2])):
        return (command,)
    return tuple(command for command in COMMANDS if command.name.split()[0] == words[0])


def which(word: str, siblings: Sequence[Command]) -> str:
    """What is wrong with a command that was not found."""
    if siblings:
        return f"{word}: give {' or '.join(command.name.split()[1] for command in siblings)}"
    hint = did_you_mean(nearest(word, BY_NAME)) or ": see probe --help"
    return f"{quote(word)}: no such command{hint}"


def run(command: Command, words: Sequence[str]) -> int:
    try:
        config = load(command.name, words, os.environ)
    except ConfigError as error:
        usage = complain([*error.notices, *error.errors])
        if command.name == "check" and error.config is not None:
            from probe.commands.check import style

            return exits.STYLES[style(error.config)][usage]
        return usage
    if command.name not in QUIET:
        complain(config.notices)
    # As importlib.import_module does, without the price of importing importlib.
    __import__(command.module)
    status: int = sys.modules[command.module].run(config)
    return status


def complain(lines: Sequence[str]) -> int:
    for line in lines:
        print(f"probe: {printable(line)}", file=sys.stderr)
    return exits.USAGE


def show_help(commands: Sequence[Command], asked: bool) -> int:
    from probe.config import help as texts

    text = "\n".join(map(texts.help_of, commands)) if commands else texts.overview()
    print(text, end="", file=sys.stdout if asked else sys.stderr)
    return exits.OK if asked else exits.USAGE
