"""Our own sidecar in a pod: its arguments, read by the code that reads them when it runs.

What a manifest does not say (a variable of a ConfigMap, a file in the container) is unknown, and
nothing is concluded from it.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from probe.api.questions import Asked, Question, read_question
from probe.config import Config, ConfigError, load
from probe.manifests import Container, Pod, Probe
from probe.model import Target

OURS = "accept-probe"
"""What the image is called, whatever stands before or behind it."""

VARIABLE = re.compile(r"\$\$|\$\((\w+)\)")
REFERENCE = re.compile(r"\$\{env:([^}]+)\}")
ANNOTATION = re.compile(r"metadata\.(annotations|labels)\['([^']+)'\]")
PLACEHOLDER = "1"
"""A port in the place of targets that are not to be seen from here."""

LISTEN = 9809


class Reading(NamedTuple):
    """A command of ours, read. Where `config` is None, `errors` say why, as far as is known."""

    config: Config | None
    errors: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    knows_targets: bool = True
    knows_all: bool = True
    """Whether nothing comes from a file or a variable that is not to be seen from here."""

    @property
    def targets(self) -> tuple[Target, ...] | None:
        """What it asks; None: that is not to be seen from here."""
        if self.config is None or not self.knows_targets:
            return None
        return self.config.targets

    @property
    def ports(self) -> frozenset[int] | None:
        """The ports that it asks; None: they are not to be seen from here."""
        if self.targets is None:
            return None
        return frozenset(target.port for target in self.targets if target.port)


class Sidecar(NamedTuple):
    """The container that runs `probe serve`."""

    container: Container
    reading: Reading

    @property
    def port(self) -> int:
        config = self.reading.config
        return config.listen.port if config else LISTEN


def decides_nothing(sidecar: Sidecar) -> bool:
    """Whether it has no target, and merely watches what listens."""
    config = sidecar.reading.config
    return sidecar.reading.targets == () and config is not None and config.discovery.mode == "watch"


def find(pod: Pod) -> Sidecar | None:
    for container in pod.containers:
        words = serve_words(container)
        if words is not None:
            return Sidecar(container, read("serve", words, pod, container))
    return None


def serve_words(container: Container) -> tuple[str, ...] | None:
    """The words after `serve`, of a container that is ours; None for any other."""
    command = container.value.get("command").words()
    words = container.value.get("args").words()
    if command:
        return after("serve", command + words)
    named_so = OURS in image_name(container.image)
    if named_so and not words:
        return ()
    if words[:1] == ("serve",):
        flags = ("--port", "--target", "--evidence-dir")
        if named_so or any(word.startswith(flags) for word in words):
            return words[1:]
    return None


def after(name: str, words: tuple[str, ...]) -> tuple[str, ...] | None:
    """What follows `probe NAME`, however probe is called; None where it is not."""
    for index, word in enumerate(words[:4]):
        if word.rpartition("/")[2] == "probe" and words[index + 1 : index + 2] == (name,):
            return words[index + 2 :]
    return None


def image_name(image: str) -> str:
    """`accept-probe` of `registry.example/team/accept-probe:0.1.0@sha256:...`."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


