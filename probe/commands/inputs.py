"""Manifests that a command line names: files, folders, standard input. Nothing passes unseen: what
is no manifest is told, and so is what cannot be read.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from probe.manifests import NotYaml, Object, documents, objects

STANDARD = "-"
"""Standard input among the paths, standard output among the outputs."""

SUFFIXES = (".yaml", ".yml", ".json")
"""What is read of a folder."""

LIMIT = 64 << 20
"""Bytes of one file. A thousand pods as JSON are about 10 MB."""

BEGINNINGS = {
    b"\xff\xfe": "utf-16-le",  # what PowerShell writes when kubectl's output is redirected
    b"\xfe\xff": "utf-16-be",
    b"\xef\xbb\xbf": "utf-8",
}


class Source(NamedTuple):
    """The text of a file, and how its bytes come of it."""

    file: str
    text: str
    mark: bytes = b""
    encoding: str = "utf-8"

    def encoded(self, text: str) -> bytes:
        return self.mark + text.encode(self.encoding)


class Inputs:
    """The manifests of all that was named, in its order; what was passed over, and what could not
    be read.
    """

    def __init__(self, paths: Iterator[str] | tuple[str, ...]) -> None:
        self.objects: list[Object] = []
        self.pages: list[Source] = []
        self.passed: list[str] = []
        self.troubles: list[str] = []
        for path in dict.fromkeys(paths):
            self.read(path)

    def read(self, path: str) -> None:
        if path != STANDARD and Path(path).is_dir():
            self.read_folder(path)
            return
        count = len(self.objects)
        why = self.read_file(path)
        if why and len(self.objects) == count:
            self.troubles.append(why)
        elif why:
            self.passed.append(why)

    def read_folder(self, path: str) -> None:
        """Every manifest below it. Among its files there may be others: values, patches."""
        before = len(self.objects), len(self.troubles)
        for file in files(Path(path)):
            if why := self.read_file(str(file)):
                self.passed.append(why)
        if before == (len(self.objects), len(self.troubles)):
            self.troubles.append(f"{path}: no manifest in it: looked for {' '.join(SUFFIXES)}")

    def read_file(self, path: str) -> str:
        """Take the objects of a file; return why some of it, or all, is no manifest."""
        try:
            page = read(path)
        except OSError as error:
            self.troubles.append(f"{path}: {error.strerror}")
            return ""
        except ValueError as error:
            self.troubles.append(f"{path}: {error}")
            return ""
        strange, some = "", False
        count = len(self.objects)
        try:
            for document in documents(page.text):
                some = True
                found = list(objects(path, document))
                self.objects += found
                if not found:
                    what = "an empty list" if document.get("items").is_list else "no manifest"
                    strange = strange or (
                        f"{path}:{document.line}: {what}: nothing with apiVersion and kind"
                    )
        except NotYaml as error:
            place = f"{path}:{error.line}" if error.line else path
            hint = "; a Helm template? Pipe `helm template` into it" if "{{" in page.text else ""
            self.troubles.append(f"{place}: {error}{hint}")
            return ""
        if len(self.objects) > count:
            self.pages.append(page)
        return strange if some else f"{path}: is empty"


def files(folder: Path) -> Iterator[Path]:
    """In the order of their names; nothing that is hidden, and no link is followed."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from files(entry)
        elif entry.suffix in SUFFIXES and entry.is_file():
            yield entry


def read(path: str) -> Source:
    """Raises OSError, and ValueError for what is no text."""
    if path == STANDARD:
        content = sys.stdin.buffer.read(LIMIT + 1)
    else:
        with Path(path).open("rb") as file:
            content = file.read(LIMIT + 1)
    if len(content) > LIMIT:
        raise ValueError(f"larger than {LIMIT >> 20} MiB")
    mark = next(filter(content.startswith, BEGINNINGS), b"")
    encoding = BEGINNINGS.get(mark, "utf-8")
    try:
        return Source(path, content[len(mark) :].decode(encoding), mark, encoding)
    except UnicodeDecodeError as error:
        place = len(mark) + error.start
        raise ValueError(f"is no text: byte {place} is no {encoding.upper()}") from None
