"""The help texts, out of the tables. Imported only when somebody asks."""

from collections.abc import Iterator
from textwrap import fill, indent, wrap

from probe.config.commands import COMMANDS, Command
from probe.config.fields import GROUPS, Field, taken_by
from probe.config.values import Switch

WIDTH = 80
COLUMN = 26
"""Where the explanations of flags begin."""

URLS = r"""
  --target takes the protocol and its options in one URL; an empty HOST means
  what the listener is bound to, and IPv6 addresses stand in brackets:
    http://HOST:PORT[/PATH]       a bare / is no path: any answer below 500
    https://HOST:PORT[/PATH]
    tcp://HOST:PORT[?send=BYTES&expect=BYTES]
                                  in the order of the talk, each as often as
                                  needed: expect=220&send=QUIT\r\n
    grpc://HOST:PORT[/SERVICE]
    tcps://, grpcs://             over TLS
    fastcgi://HOST:PORT[/PATH]    without a path: /ping
    queue://HOST:PORT             no connection is ever made
    unix://SOCKET                 as tcp; SOCKET: /run/app.sock, or @NAME if
                                  abstract
    http+unix://SOCKET[?path=PATH], fastcgi+unix://SOCKET[?path=PATH],
    grpc+unix://SOCKET[?service=SERVICE], queue+unix://SOCKET
  The flags above are parameters, with _ for -: ?status=200-299&header=X: y,
  ?ca_file=FILE&insecure=1. What else follows the ? of http and https is the
  application's own query; a name of ours reaches it with a letter as %XX.
  BYTES: \r \n \t \0 \\ \xHH are escapes; %26 stands for &, %25 for %.
"""

SOURCES = """
Every flag is also an environment variable (--live-after: PROBE_LIVE_AFTER) and
a key of the YAML file (live_after; targets, headers). A flag wins over the
environment, the environment over the file. Durations: 500ms, 2s, 1m30s.
"""


def overview() -> str:
    """What `probe --help` prints."""
    width = max(len(command.name) for command in COMMANDS)
    commands = "\n".join(f"  {c.name:<{width}}  {c.summary}" for c in COMMANDS)
    return (
        "probe: a health-check sidecar that watches the accept queue\n\n"
        "usage: probe COMMAND [FLAGS]\n"
        "       probe COMMAND --help\n"
        "       probe --version\n\n"
        f"Commands\n{commands}\n\n"
        "Examples\n"
        "  probe serve --port 8080      watch an application, answer on :9809\n"
        "  probe check --port 8080      is it healthy, right now?\n"
        "  probe diagnose --port 8080   and if not, why?\n"
    )


def help_of(command: Command) -> str:
    """What `probe COMMAND --help` prints."""
    summary = command.summary[0].upper() + command.summary[1:]
    about = f"{summary}{'' if summary.endswith('?') else '.'} {command.about}"
    parts = [usage(command), fill(about, WIDTH)]
    for title, fields in GROUPS:
        mine = [field for field in fields if command.name in field.commands]
        if mine:
            parts.append(f"{title}\n" + "\n".join(map(entry, mine)))
        if mine and title == "Targets":
            parts.append(URLS.strip("\n"))
    if taken_by(command.name):
        parts.append(SOURCES.strip())
    parts.append("Examples\n" + "\n".join(examples(command)))
    return "\n\n".join(parts) + "\n"


def usage(command: Command) -> str:
    words = [f"usage: probe {command.name}"]
    if taken_by(command.name):
        words.append("[FLAGS]")
    if command.operand:
        words.append(f"{command.operand}{' ...' if command.several else ''}")
    if command.then:
        words.append(f"[-- {command.then}]")
    return " ".join(words)


def entry(field: Field) -> str:
    """A flag with its explanation; what is too long for the column has a line of its own."""
    flag = f"  {field.flag} {field.metavar}".rstrip()
    notes = []
    if field.collect:
        notes.append("repeatable")
    if field.default not in (None, "", b"", (), frozenset()) and not isinstance(field.kind, Switch):
        notes.append(f"default\N{NO-BREAK SPACE}{field.kind.show(field.default)}")
    text = f"{field.help} ({', '.join(notes)})" if notes else field.help
    lines = indent("\n".join(wrap(text, WIDTH - COLUMN)), " " * COLUMN)
    lines = lines.replace("\N{NO-BREAK SPACE}", " ")
    if len(flag) + 2 <= COLUMN:
        return flag + lines[len(flag) :]
    return f"{flag}\n{lines}"


def examples(command: Command) -> Iterator[str]:
    for line, remark in command.examples:
        if remark:
            yield f"  # {remark}"
        yield f"  {line}"
