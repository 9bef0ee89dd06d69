"""Every file in bad/ is wrong in its own way, and says in comments which errors it must give."""

from pathlib import Path

import pytest

from probe.config import ConfigError, load

FILES = sorted((Path(__file__).parent / "bad").glob("*.yaml"))
MARK = "# error: "


def expected(path: Path) -> list[str]:
    """A comment that begins with a line number is about this file."""
    lines = [
        line.removeprefix(MARK) for line in path.read_text().splitlines() if line.startswith(MARK)
    ]
    named = [line.replace("{file}", str(path)) for line in lines]
    return [f"{path}:{line}" if line[0].isdigit() else line for line in named]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_error_at_once_and_each_with_its_place(path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load("serve", ["--config", str(path)], {})
    assert list(raised.value.errors) == expected(path)
