"""The commands: what they read and write, what they say, and their exit status."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from probe.cli import main
from tests.lint.corpus import FOLDER

FORMS = Path(__file__).parent / "forms"
INCIDENT = FOLDER / "incident.yaml"
CRONJOB = FOLDER / "cronjob.yaml"

Captured = pytest.CaptureFixture[str]


def probe(*words: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "probe", *map(str, words)]
    return subprocess.run(command, input=stdin, capture_output=True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["crlf.yaml", "no-break-at-the-end.yaml", "tabs.json"])
def test_bytes_in_and_bytes_out(name: str, encoding: str) -> None:
    content = (FORMS / name).read_bytes().decode().encode(encoding)
    injected = probe("inject", "-", stdin=content)
    assert injected.returncode == 0, injected.stderr
    assert b"passed over" not in injected.stderr
    assert "accept-probe/injected" in injected.stdout.decode(encoding)
    back = probe("uninject", "-", stdin=injected.stdout)
    assert (back.returncode, back.stdout) == (0, content)
    assert back.stderr == b""


def test_in_place(tmp_path: Path, capsys: Captured) -> None:
    for path in (*FORMS.iterdir(), CRONJOB):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "values.yaml").write_text("replicas: 2\n")
    job = tmp_path / CRONJOB.name
    os.utime(job, (1, 1))
    assert main(["inject", "--in-place", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "values.yaml:1: no manifest" in told.err
    assert "accept-probe/injected" in (tmp_path / "comments.yaml").read_text()
    # Who is not changed is not written either.
    assert job.stat().st_mtime == 1
    assert main(["uninject", "--in-place", str(tmp_path)]) == 0
    for path in FORMS.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_several_files_are_one_stream(capsys: Captured) -> None:
    paths = [str(FORMS / "dash-4.yaml"), str(FORMS / "no-break-at-the-end.yaml"), str(INCIDENT)]
    assert main(["inject", *paths]) == 0
    kinds = [one["kind"] for one in yaml.safe_load_all(capsys.readouterr().out)]
    assert kinds == ["DaemonSet", "List", "Service", "Deployment"]


def test_a_diff_is_one(tmp_path: Path, capsys: Captured) -> None:
    """`patch` takes it, and makes of the file what inject does."""
    for name in ("comments.yaml", "no-break-at-the-end.yaml"):
        source = FORMS / name
        assert main(["inject", "--diff", str(source)]) == 0
        difference = capsys.readouterr().out
        assert main(["inject", str(source)]) == 0
        injected = capsys.readouterr().out
        target = tmp_path / name
        target.write_bytes(source.read_bytes())
        subprocess.run(["patch", target], input=difference, text=True, check=True)
        assert target.read_text() == injected
    capsys.readouterr()
    assert main(["inject", "--diff", str(CRONJOB)]) == 1
    assert capsys.readouterr().out == ""


def test_what_is_said(capsys: Captured) -> None:
    assert main(["inject", str(INCIDENT)]) == 0
    told = capsys.readouterr().err
    assert told.startswith(f"Deployment shop  {INCIDENT}:12\n  - watches 8080: Service shop sends ")
    assert "  - needs Kubernetes 1.30 for preStop.sleep" in told
    # lint has the last word.
    assert "warning  sidecar-user" in told
    assert "runAsGroup: 10001" in told
    assert "no-prestop" not in told
    assert max(map(len, told.splitlines())) <= 80 + len(str(FOLDER))


def test_nobody_is_given_the_sidecar(capsys: Captured) -> None:
    content = CRONJOB.read_text()
    assert main(["inject", str(CRONJOB)]) == 1
    told = capsys.readouterr()
    assert told.out == content
    assert "passed: is a job" in told.err
    assert "nothing to do" in told.err


def test_who_is_refused_is_left_alone_and_the_others_are_not(capsys: Captured) -> None:
    host = FOLDER / "node-exporter.yaml"
    assert main(["inject", str(host), str(INCIDENT)]) == 1
    told = capsys.readouterr()
    assert told.out.startswith(host.read_text())
    assert "accept-probe/injected" in told.out
    assert "refused: has hostNetwork" in told.err


def test_what_was_not_written_by_inject_is_not_taken_back(tmp_path: Path, capsys: Captured) -> None:
    assert main(["inject", str(INCIDENT)]) == 0
    injected = capsys.readouterr().out
    for before, after in (
        ("accept-probe/injected: '{", "accept-probe/injected: '["),
        ('"added":[[', '"added":[['.replace("[[", "[[[],")),
        ('"column":10', '"column":"x"'),
        ('"args":', '"arg":'),
    ):
        assert before in injected
        broken = tmp_path / "broken.yaml"
        broken.write_text(injected.replace(before, after, 1))
        assert main(["uninject", str(broken)]) == 1
        told = capsys.readouterr()
        assert (
            "refused: the annotation accept-probe/injected is not as inject writes it" in told.err
        )
        assert told.out == broken.read_text()
        assert main(["inject", str(broken)]) == 1
        assert capsys.readouterr().out == broken.read_text()


def test_uninject_of_what_was_never_injected(capsys: Captured) -> None:
    assert main(["uninject", str(INCIDENT)]) == 0
    assert capsys.readouterr() == (INCIDENT.read_text(), "")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "PATH: is missing, as in probe inject PATH"),
        (["--in-place", "-"], "--in-place: standard input is no file"),
        (["--in-place", "--diff", "x"], "--in-place: not with --diff"),
        (["--in-place", "--output=patch", "x"], "--in-place: not with --output patch"),
        (["--diff", "--output=component", "x"], "--diff: not with --output component"),
        (["--output", "x", "x"], "one of manifest, patch, component"),
        (["--port", "70000", "x"], "a port"),
        (["/no/such"], "/no/such: No such file or directory"),
        (["--", "--jvm-attach"], "PATH: is missing"),
    ],
)
def test_wrong_usage(words: list[str], says: str, capsys: Captured) -> None:
    assert main(["inject", *words]) == 2
    told = capsys.readouterr()
    assert says in told.err
    assert told.out == ""


def test_a_port_is_that_of_one_workload(capsys: Captured) -> None:
    pair = [str(INCIDENT), str(FORMS / "comments.yaml")]
    assert main(["inject", "--port=9000", *pair]) == 2
    told = capsys.readouterr()
    assert "of one workload, and here are Deployment shop, Deployment web" in told.err
    assert told.out == ""


def test_a_template_of_helm_is_none(tmp_path: Path, capsys: Captured) -> None:
    template = tmp_path / "template.yaml"
    template.write_text("name: {{ .Values.name }}\nother: {{ .x }} y\n")
    assert main(["inject", "--in-place", str(template)]) == 2
    assert "a Helm template?" in capsys.readouterr().err


def test_further_flags_of_the_sidecar(capsys: Captured) -> None:
    assert main(["inject", str(INCIDENT), "--", "--live-after=1m", "--jvm-attach"]) == 0
    assert "- --live-after=1m" in capsys.readouterr().out
    assert main(["inject", str(INCIDENT), "--", "--live-afte=1m"]) == 1
    told = capsys.readouterr().err
    assert "did you mean --live-after?" in told
    assert "nothing to do" not in told


def test_an_annotation_that_was_tampered_with_makes_no_manifest_of_another_kind(
    tmp_path: Path, capsys: Captured
) -> None:
    assert main(["inject", str(INCIDENT)]) == 0
    injected = capsys.readouterr().out
    broken = tmp_path / "broken.yaml"
    for text in ("]", "spec: {", "x: y\\n---\\na: b", "containers: []"):
        kept = injected.partition('"text":"')[2].partition('","column"')[0]
        broken.write_text(injected.replace(kept, text))
        assert main(["uninject", str(broken)]) in (0, 1)
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        assert [one["kind"] for one in yaml.safe_load_all(told.out)] == ["Service", "Deployment"]
