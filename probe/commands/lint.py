"""`probe lint PATH ...`: what can be seen in review, in files, folders or standard input.

Nothing passes unseen: what is no manifest is told, and what cannot be read is exit status 2.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from probe import exits
from probe.commands import colour
from probe.commands.inputs import STANDARD, Inputs
from probe.config import Config
from probe.config.problems import did_you_mean, nearest, quote
from probe.display import printable
from probe.lint import ALL_RULES, NAMES, Level, LintReport, Rule, lint
from probe.lint.formats import FORMATS, text

TO_FILES = ("json", "sarif", "junit")
"""Formats that programs read from files, rather than people or a runner from standard output."""


class BadLine(Exception):
    """str() says, in one line, what of the command line cannot be."""


def run(config: Config) -> int:
    """Print what was found. Exit 0: nothing from --fail-on upwards; 1: something; 2: usage, or
    something that cannot be read.
    """
    try:
        rules = chosen(config.rules, config.skip)
        outputs = paired(config.formats or ("text",), config.outputs)
    except BadLine as error:
        return complain([str(error)])
    inputs = Inputs(config.paths)
    complain([*(f"passed over: {line}" for line in inputs.passed), *inputs.troubles])
    least = Level(config.fail_on)
    report = lint(inputs.objects, rules)
    if inputs.objects:
        for form, output in outputs:
            try:
                write(render(form, report, least, output), output)
            except OSError as error:
                if output == STANDARD:
                    raise
                return complain([f"--output {output}: {error.strerror}"])
    if inputs.troubles:
        return exits.USAGE
    return exits.FAILED if report.fails(least) else exits.OK


def complain(lines: Iterable[str]) -> int:
    for line in lines:
        print(f"probe: {printable(line)}", file=sys.stderr)
    return exits.USAGE


def chosen(only: Sequence[str], skipped: Sequence[str]) -> tuple[Rule, ...]:
    """The rules to hold: those of --rule, or all, but those of --skip."""
    for flag, names in (("--rule", only), ("--skip", skipped)):
        for name in names:
            if name not in NAMES:
                hint = did_you_mean(nearest(name, NAMES)) or f": one of {', '.join(NAMES)}"
                raise BadLine(f"{flag}: {quote(name)} is no rule{hint}")
    return tuple(
        rule for rule in ALL_RULES if (not only or rule.id in only) and rule.id not in skipped
    )


def paired(formats: Sequence[str], outputs: Sequence[str]) -> list[tuple[str, str]]:
    """Each format with where it goes. As many outputs as formats: in their order; fewer: those of
    the formats that are for files, in their order. The rest goes to standard output.
    """
    forms = list(dict.fromkeys(formats))
    if len(outputs) == len(forms):
        pairs = list(zip(forms, outputs, strict=True))
    else:
        for_files = [form for form in forms if form in TO_FILES]
        if outputs and len(outputs) != len(for_files):
            raise BadLine(
                f"--output: {len(outputs)} for {len(forms)} formats: give each --format its "
                f"--output, in the same order; {STANDARD} is standard output"
            )
        given = dict(zip(for_files, outputs, strict=False))
        pairs = [(form, given.get(form, STANDARD)) for form in forms]
    to_standard = [form for form, output in pairs if output == STANDARD]
    if len(to_standard) > 1:
        raise BadLine(
            f"--format: {' and '.join(to_standard)} would both go to standard output: give "
            "--output FILE"
        )
    return pairs


def render(form: str, report: LintReport, least: Level, output: str) -> str:
    if form != "text":
        return FORMATS[form](report, least)
    return text.render(report, least, colour=output == STANDARD and colour.wanted())


def write(content: str, output: str) -> None:
    if output == STANDARD:
        sys.stdout.write(content)
        sys.stdout.flush()
    else:
        Path(output).write_text(content, encoding="utf-8", errors="backslashreplace")
