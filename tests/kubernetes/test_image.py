"""The image, really built and really run: under quickstart's security context, and inside others.

Takes podman, runc and debootstrap, and root. The base, a Debian with Python and pip, is made once
and kept in ~/.cache; dependencies come as the wheels that the lock files name.
"""

import fcntl
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kubernetes.manifests import containers, pod_specs, sidecar
from tests.test_supply_chain import validate

PROJECT = Path(__file__).parents[2]
CACHE = Path.home() / ".cache" / "accept-probe-tests"
IMAGE = "localhost/accept-probe:under-test"
BASE = "localhost/accept-probe-base:under-test"
LARGEST = 80 << 20
LISTENER = """
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>
int main(void) {
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(8080)};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (void *)&here, sizeof here) || listen(listener, 8)) return 1;
    write(1, "listening", 9);
    for (;;) close(accept(listener, 0, 0));
}
"""


def missing() -> str:
    tools = [tool for tool in ("podman", "runc", "debootstrap") if shutil.which(tool) is None]
    if tools:
        return f"no {', '.join(tools)} here"
    everyone = Path("/proc/self/uid_map").read_text().split()[2] == "4294967295"
    return "" if os.geteuid() == 0 and everyone else "only root of the machine can debootstrap"


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(missing()), reason=f"an image is not built: {missing()}"),
]


def run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not check or ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
    return ran


