"""`probe inject PATH ...` and `probe uninject PATH ...`: the sidecar, put into manifests and taken
out again. Manifests go to standard output or into their files, every choice to standard error.
"""

import sys
from collections.abc import Iterable, Sequence
from difflib import unified_diff
from itertools import groupby
from pathlib import Path
from textwrap import fill

from probe import exits
from probe.commands.inputs import STANDARD, Inputs, Source
from probe.config import Config
from probe.display import printable
from probe.inject import edit, patch
from probe.inject.edit import Done, Remark
from probe.inject.plan import Options
from probe.inject.record import Wishes
from probe.lint import Level, LintReport, lint
from probe.lint.formats import text
from probe.manifests import Object, documents, objects

NOTHING = "nothing to do: no pod in it that takes traffic"


def run(config: Config) -> int:
    """Exit 0: done, or nothing to take back; 1: a pod was refused, or none was given the sidecar;
    2: usage, or something that cannot be read.
    """
    if why := unusable(config):
        return complain([why])
    inputs = Inputs(config.paths)
    complain(f"passed over: {line}" for line in inputs.passed)
    if inputs.troubles:
        return complain(inputs.troubles)
    pages = [edit.Page(page.file, page.text) for page in inputs.pages]
    if config.command == "uninject":
        done = edit.uninject(pages)
    else:
        told = Wishes(config.ports, config.urls, config.then)
        done = edit.inject(pages, Options(told, config.image, config.classic))
        if (config.ports or config.urls) and len(done.plans) > 1:
            names = ", ".join(pod.owner.title for pod, _ in done.plans)
            return complain([f"--port: says the ports of one workload, and here are {names}"])
    tell(done)
    try:
        status = put(config, inputs.pages, done)
    except patch.NoPatch as error:
        return complain([f"--output {config.form}: {error}"])
    except OSError as error:
        if error.filename is None:
            raise
        return complain([f"{error.filename}: {error.strerror}"])
    if config.command == "inject":
        review(done)
    return status


def unusable(config: Config) -> str:
    """What of the command line cannot be, in a line."""
    if config.in_place and STANDARD in config.paths:
        return "--in-place: standard input is no file"
    if config.in_place and (config.diff or config.form != "manifest"):
        return f"--in-place: not with {'--diff' if config.diff else f'--output {config.form}'}"
    if config.diff and config.form != "manifest":
        return f"--diff: not with --output {config.form}"
    return ""


def complain(lines: Iterable[str]) -> int:
    for line in lines:
        print(f"probe: {printable(line)}", file=sys.stderr)
    return exits.USAGE


# --- what is said


def tell(done: Done) -> None:
    """Every choice, by the objects that they are about."""
    for title, remarks in groupby(done.remarks, heading):
        print(printable(title), file=sys.stderr)
        for note in remarks:
            level = f"{note.level}: " if note.level else ""
            print(item(f"{level}{note.what}"), file=sys.stderr)
    needs = dict.fromkeys(need for _, plan in done.plans for need in plan.needs)
    for need in needs:
        print(item(f"needs {need}"), file=sys.stderr)


def item(sentence: str) -> str:
    return fill(
        printable(sentence),
        text.WIDTH,
        initial_indent="  - ",
        subsequent_indent="    ",
        break_on_hyphens=False,
    )


def heading(note: Remark) -> str:
    owner = note.pod.owner
    return f"{owner.title}  {owner.file}:{owner.root.line}"


def review(done: Done) -> None:
    """What lint says of the result: all but remarks, of who was given the sidecar."""
    report = lint(parsed(done.pages))
    owners = {pod.owner.title for pod, _ in done.plans}
    findings = tuple(
        finding
        for finding in report.standing
        if finding.object.about in owners and finding.level.reaches(Level.WARNING)
    )
    if findings:
        told = LintReport(findings, report.objects, report.pods)
        print(f"\n{text.render(told, Level.WARNING)}", end="", file=sys.stderr)


def parsed(pages: Iterable[edit.Page]) -> list[Object]:
    return [
        item
        for page in pages
        for document in documents(page.text)
        for item in objects(page.file, document)
    ]


# --- what is written


def put(config: Config, before: Sequence[Source], done: Done) -> int:
    """Write what came of it. Raises OSError and patch.NoPatch."""
    status = exits.OK
    if any(note.level == "refused" for note in done.remarks):
        status = exits.FAILED
    elif config.command == "inject" and not done.plans:
        complain([NOTHING])
        status = exits.FAILED
    if config.form != "manifest":
        patches = [patch.patch(pod, plan) for pod, plan in done.plans]
        form = patch.component if config.form == "component" else patch.page
        output(form(patches).encode() if patches else b"")
        return status
    pairs = list(zip(before, done.pages, strict=True))
    if config.in_place:
        for page, after in pairs:
            if after.text != page.text:
                Path(page.file).write_bytes(page.encoded(after.text))
    elif config.diff:
        output("".join(difference(page.text, after) for page, after in pairs).encode())
    else:
        output(joined([page.encoded(after.text) for page, after in pairs]))
    return status


def output(content: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def joined(files: Sequence[bytes]) -> bytes:
    """One stream of documents."""
    stream = b""
    for content in files:
        if stream and not content.startswith(b"---"):
            stream += b"---\n" if stream.endswith(b"\n") else b"\n---\n"
        stream += content
    return stream


def difference(before: str, after: edit.Page) -> str:
    lines = unified_diff(
        lines_of(before),
        lines_of(after.text),
        after.file,
        after.file,
    )
    missing = "\n\\ No newline at end of file\n"
    return "".join(line if line.endswith("\n") else line + missing for line in lines)


def lines_of(content: str) -> list[str]:
    """As tools that take a diff see them: YAML knows more line breaks than they do."""
    return [f"{line}\n" for line in content.split("\n")[:-1]] + [
        line for line in content.split("\n")[-1:] if line
    ]
