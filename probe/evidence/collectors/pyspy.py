"""The stacks of a Python process, by py-spy where it is installed; it reads, and stops nothing.

`--nonblocking` matters: a tracer that stops the threads would hold up the application and change
what the audit sees. Without `--locals` py-spy reads no variable, and of its answer only names,
files and lines are kept: the command line, which it gives too, is not.
"""

import os
import select
import shutil
import subprocess
import sys
import time
from typing import Any, NamedTuple

from probe.evidence.proc.files import Unavailable, parse_json, read

OUTPUT_LIMIT = 4 << 20
"""Bytes of py-spy's answer that are read at most: some 3,000 threads of common depth."""

FRAMES = 40
"""Frames kept of each thread, from the innermost."""


class PythonThread(NamedTuple):
    """One thread with its frames, innermost first, as "function (file:line)"."""

    name: str
    tid: int
    active: bool
    frames: tuple[str, ...]


def executable() -> str:
    """Where py-spy is: beside our interpreter, or on PATH. Raises Unavailable."""
    beside = os.path.dirname(sys.executable)  # noqa: PTH120 - no pathlib in the capture's child
    found = shutil.which("py-spy", path=beside) or shutil.which("py-spy")
    if not found:
        raise Unavailable("py-spy is not installed")
    return found


def is_python(pid: int) -> bool:
    """Whether an interpreter is mapped into it. Raises Unavailable where that is hidden."""
    for line in read(f"/proc/{pid}/maps", 1 << 20).split(b"\n"):
        fields = line.split(None, 5)
        if len(fields) == 6 and b"x" in fields[1]:
            name = fields[5].rpartition(b"/")[2]
            if name.startswith((b"python", b"libpython")):
                return True
    return False


def dump(pid: int, *, seconds: float, limit: int = OUTPUT_LIMIT) -> tuple[PythonThread, ...]:
    """The threads of a Python process, within `seconds`. Raises Unavailable."""
    command = (executable(), "dump", "--json", "--nonblocking", "--pid", str(pid))
    try:
        return tuple(thread(row) for row in parse_json(output(command, seconds, limit)))
    except (ValueError, TypeError, KeyError) as failure:
        raise Unavailable("py-spy's answer cannot be read") from failure


def output(command: tuple[str, ...], seconds: float, limit: int) -> bytes:
    """What a command writes on stdout; it is killed when late or too long. Raises Unavailable."""
    deadline = time.monotonic() + seconds
    with subprocess.Popen(  # noqa: S603 - no shell, and no word of it comes from outside
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        written = {stream: bytearray() for stream in (process.stdout, process.stderr) if stream}
        answer, error = written.values()
        streams = list(written)
        try:
            while streams:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Unavailable(f"py-spy gave no answer within {seconds:g} s")
                for stream in select.select(streams, [], [], left)[0]:
                    chunk = os.read(stream.fileno(), 1 << 16)
                    written[stream] += chunk
                    if not chunk:
                        streams.remove(stream)
                    if len(written[stream]) > limit:
                        raise Unavailable(f"py-spy's answer is longer than {limit} bytes")
        finally:
            process.kill()
    if process.returncode:
        first = error.decode(errors="replace").strip().partition("\n")[0]
        raise Unavailable(f"py-spy: {first[:200] or f'ended with {process.returncode}'}")
    return bytes(answer)


def thread(row: dict[str, Any]) -> PythonThread:
    """One thread of the answer, with nothing in it but names, files and lines."""
    return PythonThread(
        name=str(row["thread_name"] or ""),
        tid=int(row["os_thread_id"] or 0),
        active=bool(row["active"]),
        frames=tuple(
            f"{frame['name']} ({frame['short_filename'] or frame['filename']}:{frame['line']})"
            for frame in row["frames"][:FRAMES]
        ),
    )
