"""Writes docs/reference.md out of the tables that the product itself reads: `make reference`."""

from probe.config.commands import COMMANDS, EXIT_CODES
from probe.config.fields import GROUPS, Field
from probe.config.values import Switch
from probe.evidence.keeper import COMMAND_OUTPUT
from probe.evidence.keeper import COMMANDS as AT_ONCE
from probe.evidence.on_incident import OUTPUT_LIMIT

# The page's lines are as long as those of the other pages.
# ruff: noqa: E501

BEGINNING = f"""# Reference

Every command and every setting. This page is made from the tables that `probe` itself reads
(`make reference`), and a test holds it to them.

A flag wins over the environment, the environment over the file (`--config`, YAML). An empty variable counts as
not set. Mistakes are told all at once, each with its place and what is accepted; exit status 2.

- Durations: `500ms`, `2s`, `1m30s`. Sizes: `64MiB`. Shares: `90%` or `0.9`.
- A repeatable setting is a list in the file; in the environment its values stand apart by spaces, or by commas
  where it is not `PROBE_TARGET`. Headers stand on lines of their own.
- A switch takes `true` or `false` in the environment and in the file.
- In the file, an item of `targets` is a URL or a mapping with the keys of its parts: `port`, `protocol`, `path`
  and so on, as in the table of targets.

{EXIT_CODES.removesuffix(".")}.

## Commands

| command | what it is for |
|---|---|
"""

ON_INCIDENT = f"""
## What `--on-incident` runs

A command of yours, once the evidence of an incident is saved: to upload it, to page somebody.

| what | how |
|---|---|
| when | after the evidence of a capture was saved, whatever the capture was for; a capture that began with a suspicion that came to nothing is one too. The sidecar does not wait for it: neither verdicts nor `/live` |
| arguments | those given, split as a shell would but run without one; behind them the folder of the incident, where there is one (with `--evidence-dir`) |
| `PROBE_INCIDENT_ID` | the incident's id, as in `probe evidence list` |
| `PROBE_INCIDENT_DIR` | its folder; empty where evidence is kept in memory only |
| `PROBE_INCIDENT_TARGET` | the name of the target, such as `8080` |
| `PROBE_INCIDENT_LINE` | the finding in one line |
| the rest of its environment | the sidecar's own |
| working directory | the sidecar's own: `/` in the image |
| standard input | empty |
| user, limits, network | the sidecar's own. In the image there is no shell: give a program |
| time | `--on-incident-timeout`; then its process group gets SIGTERM, and SIGKILL a second later |
| its children | whatever it leaves in its process group is ended with it |
| output | standard output and error together, `{COMMAND_OUTPUT}` in the folder of the incident, at most {OUTPUT_LIMIT >> 20} MiB: a command that writes more is ended. Its last line says how it ended, in brackets |
| exit status | logged; it changes no verdict, and nothing is tried again |
| how many | {AT_ONCE} at once; one more is not run, which is logged |
"""


def page() -> str:
    """The page as it is to be."""
    commands = "".join(f"| `probe {c.name}` | {c.summary} |\n" for c in COMMANDS)
    groups = "".join(f"\n## {title}\n\n" + table(fields) for title, fields in GROUPS)
    return BEGINNING + commands + groups + ON_INCIDENT


def table(fields: tuple[Field, ...]) -> str:
    head = (
        "| flag, variable, key | default | accepts | of | what it does |\n|---|---|---|---|---|\n"
    )
    return head + "".join(map(row, fields))


def row(field: Field) -> str:
    value = "" if isinstance(field.kind, Switch) else f" {field.metavar}"
    names = [f"`{field.flag}{value}`", f"`{field.environment}`"]
    if field.name != "config":
        names.append(f"`{'targets' if field.name == 'target' else field.key}`")
    columns = [
        "<br>".join(names),
        default(field),
        field.kind.accepts + ("; repeatable" if field.collect else ""),
        of(field),
        field.help,
    ]
    return "| " + " | ".join(column.replace("|", r"\|") for column in columns) + " |\n"


def default(field: Field) -> str:
    if isinstance(field.kind, Switch):
        return "off"
    if field.default in (None, "", b"", (), frozenset()):
        return ""
    return f"`{field.kind.show(field.default)}`"


def of(field: Field) -> str:
    return ", ".join(f"`{command}`" for command in field.commands)


if __name__ == "__main__":
    print(page(), end="")
