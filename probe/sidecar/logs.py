"""Log lines: one per transition and one per oddity, for people or as JSON."""

import json
import logging
import sys
import time

from probe.model import Condition, Observation, Transition
from probe.sidecar.board import Board

logger = logging.getLogger("probe")


class TextFormatter(logging.Formatter):
    """`2026-11-22T08:49:58Z WARNING 8080 accept queue stalled: ...`, in UTC."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.gmtime


class JsonFormatter(logging.Formatter):
    """One object a line; `extra={"fields": {...}}` adds to it."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def configure(form: str, level: str) -> None:
    """Send everything from `level` on to stderr, as `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class Narrator:
    """Tells the log what happens on the board."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._unknown: dict[str, str] = {}
        board.subscribe(self.transition)
        board.observe(self.oddity)

    def transition(self, transition: Transition) -> None:
        verdict = transition.after
        level = logging.INFO
        if verdict.condition is Condition.UNHEALTHY:
            level = logging.WARNING
        if not verdict.live:
            level = logging.ERROR
        suffix = ""
        if not verdict.live:
            held = self._board.is_live(self._board.entries[transition.target])
            suffix = "; /live is held" if held else "; not live"
        logger.log(
            level,
            "%s%s",
            verdict.message,
            suffix,
            extra={
                "fields": {
                    "event": "transition",
                    "target": transition.target,
                    "before": transition.before.condition,
                    "condition": verdict.condition,
                    "reason": verdict.reason,
                    "stage": verdict.stage,
                    "ready": verdict.ready,
                    "live": verdict.live,
                    "started": verdict.started,
                }
            },
        )

    def oddity(self, target: str, observation: Observation) -> None:
        """Say when the kernel begins, and when it ceases, to refuse an answer."""
        if observation.sample is None or observation.sample.error == self._unknown.get(target, ""):
            return
        error = self._unknown[target] = observation.sample.error
        fields = {"event": "unknown" if error else "known", "target": target}
        if error:
            logger.warning("%s cannot be seen: %s", target, error, extra={"fields": fields})
        else:
            logger.info("%s can be seen again", target, extra={"fields": fields})
