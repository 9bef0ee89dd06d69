"""What is asked for at the keys of `probe watch`: the evidence, and a diagnosis.

What that takes is loaded when somebody asks: most watch only, and do so in the sidecar's container,
whose memory is limited.
"""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from probe.commands.watch_news import Post
from probe.config import Config, ListenAddress
from probe.display import printable
from probe.model import Protocol, Target
from probe.watch.controls import Aim, Sheet, Wish
from probe.watch.document import Document

WITHOUT_A_SIDECAR = (
    "Evidence is what a sidecar keeps of an incident, and here is none.",
    "d diagnoses the target that is chosen: that shows what can be seen now.",
)

UNIX_SOCKETS = Path("/proc/net/unix")


class Errands:
    """Fulfils each in a thread of its own, and posts what there is to read."""

    def __init__(self, config: Config, post: Post) -> None:
        self._config = config
        self._post = post

    def begin(self, wish: Wish, document: Document) -> None:
        """Return at once. `document`: what is known of the target."""
        thread = threading.Thread(target=self._fulfil, args=(wish, document), daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # a limit on tasks
            self._post(Sheet(str(wish.aim), (str(error),)))

    def _fulfil(self, wish: Wish, document: Document) -> None:
        try:
            match wish.aim:
                case Aim.LIST:
                    sheet = self._listing()
                case Aim.SHOW:
                    sheet = self._report(wish.of)
                case _:
                    sheet = self._diagnosis(wish.of, document)
        except Exception as error:  # noqa: BLE001 - of a thread nobody else would hear
            sheet = Sheet(str(wish.aim), (f"a defect of probe: {error!r}",))
        self._post(sheet)

    # --- the evidence

    def _listing(self) -> Sheet:
        asked = self._config.sidecar
        if asked is None:
            return Sheet("evidence", WITHOUT_A_SIDECAR)
        from probe.commands import evidence
        from probe.evidence.store import parse_id

        lines = _said(evidence.listing(evidence.Beside(asked), Config("evidence list")))
        ids = tuple(line.split()[0] if line[:1].isdigit() else "" for line in lines)
        ids = tuple(identity if parse_id(identity) else "" for identity in ids)
        if not any(ids):
            return Sheet("evidence", lines)
        return Sheet("evidence", lines, ids, chosen=next(n for n, one in enumerate(ids) if one))

    def _report(self, identity: str) -> Sheet:
        from probe.commands import evidence

        source = evidence.Beside(self._config.sidecar or self._config.listen)
        config = Config("evidence show", incident=identity)
        return Sheet(identity, _said(evidence.report(source, config)))

    # --- a diagnosis

    def _diagnosis(self, name: str, document: Document) -> Sheet:
        title = f"diagnosis of {name}"
        asked = self._config.sidecar
        if asked is None:
            target = next(each for each in self._config.targets if each.name == name)
            return Sheet(title, _diagnosed(target, self._config))
        if not _is_beside(asked):
            return Sheet(title, _elsewhere(name))
        told = next((each for each in document.targets if each.name == name), None)
        if told is None:
            return Sheet(title, ("It is not watched any more.",))
        # The sidecar alone knows how it is asked, and goes on asking: here the queue is enough.
        target = Target(
            told.port or 0,
            Protocol.QUEUE,
            host=told.host,
            socket=told.socket or "",
        )
        return Sheet(title, _diagnosed(target, self._config._replace(listen=asked)))


def _said(lines: Iterator[str]) -> tuple[str, ...]:
    """The lines, or why there are none."""
    from probe.commands import evidence

    try:
        return tuple(lines)
    except evidence.CannotShow as error:
        return (str(error),)


def _diagnosed(target: Target, config: Config) -> tuple[str, ...]:
    from probe.commands import diagnose, once
    from probe.kernel import open_view
    from probe.kernel.sampler import Sampler

    with closing(open_view(walk=True)) as kernel:
        found = diagnose.diagnose(target, config, Sampler(kernel, once.counters()))
    return tuple(map(printable, diagnose.as_text(found).splitlines()))


def _is_beside(address: ListenAddress) -> bool:
    """Whether the sidecar is in this network namespace: its local socket (`probe hold`) is in sight
    then (proc(5), /proc/net/unix), whatever leads to its port.
    """
    from probe.sidecar.hold import address as local_name

    name = local_name(address.port).replace("\0", "@").encode()
    try:
        return any(line.endswith(b" " + name) for line in UNIX_SOCKETS.read_bytes().splitlines())
    except OSError:
        return False


def _elsewhere(name: str) -> tuple[str, ...]:
    flag = f"--port {name}" if name.isdecimal() else f"--target queue+unix://{name}"
    return (
        "The application is not here, and its processes can only be seen beside it:",
        "",
        f"    kubectl exec POD -c probe -- probe diagnose {flag}",
    )