def image_tag(image: str) -> str:
    """Empty where there is none."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[2]


def read(command: str, words: Iterable[str], pod: Pod, container: Container) -> Reading:
    """The arguments as `probe COMMAND` would read them in that container, but for its files."""
    environment, unseen = variables(pod, container)
    try:
        expanded = [expand(word, environment) for word in words]
    except KeyError:
        return Reading(None)
    told, has_file = without_file(expanded)
    has_file = bool(environment.pop("PROBE_CONFIG", "")) or has_file
    elsewhere = has_file or bool(unseen or container.value.get("envFrom"))
    has_target = any(word.startswith(("--port", "--target", "--sidecar")) for word in told) or any(
        environment.get(name) for name in ("PROBE_PORT", "PROBE_TARGET", "PROBE_SIDECAR")
    )
    if elsewhere and not has_target:
        told += ["--port", PLACEHOLDER]
    try:
        config = load(command, told, {**unread(told, container), **environment})
    except ConfigError as error:
        return Reading(None, error.errors, error.notices)
    return Reading(config, (), config.notices, has_target or not elsewhere, not elsewhere)


def unread(words: list[str], container: Container) -> dict[str, str]:
    """Variables that there may be without their values being seen from here: each of them empty."""
    names = {variable.get("name").text for variable in container.value.get("env")}
    if container.value.get("envFrom"):
        names.update(REFERENCE.findall(" ".join(words)))
    return dict.fromkeys(names, "")


def without_file(words: list[str]) -> tuple[list[str], bool]:
    """The words without --config, which names a file of the container and not of this machine."""
    kept, found, skip = [], False, False
    for word in words:
        if skip:
            skip = False
        elif word == "--config" or word.startswith("--config="):
            found, skip = True, word == "--config"
        else:
            kept.append(word)
    return kept, found


def variables(pod: Pod, container: Container) -> tuple[dict[str, str], set[str]]:
    """The variables that the manifest gives a value, and the names of those that it takes from
    elsewhere.
    """
    known: dict[str, str] = {}
    unseen: set[str] = set()
    for variable in container.value.get("env"):
        name = variable.get("name").text
        source = variable.get("valueFrom")
        if not source:
            known[name] = variable.get("value").text
        elif match := ANNOTATION.fullmatch(source.get("fieldRef", "fieldPath").text):
            known[name] = pod.template.get("metadata", match[1], match[2]).text
        elif name.startswith("PROBE_"):
            unseen.add(name)
    return known, unseen


def expand(word: str, known: dict[str, str]) -> str:
    """`$(NAME)` as kubelet expands it. Raises KeyError for what is not to be seen from here."""
    return VARIABLE.sub(lambda match: known[match[1]] if match[1] else "$", word)


def question(probe: Probe, sidecar: Sidecar) -> Asked | None:
    """What a probe asks the sidecar; None where it asks somebody or something else. The sidecar's
    gRPC services are called as its paths are, without the slash.
    """
    service = probe.action.get("service").text or "ready"
    path, _, query = (f"/{service}" if probe.handler == "grpc" else probe.path).partition("?")
    return read_question(path, query) if is_of(probe, sidecar) else None


def asks(wanted: Question, probe: Probe, sidecar: Sidecar) -> bool:
    asked = question(probe, sidecar)
    return asked is not None and asked.question is wanted


def ports_asked(probe: Probe, sidecar: Sidecar) -> set[int] | None:
    """The ports of the targets that the sidecar is asked about; None: not to be seen from here."""
    targets = sidecar.reading.targets
    asked = question(probe, sidecar)
    if targets is None:
        return None
    if asked is not None and asked.target is not None:
        return {target.port for target in targets if target.port and target.name == asked.target}
    excluded = asked.excluded if asked is not None else ()
    return {target.port for target in targets if target.port and target.name not in excluded}


def asks_ready(probe: Probe, sidecar: Sidecar) -> bool:
    """Whether the probe is answered by the sidecar's opinion of the application."""
    if probe.handler == "exec":
        words = after("check", probe.command)
        return words is not None and "--live" not in words and mentions_sidecar(words, probe)
    return asks(Question.READY, probe, sidecar)


def asks_live(probe: Probe, sidecar: Sidecar) -> bool:
    if probe.handler == "exec":
        words = after("check", probe.command)
        return words is not None and "--live" in words
    return asks(Question.LIVE, probe, sidecar)


def asks_started(probe: Probe, sidecar: Sidecar) -> bool:
    return asks(Question.STARTED, probe, sidecar)


def is_of(probe: Probe, sidecar: Sidecar) -> bool:
    """Whether it asks the sidecar's port. All containers of a pod share its ports."""
    return probe.handler in ("httpGet", "grpc") and probe.port == sidecar.port


def mentions_sidecar(words: tuple[str, ...], probe: Probe) -> bool:
    by_flag = any(word == "--sidecar" or word.startswith("--sidecar=") for word in words)
    environment = probe.container.value.get("env")
    return by_flag or any(variable.get("name").text == "PROBE_SIDECAR" for variable in environment)
