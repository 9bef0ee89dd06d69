"""The command: what it reads, what it refuses to pass over, and its exit status."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from probe.cli import main
from tests.kubernetes.manifests import EXAMPLES, NAMES, kubectl
from tests.lint.corpus import FOLDER

ROOT = Path(__file__).parents[2]
INCIDENT = FOLDER / "incident.yaml"
CLEAN = FOLDER / "nginx-kustomized.yaml"

Captured = pytest.CaptureFixture[str]


def lint(*words: str | Path, stdin: str | bytes = b"") -> subprocess.CompletedProcess[str]:
    content = stdin.encode() if isinstance(stdin, str) else stdin
    command = [sys.executable, "-m", "probe", "lint", *map(str, words)]
    done = subprocess.run(command, input=content, capture_output=True)
    out, err = done.stdout.decode(), done.stderr.decode()
    return subprocess.CompletedProcess(command, done.returncode, out, err)


def test_files_folders_and_standard_input(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "incident.yml").write_bytes(INCIDENT.read_bytes())
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "broken.yaml").write_text("{")
    (tmp_path / "README.md").write_text("no manifest")
    assert main(["lint", str(tmp_path)]) == 1
    told, err = capsys.readouterr()
    assert f"{tmp_path}/deep/incident.yml:35  error  traffic-port-unprobed" in told
    assert err == ""
    assert main(["lint", str(CLEAN)]) == 0
    assert capsys.readouterr().out == "2 objects, 1 with pods: no finding.\n"
    piped = lint("-", stdin=INCIDENT.read_text())
    assert piped.returncode == 1
    assert "  -:35  error  traffic-port-unprobed" in piped.stdout
    assert lint("/dev/stdin", CLEAN, stdin=INCIDENT.read_text()).returncode == 1


def test_json_is_read_as_kubectl_and_others_write_it() -> None:
    text = (FOLDER / "get-list.json").read_text()
    tabbed = json.dumps(json.loads(text), indent="\t")
    for form in (text, tabbed, "\ufeff" + tabbed):
        assert lint("--rule=traffic-port-unprobed", "-", stdin=form).returncode == 1
    one_line = lint("-", stdin=json.dumps(json.loads(text)))
    assert "-:1  error" in one_line.stdout
    assert lint("-", stdin=text.encode("utf-16")).returncode == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "-: is empty"),
        ("---\n---\n# nothing\n", "-: is empty"),
        ("hello", "-:1: no manifest: nothing with apiVersion and kind"),
        ("\n- op: add\n  path: /spec\n", "-:2: no manifest"),
        ('{"apiVersion": "v1", "kind": "List", "items": []}', "-:1: an empty list"),
        ("kind: Deployment\nspec: {}\n", "-:1: no manifest"),
        ("a: [1\nb: 2\n", "-:2: while parsing a flow sequence"),
        ("name: {{ .Values.name }}\nother: {{ .x }} y\n", "a Helm template?"),
        (b"\xff\x00\xfe", "is no text: byte 0 is no UTF-8"),
        ("[" * 100_000, "-:"),
        ("a: &a [*a, *a]\n", "-:1: no manifest"),
        ("&a {apiVersion: v1, kind: List, items: [*a, *a]}", "-:1: an empty list"),
    ],
)
def test_what_is_no_manifest_does_not_pass(content: str | bytes, says: str) -> None:
    done = lint("-", stdin=content)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_of_what_is_mixed_the_good_is_looked_at_and_the_rest_is_told(tmp_path: Path) -> None:
    (tmp_path / "incident.yaml").write_bytes(INCIDENT.read_bytes())
    (tmp_path / "values.yaml").write_text("replicas: 2\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    assert f"passed over: {tmp_path}/values.yaml:1: no manifest" in done.stderr
    (tmp_path / "broken.yaml").write_text("{{ template }}: [\n")
    done = lint(tmp_path)
    assert done.returncode == 2
    assert "traffic-port-unprobed" in done.stdout
    assert f"{tmp_path}/broken.yaml:" in done.stderr
    before_the_error = f"{INCIDENT.read_text()}\n---\n]\n"
    done = lint("-", stdin=before_the_error)
    assert done.returncode == 2
    assert "traffic-port-unprobed" in done.stdout
    assert lint("/no/such").returncode == 2
    (tmp_path / "empty").mkdir()
    done = lint(tmp_path / "empty")
    assert done.returncode == 2
    assert "no manifest in it" in done.stderr


def test_from_which_level_it_fails(capsys: Captured) -> None:
    note = str(FOLDER / "web-and-metrics.yaml")
    warning = str(FOLDER / "php-fpm.yaml")
    error = str(INCIDENT)
    for level, status in (("error", [0, 0, 1]), ("warning", [0, 1, 1]), ("note", [1, 1, 1])):
        assert [main(["lint", "--fail-on", level, path]) for path in (note, warning, error)] == (
            status
        )
    assert main(["lint", "--rule", "no-prestop", error]) == 0
    assert "1 note" in capsys.readouterr().out
    skipped = ["--skip", "traffic-port-unprobed", "--skip", "liveness-equals-readiness"]
    assert main(["lint", *skipped, error]) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "PATH: is missing, as in probe lint PATH"),
        (["--rule", "traffic-port-unprobd", "x"], "did you mean traffic-port-unprobed?"),
        (["--skip", "zzz", "x"], "is no rule: one of traffic-port-unprobed, "),
        (["--format", "xml", "x"], "one of text, json, sarif, github, junit"),
        (["--format", "text", "--format", "github", "x"], "would both go to standard output"),
        (["--format", "text", "--output", "a", "--output", "b", "x"], "2 for 1 formats"),
        (["--output", "/no/such/folder/x", str(CLEAN)], "No such file or directory"),
    ],
)
def test_wrong_usage(words: list[str], says: str, capsys: Captured) -> None:
    assert main(["lint", *words]) == 2
    assert says in capsys.readouterr().err


def test_several_formats_at_once(tmp_path: Path, capsys: Captured) -> None:
    sarif, junit = str(tmp_path / "lint.sarif"), str(tmp_path / "lint.xml")
    words = ["--format=text", "--format=sarif", "--format=junit"]
    outputs = [f"--output={sarif}", f"--output={junit}"]
    assert main(["lint", *words, *outputs, str(INCIDENT)]) == 1
    assert "traffic-port-unprobed" in capsys.readouterr().out
    assert json.loads(Path(sarif).read_text())["version"] == "2.1.0"
    assert Path(junit).read_text().startswith("<?xml")
    text = str(tmp_path / "lint.txt")
    assert main(["lint", "--output", text, str(INCIDENT)]) == 1
    assert capsys.readouterr().out == ""
    assert "traffic-port-unprobed" in Path(text).read_text()


def test_it_is_coloured_on_a_terminal_and_nowhere_else() -> None:
    command = [sys.executable, "-m", "probe", "lint", str(INCIDENT)]
    for environment, coloured in (
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ):
        ours, theirs = pty.openpty()
        surroundings = {**os.environ, "TERM": "xterm", **environment}
        surroundings = {k: v for k, v in surroundings.items() if k != "NO_COLOR"} | environment
        with subprocess.Popen(command, stdout=theirs, env=surroundings) as process:
            os.close(theirs)
            told = b""
            try:
                while piece := os.read(ours, 65536):
                    told += piece
            except OSError:  # EIO: its other end is closed
                pass
            assert process.wait() == 1
        os.close(ours)
        assert (b"\x1b[31merror" in told) is coloured
        assert b"traffic-port-unprobed" in told
    assert "\x1b" not in lint(INCIDENT).stdout


@pytest.mark.parametrize("name", NAMES)
def test_our_own_examples_are_clean(name: str) -> None:
    built = subprocess.run(
        [kubectl(), "kustomize", EXAMPLES / name], check=True, capture_output=True, text=True
    )
    done = lint("--fail-on=note", "-", stdin=built.stdout)
    assert done.returncode == 0, done.stdout


def test_our_own_examples_are_clean_as_they_lie_there() -> None:
    done = lint("--fail-on=note", EXAMPLES)
    assert done.returncode == 0, done.stdout
    assert "no finding, 1 ignored." in done.stdout


def test_the_readme_shows_what_it_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    shown = readme.partition("$ probe lint shop.yaml\n")[2].partition("...\n```")[0]
    (tmp_path / "shop.yaml").write_bytes(INCIDENT.read_bytes())
    monkeypatch.chdir(tmp_path)
    told = lint("shop.yaml").stdout
    assert shown
    assert told.startswith(shown)
