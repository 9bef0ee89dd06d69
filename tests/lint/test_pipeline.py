"""What runs it for others: the pre-commit hook, the GitHub Action, and the page about the rules."""

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

from probe.config.commands import BY_NAME
from probe.lint import ALL_RULES
from tests.lint.corpus import FOLDER

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_table_says() -> None:
    """Each rule has a row and a section, which begins with what the table says of it."""
    page = (ROOT / "docs/rules.md").read_text()
    table = re.findall(r"^\| \[(.*?)\]\(#(.*?)\) \| (\w+) \| (.*) \|$", page, re.MULTILINE)
    assert table == [(rule.id, rule.id, rule.level, rule.seen) for rule in ALL_RULES]
    sections = page.partition("\n## The rules\n")[2].split("\n## ")[1:]
    assert len(sections) == len(ALL_RULES)
    for rule, section in zip(ALL_RULES, sections, strict=True):
        beginning = (
            f"{rule.id}\n\n**{rule.seen}** ({rule.level}). {rule.harm} {rule.remedy}\n\n"
            f"```yaml\n{rule.example}```\n\n"
        )
        assert section.startswith(beginning), rule.id
        assert len(section) > len(beginning) + 20, rule.id
        assert yaml.safe_load(rule.example)


def test_the_hook_runs_what_there_is() -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    program, command = hook["entry"].split()
    assert program == "probe"
    assert command in BY_NAME
    assert hook["language"] == "python"
    assert hook["pass_filenames"] is False
    page = (ROOT / "docs/rules.md").read_text()
    assert f"- id: {hook['id']}\n        args: " in page


def test_the_action_runs_what_there_is(tmp_path: Path) -> None:
    """Its script in a real shell; of what it installs the present environment takes the place."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    (step,) = action["runs"]["steps"]
    for lock in re.findall(r"-r \"\$HERE/(\S+?)\"", step["run"]):
        assert (ROOT / lock).exists()
    installed = tmp_path / "probe-lint" / "bin"
    shims = tmp_path / "shims"
    for folder in (installed, shims):
        folder.mkdir(parents=True)
    for shim in (shims / "python3", installed / "pip"):
        shim.symlink_to("/bin/true")
    probe = installed / "probe"
    probe.write_text(f'#!/bin/sh\nexec {sys.executable} -m probe "$@"\n')
    probe.chmod(0o755)
    sarif = tmp_path / "it is.sarif"

    def run(**inputs: str) -> subprocess.CompletedProcess[str]:
        given = {name: row.get("default", "") for name, row in action["inputs"].items()} | inputs
        environment = {
            name: given[re.sub(r"\W*inputs\.|\W*$", "", source).lstrip()]
            if "inputs." in source
            else str(ROOT)
            for name, source in step["env"].items()
        }
        surroundings = {
            **os.environ,
            **environment,
            "RUNNER_TEMP": str(tmp_path),
            "PATH": f"{shims}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        command = ["bash", "-e", "-o", "pipefail", "-c", step["run"]]
        return subprocess.run(command, env=surroundings, capture_output=True, text=True)

    done = run(paths=f"{FOLDER}/incident.yaml {FOLDER}/redis.yaml", sarif=str(sarif))
    assert done.returncode == 1, done.stderr
    assert f"::error file={FOLDER}/incident.yaml,line=35," in done.stdout
    assert sarif.exists()
    assert run(paths=f"{FOLDER}/nginx-kustomized.yaml").returncode == 0
    flags = "--skip tcp-probe --skip no-such"
    assert run(paths=f"{FOLDER}/redis.yaml", flags=flags).returncode == 2
    # Nothing that an input says is run.
    mark = tmp_path / "mark"
    run(paths=f"$(touch {mark}) ; touch {mark}", flags=f"`touch {mark}`")
    assert not mark.exists()
