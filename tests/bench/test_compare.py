"""A cell of `make compare` measures, and what was measured makes a page; no figure is judged."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from bench.compare import __main__ as command
from bench.compare import probers, report
from bench.compare.cells import Cell, Place, measure
from bench.compare.faults import FAULTS
from bench.compare.probers import PROBERS
from bench.compare.servers import SERVERS
from tests.support import until

ROOT = Path(__file__).parents[2]
ABOUT: dict[str, Any] = {
    "date": "2026-11-26",
    "machine": "Linux",
    "cores": 2,
    "runs": 3,
    "seconds": 60,
    "at_once": 5,
    "minutes": 1,
    "missing": {"goss": "goss is not installed"},
    "servers": {"application": "Python"},
    "versions": {"probe /ready": "probe 0.1.0"},
}


def through(prober: str, fault: str = "dead", seconds: float = 60.0) -> Cell:
    place = Place("application", fault, prober, 0)
    cell = measure(place, seconds, lambda: None, lambda found: found)
    assert not cell.error
    return cell


def test_the_fault_is_real_ours_finds_it_and_its_end_and_leaves_one_entry() -> None:
    cell = through("probe /ready")
    assert cell.found is not None
    assert "accept queue stalled: 1 of 50 queued" in cell.reason
    assert cell.recovered is not None
    assert cell.queue[-1][1] == 1
    assert cell.limit == 50
    assert cell.cpu


def test_a_handshake_finds_nothing_and_leaves_more_each_time() -> None:
    cell = through("tcpSocket 1 s", seconds=4.0)
    assert (cell.found, cell.reason) == (None, "")
    assert cell.queue[-1][1] > 1
    assert cell.cpu is None, "our own code"


def test_who_asks_a_closed_port_is_told_so_in_kubelets_words() -> None:
    cell = through("httpGet 1 s", "closed")
    assert cell.found is not None
    assert cell.reason == 'Get "http://127.0.0.1:8080/": connection refused'
    assert cell.recovered is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prober", "reason"),
    [
        ("blackbox http", "context deadline exceeded"),
        ("monit http", "failed protocol test [HTTP] at [127.0.0.1]:8080"),
    ],
)
def test_what_others_say_is_heard(prober: str, reason: str) -> None:
    if PROBERS[prober].missing:
        pytest.skip(PROBERS[prober].missing)
    cell = through(prober)
    assert cell.found is not None
    assert reason in cell.reason
    assert cell.recovered is not None


def test_failures_are_counted_in_a_row_and_one_success_heals() -> None:
    answers = iter(["no", "no", "", "no", "no", "no", "no", ""])
    said: list[str] = []
    ended: list[bool] = []

    def ask() -> str:
        answer = next(answers, None)
        if answer is None:
            ended.append(True)
        return answer or ""

    with probers.polled(ask, said.append, period=0.001):
        until(lambda: bool(ended))
    assert said[:4] == ["", "no", "no", ""]


def test_a_cell_that_fails_is_told_and_holds_nobody_up() -> None:
    waits: list[float] = []
    place = Place("application", "no such fault", "tcpSocket 1 s", 0)
    cell = measure(place, 1.0, lambda: waits.append(time.monotonic()))
    assert cell.error == "KeyError: 'no such fault'"
    assert len(waits) == 2


def test_every_fault_is_brought_about_somewhere_and_every_one_is_described() -> None:
    assert {fault for server in SERVERS.values() for fault in server.faults} == FAULTS.keys()
    pairs = {(name, fault) for name, server in SERVERS.items() for fault in server.faults}
    assert set(report.SHOWN) <= pairs
    assert {*report.MAIN, *report.HARM} <= PROBERS.keys()


def test_figures_become_a_page_and_plots_that_can_be_written_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queue = ((0.0, 0), (1.0, 1))
    cells = [
        Cell("application", "dead", "probe /ready", 0, found=4.0, reason="stalled", queue=queue),
        Cell("application", "dead", "probe /ready", 1, found=5.0, reason="stalled", queue=queue),
        Cell("application", "dead", "probe /ready", 2, error="it does not listen"),
        Cell("application", "dead", "tcpSocket 1 s", 0, queue=((0.0, 0), (60.0, 51))),
        Cell("application", "slow", "httpGet 1 s", 0, found=3.0, reason="a | b", queue=queue),
    ]
    command.write(report.Run("make compare", ABOUT, cells), tmp_path)
    written = (tmp_path / "comparison.md").read_text()
    assert "| accept thread dead | application | **5.0 s** | never |" in written
    assert "| probe /ready | 5.0 s; 4.0 to 5.0 | - | 1 | `stalled` |" in written
    assert "goss is not installed" in written
    assert "| httpGet 1 s | 3.0 s; 3.0 to 3.0 | - | (1) | `a \\| b` |" in written
    assert "never in 60 s" in (tmp_path / "figures/comparison-found.svg").read_text()

    again = tmp_path / "again"
    figures = tmp_path / "comparison.json"
    command.main(["--from", str(figures), "--out", str(again)])
    assert (again / "comparison.md").read_text() == written
    assert json.loads((again / "comparison.json").read_text()) == json.loads(figures.read_text())
    assert "accept thread dead" in capsys.readouterr().out


def test_a_part_makes_a_page_too(tmp_path: Path) -> None:
    cells = [Cell("nginx", "stopped", "tcpSocket 1 s", 0, queue=((0.0, 0), (5.0, 5)))]
    command.write(report.Run("python -m bench.compare", ABOUT, cells), tmp_path)
    page = (tmp_path / "comparison.md").read_text()
    assert "| process stopped | nginx | never |" in page
    assert not (tmp_path / "figures/comparison-queue.svg").exists()
    assert "comparison-queue.svg" not in page


def test_what_is_published_is_what_was_measured() -> None:
    """`python -m bench.compare --from docs/comparison.json --out docs` writes it."""
    docs = ROOT / "docs"
    run = command.read(docs / "comparison.json")
    assert (docs / "comparison.md").read_text() == report.page(run)
    results = report.Results(run.cells)
    assert report.brief(results) in (ROOT / "README.md").read_text()


def test_a_name_that_is_not_there_is_told_with_those_that_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        command.main(["--servers", "apache"])
    assert "no 'apache'; there are: application; " in capsys.readouterr().err
