"""`probe serve --on-stall exit`: once for a stall, with the status that the rule of a pod names."""

from pathlib import Path

from probe import exits
from tests.faults.harness import application, sidecar, watched

QUICK = ("--interval=200ms", "--stalled-for=500ms", "--live-after=1s", "--drain=0")


def test_the_sidecar_ends_and_does_not_end_twice_for_one_stall(tmp_path: Path) -> None:
    """Where nothing was restarted there is no such rule; what was restarted is answered anew."""
    options = (*QUICK, "--on-stall", "exit", "--evidence-dir", str(tmp_path))
    with application("--reuseport") as app:
        with watched(app, *options) as told:
            app.tell("accept off")
            told.until(20, event="evidence")
            assert told.process.wait(20) == exits.STALLED
        with sidecar("--port", str(app.port), *options) as told:
            told.until(20, live=False)
            while not told.events[-1]["message"].startswith("exit: "):
                assert told.next(20)
            declined = told.events[-1]["message"]
            assert declined.startswith("exit: not ended, so /live fails: ")
            assert "restartPolicyRules" in declined
            assert told.get("/live")[0] == 503
            app.tell("replace")
            told.until(20, condition="healthy", live=True)
            app.tell("accept off")
            assert told.process.wait(20) == exits.STALLED
