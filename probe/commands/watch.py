"""`probe watch`: what the sidecar sees, or what one would see, as it happens.

Whoever tells it does so in a thread of its own: a terminal that takes nothing makes nobody wait,
and what is asked for by a key is found out while the picture goes on.
"""

import json
import os
import select
import sys
import threading
import time
from shutil import get_terminal_size

from probe import exits
from probe.commands.colour import wanted
from probe.commands.watch_errands import Errands
from probe.commands.watch_news import Ended, Mailbox, Received, Remarked, Source, Unheard, beside
from probe.config import Config
from probe.display import printable
from probe.watch.controls import Aim, Controls, Keyboard, Sheet, press
from probe.watch.frame import draw, page, snapshot
from probe.watch.lines import news
from probe.watch.scene import Scene, hear, miss
from probe.watch.screen import Screen
from probe.watch.style import Appearance
from probe.watch.table import ordered

STDOUT = 1

REDRAWN = 1.0
"""Seconds after which a picture without news is drawn again: it says how old it is."""

ESCAPED = 0.05
"""Seconds in which the rest of a key's sequence comes, if it was no lone escape."""

AT_ONCE = 10.0
"""Seconds that `--once` waits for verdicts on what it watches itself."""


def run(config: Config) -> int:
    """Watch until somebody ends it. Exit 0 for q; with --once 0 ready, 1 not; 3 where from the
    beginning nobody tells anything.
    """
    if config.sidecar is None:
        from probe.commands.watch_alone import alone  # not loaded where a sidecar is asked

        watcher = Watcher(config, "without a sidecar", alone(config))
    else:
        watcher = Watcher(config, f"at {config.sidecar}", beside(config.sidecar))
    try:
        if config.once:
            return watcher.once()
        if config.format == "text" and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            return watcher.on_screen()
        return watcher.as_lines()
    except NothingHeard as end:
        for line in end.lines:
            print(f"probe: {printable(line)}", file=sys.stderr)
        return end.status


class NothingHeard(Exception):
    """There is nothing to watch; `lines` say why."""

    def __init__(self, lines: tuple[str, ...], status: int) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines
        self.status = status


class Watcher:
    """The scene as it is known so far, and the ways to show it."""

    def __init__(self, config: Config, where: str, source: Source) -> None:
        self._config = config
        self._scene = Scene(where)
        self._mailbox = Mailbox()
        self._controls = Controls()
        self._json = config.format == "json"
        self._look = Appearance(colour=wanted(), unicode="utf" in sys.stdout.encoding.lower())
        self._errands = Errands(config, self._mailbox.post)
        threading.Thread(target=source, args=(self._mailbox.post,), daemon=True).start()

    # --- once

    def once(self) -> int:
        """Print what is known, as soon as it is."""
        deadline = time.monotonic() + AT_ONCE
        told = self._wait_for_first()
        while self._config.sidecar is None and not all(
            target.verdict.message for target in told.document.targets
        ):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self._wait(left)
            told = self._take() or told
        document = told.document
        if self._json:
            print(json.dumps(told.told))
        else:
            columns = get_terminal_size().columns
            print("\n".join(snapshot(self._scene, document, columns, self._look)))
        if document.ready:
            return exits.OK
        return exits.FAILED if document.reason else exits.UNKNOWN

    # --- lines

    def as_lines(self) -> int:
        """A line for each target, then one for each change; or each document as JSON."""
        poll = select.poll()
        poll.register(self._mailbox.ready, select.POLLIN)
        poll.register(STDOUT, 0)  # Whoever reads it may go, and nothing is to be said for hours.
        while True:
            if any(descriptor == STDOUT for descriptor, _ in poll.poll()):
                raise BrokenPipeError
            before = self._scene
            heard = self._take()
            if self._json:
                self._print_json(heard, before)
            else:
                for line in news(before, self._scene, time.time()):
                    print(line)
            sys.stdout.flush()

    def _print_json(self, heard: Received | None, before: Scene) -> None:
        if heard is not None:
            print(json.dumps(heard.briefly))
        if self._scene.lost and not before.lost:
            print(f"probe: {printable(self._scene.lost)}", file=sys.stderr)

    # --- a terminal

    def on_screen(self) -> int:
        """The picture, until a key or a signal ends it."""
        self._wait_for_first()
        has_keys = sys.stdin is not None and sys.stdin.isatty()
        screen = Screen(sys.stdin.fileno() if has_keys else None, STDOUT, sys.stdout.encoding)
        keyboard = Keyboard()
        poll = select.poll()
        poll.register(self._mailbox.ready, select.POLLIN)
        if screen.keys is not None:
            poll.register(screen.keys, select.POLLIN)
        with screen.taken(self._mailbox.bell):
            while True:
                columns, lines = screen.size
                screen.show(
                    draw(
                        *(self._scene, self._controls, columns, lines),
                        *(self._look, time.monotonic()),
                    )
                )
                timeout = ESCAPED if keyboard.waits else REDRAWN
                pressed = []
                if any(found == screen.keys for found, _ in poll.poll(timeout * 1000)):
                    pressed = keyboard.feed(screen.pressed())
                elif keyboard.waits:
                    pressed = keyboard.idle()
                self._take()
                for key in pressed:
                    if not self._press(key, page(lines)):
                        return exits.OK

    def _press(self, key: str, lines: int) -> bool:
        """Do what a key asks for; whether to go on."""
        shown = self._controls.paused or self._scene
        names = tuple(target.name for target in ordered(shown.document)) if shown.document else ()
        self._controls, wish = press(self._controls, key, self._scene, names, lines)
        if wish is not None and wish.aim is Aim.QUIT:
            return False
        if wish is not None and self._scene.document is not None:
            self._errands.begin(wish, self._scene.document)
        return True

    # --- what is told

    def _wait(self, seconds: float | None) -> None:
        select.select([self._mailbox.ready], [], [], seconds)

    def _wait_for_first(self) -> Received:
        """The first document. Raises NothingHeard."""
        while True:
            self._wait(None)
            if heard := self._take():
                return heard

    def _take(self) -> Received | None:
        """Take what the threads have to tell; the last document, if there was one. Raises
        NothingHeard.
        """
        last = None
        now = time.monotonic()
        for piece in self._mailbox.take():
            match piece:
                case Received():
                    self._scene = hear(self._scene, piece.document, now)
                    last = piece
                case Unheard(why) if self._scene.document is None:
                    raise NothingHeard(
                        (f"{why}; with --port or --target none is needed",), exits.UNKNOWN
                    )
                case Unheard(why):
                    self._scene = miss(self._scene, why, now)
                case Remarked(remark):
                    self._scene = self._scene._replace(remarks=(remark,))
                case Ended(lines, status):
                    raise NothingHeard(lines, status)
                case Sheet():
                    below = self._controls.sheet
                    self._controls = self._controls._replace(
                        sheet=piece._replace(below=below), busy=""
                    )
        return last
