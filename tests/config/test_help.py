"""Help comes out of the tables, so it is complete, true, and fits a terminal."""

import shlex

import pytest

from probe.config import load
from probe.config.commands import COMMANDS, Command
from probe.config.fields import FIELDS, SECTIONS, taken_by
from probe.config.help import help_of, overview
from probe.config.records import Config

every_command = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)


@every_command
def test_help_fits_a_terminal_and_leaves_nothing_out(command: Command) -> None:
    text = help_of(command)
    assert max(map(len, text.splitlines())) <= 80
    assert text.isascii()
    assert text.endswith("\n")
    for field in taken_by(command.name):
        assert f"\n  {field.flag}" in text
    assert f"  {command.name} " in overview()


@every_command
def test_examples_work(command: Command) -> None:
    for line, _ in command.examples:
        words = shlex.split(line)
        if "|" in words:
            words = words[words.index("probe") : words.index("|", words.index("probe"))]
        if ">" in words:
            words = words[: words.index(">")]
        name = command.name.split()
        assert words[: len(name) + 1] == ["probe", *name]
        if "--config" not in words:
            load(command.name, words[len(name) + 1 :], {})


def test_the_overview_fits_a_terminal() -> None:
    assert max(map(len, overview().splitlines())) <= 80


@every_command
def test_a_command_has_one_field_of_a_name(command: Command) -> None:
    names = [field.name for field in taken_by(command.name)]
    assert len(set(names)) == len(names)


def test_every_field_has_a_command_and_a_place() -> None:
    known = {command.name for command in COMMANDS}
    for field in FIELDS:
        assert set(field.commands) <= known
        assert field.commands
        if field.section != "target" and field.attribute:
            assert field.attribute in SECTIONS[field.section]._fields


def test_every_setting_of_the_config_has_a_field() -> None:
    """But what is no setting: the command and its words, what was gathered, and the sections."""
    settable = {f"{field.section}.{field.attribute}" for field in FIELDS}
    for section in ("", "policy", "evidence", "response", "discovery"):
        wanted = {f"{section}.{name}" for name in SECTIONS[section]._fields}
        aside = {
            f".{name}"
            for name in ("command", "targets", "file", "paths", "incident", "then", "notices")
        }
        assert wanted - settable - aside <= {".policy", ".evidence", ".response", ".discovery"}
    assert Config("serve").listen.port == 9809
