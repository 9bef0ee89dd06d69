"""One configuration out of flags, environment and file: a flag wins, then the environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from probe.config.commands import BY_NAME
from probe.config.fields import SECTIONS, TARGETED, taken_by
from probe.config.problems import Problems
from probe.config.records import LISTENING, Config, DiscoveryOptions, ResponseOptions
from probe.config.sources import Given, Layer, first, read_environment, read_flags
from probe.config.targets import gather, lacking
from probe.imports.typing_lite import Any
from probe.model import EvidenceOptions, Policy


def load(command: str, words: Sequence[str], environment: Mapping[str, str]) -> Config:
    """What `probe COMMAND WORDS...` was asked to do. Raises ConfigError with all that is wrong.

    Pure but for reading the file that --config or PROBE_CONFIG names. `command` is one of
    `commands.BY_NAME`.
    """
    problems = Problems()
    flags, operands, then = read_flags(BY_NAME[command], words, problems)
    layers = [flags, read_environment(BY_NAME[command], environment, problems)]
    for file in first(layers, "config").get("config", ()):
        from probe.config.file import read_file  # PyYAML costs more than all of `probe check`

        layers.append(read_file(str(file.value), file.place, command, problems))
    given = {
        field.name: layer[field.name]
        for field in taken_by(command)
        if (layer := first(layers, field.name))
    }
    if command == "watch":
        watches_sidecar(flags, given, problems)
    elif "sidecar" in given and not asks_sidecar(layers, problems):
        del given["sidecar"]
    config = fill(command, given, operands)._replace(then=then)
    if config.sidecar is LISTENING:
        config = config._replace(sidecar=config.listen.asked)
    if config.evidence.put and "evidence-redact" not in given:
        # What leaves the pod says no more than is asked for, and what is kept is what leaves it.
        config = config._replace(evidence=config.evidence._replace(redact=True))
    if command in TARGETED and "sidecar" not in given:
        config = config._replace(targets=gather(layers, given, environment, problems))
        if command != "audit" and not first(layers, "port", "target"):
            config = without_target(config, given, problems)
    for header in given.get("evidence-put-header", ()):
        lacking([header.value], header.place, environment, problems)
    check(config, given, problems)
    problems.raise_if_any(config)
    return config._replace(notices=tuple(problems.notices))


def without_target(config: Config, given: Layer, problems: Problems) -> Config:
    """What a command does that was given no target: `serve` watches whatever listens."""
    if config.command == "serve" and "discover" not in given:
        return config._replace(discovery=config.discovery._replace(mode="watch"))
    if config.discovery.mode is None and given.get("discover", True):
        alternative = {"check": ", or --sidecar", "serve": ", or --discover"}
        more = alternative.get(config.command, "")
        problems.error("--port", f"give a target: --port N or --target URL{more}")
    return config


def asks_sidecar(layers: list[Layer], problems: Problems) -> bool:
    """Whether `check` asks a sidecar, not the application: what an earlier layer says decides.

    Where one layer has both, it does: the variables that `serve` needs are there as well when
    kubelet runs `check` beside it. On one command line both are a mistake.
    """
    for layer in layers:
        has_target = "port" in layer or "target" in layer
        if "sidecar" in layer:
            if layer["sidecar"] and layer["sidecar"][-1].value is None:
                return False
            if has_target and layer is layers[0]:
                problems.error("--sidecar", "has targets of its own; leave it out, or the targets")
            return True
        if has_target:
            return False
    return False


def watches_sidecar(flags: Layer, given: Layer, problems: Problems) -> None:
    """`watch` asks a sidecar, unless the command line names targets: the variables and the file of
    the sidecar that it is started beside have those of the sidecar.
    """
    if flags.keys().isdisjoint(("port", "target")):
        if "sidecar" not in given or None in [each.value for each in given["sidecar"]]:
            given["sidecar"] = [Given(LISTENING, "--sidecar")]
        return
    if "sidecar" in flags:
        problems.error("--sidecar", "has targets of its own; leave it out, or the targets")
    given.pop("sidecar", None)


def fill(command: str, given: Layer, operands: tuple[str, ...]) -> Config:
    """The records, each field in its place. The targets are not among them."""
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for field in taken_by(command):
        values = [one.value for one in given.get(field.name, ())]
        section = sections[field.section]
        if values and field.attribute:
            section[field.attribute] = field.collect(values) if field.collect else values[-1]
        elif field.own_default is not None:
            section[field.attribute] = field.own_default
    if BY_NAME[command].operand and operands:
        several = BY_NAME[command].several
        sections[""][BY_NAME[command].into] = operands if several else operands[0]
    return Config(
        command,
        policy=Policy(**sections["policy"]),
        evidence=EvidenceOptions(**sections["evidence"]),
        response=ResponseOptions(**sections["response"]),
        discovery=DiscoveryOptions(**sections["discovery"]),
        **sections[""],
    )


def conflicts(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """Fields whose values cannot work together, and why."""
    yield from evidence_conflicts(config.evidence)
    policy = config.policy
    if policy.recovered_below >= policy.saturated_at:
        yield (
            ("recovered-below", "saturated-at"),
            f"{policy.recovered_below:.0%} must be below saturated-at, {policy.saturated_at:.0%}",
        )
    if policy.live_after < policy.stalled_for:
        yield (
            ("live-after", "stalled-for"),
            f"{policy.live_after:g} s must be at least stalled-for, {policy.stalled_for:g} s",
        )
    if policy.live_after > policy.live_after_busy != Policy().live_after_busy:
        yield (
            ("live-after-busy", "live-after"),
            f"{policy.live_after_busy:g} s must be at least live-after, {policy.live_after:g} s",
        )
    if config.command == "serve":
        yield from port_conflicts(config)
    yield from response_conflicts(config.response, config.evidence)
    if config.live and config.sidecar is None:
        yield ("live", "sidecar"), "is for --sidecar: liveness is what a sidecar remembers"


def port_conflicts(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """The same of ports: what the sidecar is to answer on itself, and what it is to discover."""
    ports = {target.port for target in config.targets if not target.socket}
    listen, agent = config.listen, config.agent_listen
    if listen.port in ports:
        yield ("listen",), f"port {listen.port} is a target's"
    if agent is not None and agent.port in ports:
        yield ("agent-listen",), f"port {agent.port} is a target's"
    if agent is not None and agent.port and agent.port == listen.port:
        yield ("agent-listen", "listen"), f"port {agent.port} is that of listen"
    discovery = config.discovery
    if discovery.mode is None and discovery.excluded:
        yield ("exclude-port", "discover"), "is for --discover"
    if discovery.mode is None and discovery.ephemeral:
        yield ("discover-ephemeral", "discover"), "is for --discover"
    for port in sorted(ports.intersection(discovery.excluded)):
        yield ("exclude-port",), f"port {port} is a target's"


def response_conflicts(
    response: ResponseOptions, evidence: EvidenceOptions
) -> Iterator[tuple[tuple[str, ...], str]]:
    """The same, of those that say what follows a stall."""
    labels = [name for name, _ in response.quarantine_labels]
    if "quarantine" in response.on_stall and not labels:
        yield ("on-stall", "quarantine-label"), "quarantine needs a quarantine-label"
    if "quarantine" not in response.on_stall and labels:
        yield ("quarantine-label", "on-stall"), "is for on-stall quarantine"
    if "exit" in response.on_stall and not evidence.dir:
        yield ("on-stall", "evidence-dir"), "exit needs an evidence-dir, to remember that it ended"
    if len(set(response.on_stall)) < len(response.on_stall):
        yield ("on-stall",), "names one of them twice"
    if early := {"restart", "hold"}.intersection(response.on_stall[:-1]):
        yield ("on-stall",), f"{min(early)} can always be done, so nothing may follow it"
    if response.floor_unknown != "leave" and response.floor is None:
        yield ("floor-unknown", "floor"), "is for floor"
    if len(set(labels)) < len(labels):
        yield ("quarantine-label",), "names a label twice"


def evidence_conflicts(evidence: EvidenceOptions) -> Iterator[tuple[tuple[str, ...], str]]:
    """The same of the settings of evidence."""
    for name, value in (("header", evidence.put_headers), ("ca-file", evidence.put_ca_file)):
        if value and not evidence.put:
            yield (f"evidence-put-{name}", "evidence-put"), "is for evidence-put"


def check(config: Config, given: Layer, problems: Problems) -> None:
    """Tell of conflicts between fields that the command takes and that were read."""
    taken = {field.name for field in taken_by(config.command)}
    for names, message in conflicts(config):
        if taken.issuperset(names) and all(given.get(name, True) for name in names):
            places = [one.place for name in names for one in given.get(name, ())]
            problems.error(next(iter(places), f"--{names[0]}"), message)