def podman(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    # cgroupfs and runc: they need neither systemd nor a machine of cgroup v2 alone.
    manager = ("--cgroup-manager", "cgroupfs", "--runtime", shutil.which("runc") or "runc")
    return run("podman", *manager, *arguments, check=check)


@contextmanager
def making() -> Iterator[Path]:
    """What is worth keeping, the base, the wheels and the layers, is made by one at a time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield CACHE


@pytest.fixture(scope="module")
def base() -> Path:
    """A Debian with Python and pip, and nothing else."""
    with making() as cache:
        root, unfinished = cache / "base", cache / "unfinished"
        if not root.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            command = ("debootstrap", "--variant=minbase", "--include=python3,python3-pip")
            made = run(*command, "bookworm", unfinished, check=False)
            if made.returncode:
                pytest.skip(f"no base for the image: {made.stdout.splitlines()[-1:]}")
            unfinished.rename(root)
        return root


@pytest.fixture(scope="module")
def image(base: Path) -> Iterator[str]:
    """Built by image/build, as `make image` does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINERS_STORAGE_CONF", str(CACHE / "storage.conf"))
        with making() as cache:
            build(cache, base, patch)
        yield IMAGE
        with making():
            podman("image", "prune", "--force")  # the build before this one


def build(cache: Path, base: Path, patch: pytest.MonkeyPatch) -> None:
    (cache / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{cache}/graph"\nrunroot = "{cache}/run"\n'
    )
    (cache / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    for lock in ("requirements.lock", "image/tools.lock"):
        run(
            *(sys.executable, "-m", "pip", "download", "--quiet", "--dest", cache / "wheels"),
            *("--only-binary=:all:", "--python-version=3.11", "--require-hashes", "--no-deps"),
            *("-r", PROJECT / lock),
        )
    if podman("image", "exists", BASE, check=False).returncode:
        run("sh", "-c", f"tar -C {base} -c . | podman import --quiet - {BASE}")
    patch.setenv("IMAGE", IMAGE)
    patch.setenv(
        "IMAGE_FLAGS",
        f"--isolation=chroot --network=host --pull=never --build-arg=BASE={BASE} "
        f"--build-arg=PY_SPY=1 --volume={cache}/wheels:/wheels:ro "
        f"--volume={cache}/pip.conf:/etc/pip.conf:ro",
    )
    run(PROJECT / "image" / "build")


def confined(user: int) -> list[str]:
    """Quickstart's security context. seccomp: the runtime's own profile, as it is by default."""
    return [
        *(
            "run",
            "--rm",
            "--no-healthcheck",
            "--network=host",
            "--read-only",
            "--read-only-tmpfs=0",
        ),
        *("--cap-drop=ALL", "--security-opt=no-new-privileges", f"--user={user}:{user}"),
        *("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"),
    ]


@pytest.fixture
def application() -> Iterator[int]:
    """An application in the test's own network namespace; its port."""

    class Quiet(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_it_says_what_it_is_made_of(image: str) -> None:
    show = "print(open('/probe/sbom.cdx.json').read())"
    python = ("--entrypoint=/probe/bin/python3", image, "-IS", "-c", show)
    bill = podman(*confined(65532), *python).stdout
    validate(bill)
    names = {component["name"] for component in json.loads(bill)["components"]}
    assert {"aiohttp", "python", "/probe/lib/ld.so", "/probe/bin/py-spy"} <= names


def test_it_runs_as_in_quickstart(image: str, application: int, tmp_path: Path) -> None:
    (spec,) = pod_specs("quickstart")
    probe = sidecar(spec)
    assert probe is not None
    user = spec["securityContext"]["runAsUser"]
    evidence = tmp_path / "evidence"
    evidence.mkdir()
    os.chown(evidence, user, user)
    arguments = [
        argument.replace("--port=8080", f"--port={application}") for argument in probe["args"]
    ]
    command = [*("podman", "--cgroup-manager", "cgroupfs", "--runtime", shutil.which("runc") or "")]
    command += [*confined(user), f"--volume={evidence}:/evidence", "--name=quickstart", image]
    with subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as sidecar_is:
        assert sidecar_is.stdout is not None
        while "answers on" not in sidecar_is.stdout.readline():
            assert sidecar_is.poll() is None
        deadline = time.monotonic() + 15
        asked = probe["readinessProbe"]["grpc"]  # as kubelet asks it
        check = ("probe", "check", f"--target=grpc://:{asked['port']}/{asked['service']}")
        while (seen := podman("exec", "quickstart", *check, check=False)).returncode:
            assert time.monotonic() < deadline, seen.stdout + seen.stderr
        assert podman("exec", "quickstart", "probe", "check", "--sidecar").stdout == "ready\n"
        podman("exec", "quickstart", "probe", "check", "--sidecar", "--live")
        podman("kill", "--signal=TERM", "quickstart")
        assert sidecar_is.wait(15) == 0


def test_without_arguments_it_watches_whatever_listens(image: str) -> None:
    command = [*("podman", "--cgroup-manager", "cgroupfs", "--runtime", shutil.which("runc") or "")]
    with (
        socket.create_server(("127.0.0.1", 8080)),
        subprocess.Popen(
            [*command, *confined(65532), "--name=bare", image],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as bare,
    ):
        assert bare.stdout is not None
        while "8080 is discovered" not in bare.stdout.readline():
            assert bare.poll() is None
        assert podman("exec", "bare", "probe", "check", "--sidecar").stdout == "ready\n"
        podman("kill", "--signal=TERM", "bare")
        assert bare.wait(15) == 0


def test_it_says_what_it_is(image: str) -> None:
    (described,) = json.loads(podman("image", "inspect", image).stdout)
    config = described["Config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["/probe/bin/probe"]
    assert described["HealthCheck" if "HealthCheck" in described else "Healthcheck"]["Test"] == [
        *("CMD", "/probe/bin/probe", "check", "--sidecar")
    ]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.version"]
    assert len(labels["org.opencontainers.image.revision"]) == 40
    assert described["Size"] < LARGEST


def test_it_reviews_what_is_given_to_it(image: str) -> None:
    """Where nothing else is installed: `docker run accept-probe lint`."""
    given = f"--volume={PROJECT}/tests/lint/corpus:/manifests:ro"
    for name, status in (("incident.yaml", 1), ("nginx-kustomized.yaml", 0)):
        asked = (given, image, "lint", "--rule=traffic-port-unprobed", f"/manifests/{name}")
        assert podman(*confined(65532), *asked, check=False).returncode == status


def test_there_is_nothing_in_it_but_probe(image: str) -> None:
    mounted = Path(podman("image", "mount", image).stdout.strip())
    try:
        assert [path.name for path in mounted.iterdir()] == ["probe"]
        programs = sorted(path.name for path in (mounted / "probe" / "bin").iterdir())
        assert programs == ["probe", "py-spy", "python3"]
        assert not [path for path in mounted.rglob("*") if path.stat().st_mode & 0o6022]
    finally:
        podman("image", "umount", image)


def test_py_spy_runs_in_it(image: str) -> None:
    ran = podman(*confined(65532), "--entrypoint=/probe/bin/py-spy", image, "--version")
    assert ran.stdout.startswith("py-spy ")


# --- inside an application's image


@pytest.fixture(scope="module")
def copied(image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the init container of exec-in-app leaves in the volume, made by its own command."""
    (spec,) = pod_specs("exec-in-app")
    copy = containers(spec)[0]
    user = spec["securityContext"]["runAsUser"]
    volume = tmp_path_factory.mktemp("volume")
    volume.chmod(0o777)  # as an emptyDir is
    program, *arguments = copy["command"]
    place = f"--volume={volume}:{copy['volumeMounts'][0]['mountPath']}"
    podman(*confined(user), place, f"--entrypoint={program}", image, *arguments)
    return volume / str(containers(spec)[1]["volumeMounts"][0]["subPath"])


@pytest.mark.parametrize("surroundings", ["nothing", "glibc", "musl"])
def test_it_works_in_an_image_without_python(
    copied: Path, base: Path, tmp_path: Path, surroundings: str
) -> None:
    """The application's own image: an empty one, Debian's libc without its Python, or musl."""
    compiler = ["gcc", "-static"]
    if surroundings == "glibc":
        compiler = ["gcc"]
        for library in ("lib/x86_64-linux-gnu/libc.so.6", "lib64/ld-linux-x86-64.so.2"):
            (tmp_path / library).parent.mkdir(parents=True)
            shutil.copy(base / library, tmp_path / library)
    if surroundings == "musl":
        if shutil.which("musl-gcc") is None:
            pytest.skip("no musl-gcc here (Debian package: musl-tools)")
        compiler = ["musl-gcc"]
        (tmp_path / "lib").mkdir()
        shutil.copy("/lib/ld-musl-x86_64.so.1", tmp_path / "lib")
    tmp_path.chmod(0o755)  # it is to be the root of somebody else
    source = tmp_path / "application.c"
    source.write_text(LISTENER)
    run(*compiler, "-o", tmp_path / "application", source)
    shutil.copytree(copied, tmp_path / "probe", symlinks=True)
    (spec,) = pod_specs("exec-in-app")
    command = containers(spec)[1]["readinessProbe"]["exec"]["command"]
    command = [*command[:-1], "--target=tcp://:8080"]  # this application says nothing of HTTP
    user = spec["securityContext"]["runAsUser"]
    inside = ["chroot", f"--userspec={user}:{user}", str(tmp_path)]
    absent = run(*inside, *command, check=False)
    assert (absent.returncode, absent.stderr) == (1, "")
    application = subprocess.Popen([*inside, "/application"], stdout=subprocess.PIPE)
    try:
        assert application.stdout is not None
        assert application.stdout.read(9) == b"listening"
        healthy = run(*inside, *command, check=False)
        assert healthy.returncode == 0, healthy.stdout + healthy.stderr
        assert healthy.stdout.startswith("8080 healthy")
        application.send_signal(signal.SIGSTOP)
        stopped = run(*inside, *command, check=False)
        assert stopped.returncode == 1, stopped.stdout + stopped.stderr
    finally:
        application.kill()
        application.communicate()
