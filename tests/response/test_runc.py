"""The same in containers that a real runtime made, with cgroups of their own."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.evidence.programs import Program
from tests.response.pod import PAUSE, USER, as_user, python
from tests.response.test_containers import CHOOSE, ORPHANED, READY, asked, named
from tests.support import require_runnable

LEFT_OUT = {"proc", "sys", "dev", "tmp", "run"}


class Runtime:
    """runc, with containers that share the process namespace of the first."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._runc = ("runc", "--root", str(folder / "state"))
        self._name = f"accept-probe-{os.getpid()}"
        self._pause = ""

    def run(self, name: str, command: tuple[str, ...], user: int = USER) -> Program:
        bundle = self._folder / name
        (bundle / "rootfs").mkdir(parents=True)
        (bundle / "config.json").write_text(json.dumps(self._config(name, command, user)))
        identity = f"{self._name}-{name}"
        self._stack.callback(self._delete, identity)
        program = Program((*self._runc, "run", "--bundle", str(bundle), identity))
        self._stack.callback(program.end)
        assert program.line() == "ready"
        if not self._pause:
            told = subprocess.check_output((*self._runc, "state", identity))
            self._pause = f"/proc/{json.loads(told)['pid']}/ns/pid"
        return program

    def execute(self, name: str, command: tuple[str, ...]) -> None:
        program = Program((*self._runc, "exec", f"{self._name}-{name}", *command))
        self._stack.callback(program.end)
        assert program.line() == "ready"

    def _delete(self, identity: str) -> None:
        delete = (*self._runc, "delete", "--force", identity)
        subprocess.run(delete, check=False, capture_output=True)

    def _config(self, name: str, command: tuple[str, ...], user: int) -> dict[str, object]:
        processes = {"type": "pid"} | ({"path": self._pause} if self._pause else {})
        folders = [path for path in Path("/").iterdir() if path.is_dir()]
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": user, "gid": user},
                "args": command,
                "env": [f"PATH={os.environ['PATH']}"],
                "cwd": "/",
                "noNewPrivileges": True,
            },
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
                *(
                    {"destination": f"{path}", "source": f"{path}", "options": ["rbind", "ro"]}
                    for path in folders
                    if path.name not in LEFT_OUT
                ),
            ],
            "linux": {
                "namespaces": [processes, {"type": "mount"}],
                "cgroupsPath": f"/{self._name}-{name}",
            },
        }


@contextmanager
def runtime(folder: Path) -> Iterator[Runtime]:
    if not shutil.which("runc"):
        pytest.skip("runc is not installed")
    if os.geteuid() or Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]:
        pytest.skip("runc makes cgroups, which takes root of the machine")
    # The first command after setpriv is still found with root's rights, and Python by `env` is not.
    require_runnable((*as_user(USER), "env"))
    with ExitStack() as stack:
        yield Runtime(folder, stack)


def test_the_first_process_is_told_from_orphans_and_from_what_was_executed(tmp_path: Path) -> None:
    """The pod's own process 1 is another user's, as the pause container's is."""
    with runtime(tmp_path) as made:
        made.run("pause", PAUSE, user=65535)
        made.run("bystander", named("bystander", READY), user=USER + 1)
        made.run("web", ORPHANED)
        made.execute("web", named("executed", READY))
        sidecar = made.run("probe", python("print('ready', flush=True)\n" + CHOOSE))
        assert asked(sidecar) == "first"
