"""The table of commands: what each is for, where it lives, and how it is used."""

EXIT_CODES = "Exit status: 0 healthy, 1 not healthy, 2 usage or configuration, 3 could not tell."


class Command:
    """`module` has `run(config) -> int`; `operand` is the one word a command takes besides flags,
    or the first of `several`, and `into` where that goes in Config; `then` is what may follow `--`.
    """

    def __init__(
        self,
        name: str,
        summary: str,
        module: str,
        about: str = "",
        *,
        operand: str = "",
        into: str = "",
        several: bool = False,
        then: str = "",
        examples: tuple[tuple[str, str], ...],
    ) -> None:
        self.name = name
        self.summary = summary
        self.module = module
        self.about = about
        self.operand = operand
        self.into = into
        self.several = several
        self.then = then
        self.examples = examples


COMMANDS = (
    Command(
        "serve",
        "the sidecar: watches, judges, answers over HTTP",
        "probe.commands.serve",
        "Watches the accept queue of every target, makes a round trip to it each second, and "
        "answers /ready, /live, /started, /status and /metrics. Without a target it watches the "
        "queue of whatever listens, and decides nothing.",
        examples=(
            ("probe serve --port 8080", "any answer below 500 is good"),
            ("probe serve --port 8080 --path /healthz", "only 200 to 399 is good"),
            (r"probe serve --port 8080 --target 'tcp://:6379?send=PING\r\n&expect=+PONG'", ""),
            ("probe serve --config probe.yaml", ""),
            ("probe serve", "the queue of whatever listens; nothing depends on it"),
        ),
    ),
    Command(
        "check",
        "once: is the application healthy?",
        "probe.commands.check",
        f"Prints one line that says why. {EXIT_CODES}",
        examples=(
            ("probe check --port 8080", "ask the application itself"),
            ("probe check --target grpc://:50051/shop.Cart", ""),
            ("probe check --sidecar", "ask the sidecar whether it is ready"),
            ("probe check --sidecar --live", "ask the sidecar whether it is live"),
            ("probe check --port 8080 --exit-style docker", "for a HEALTHCHECK"),
        ),
    ),
    Command(
        "wait",
        "for entrypoints: until healthy, then run a command",
        "probe.commands.wait",
        "Exit status 1 when the time is up; otherwise that of COMMAND, which takes the place of "
        "this process.",
        then="COMMAND ...",
        examples=(
            ("probe wait --port 8080", ""),
            (
                "probe wait --target tcp://:5432 -- ./server --verbose",
                "start when the proxy beside it accepts",
            ),
        ),
    ),
    Command(
        "audit",
        "every listener here: owner, queue, limit, drops",
        "probe.commands.audit",
        "Lists every LISTEN socket of the network namespace, and which of the ports that take "
        "traffic nothing probes.",
        examples=(
            ("probe audit", ""),
            ("probe audit --port 8080 --json", "8080 is probed already"),
        ),
    ),
    Command(
        "diagnose",
        "the whole finding about one port, in plain words",
        "probe.commands.diagnose",
        f"Says what is seen, what it means, and what is unknown. {EXIT_CODES}",
        examples=(
            ("probe diagnose --port 8080", ""),
            ("probe diagnose --port 8080 --netns 4711", "from a node, as root"),
        ),
    ),
    Command(
        "watch",
        "live in a terminal: the verdict, and what it rests on",
        "probe.commands.watch",
        "Shows what the sidecar sees: beside it, or from elsewhere with --sidecar (through kubectl "
        "port-forward). With targets on the command line it needs none: it watches and judges as "
        "serve would, answers nobody and decides nothing. Where its output is no terminal, it "
        "prints a line for each change. Exit status of --once: 0 ready, 1 not, 3 could not tell.",
        examples=(
            ("probe watch", "beside the sidecar: kubectl exec -it POD -c probe -- probe watch"),
            ("probe watch --sidecar 127.0.0.1:9809", "after kubectl port-forward POD 9809"),
            ("probe watch --port 8080", "without a sidecar"),
            ("probe watch --once --format json", "for jq"),
        ),
    ),
    Command(
        "hold",
        "while you debug: /live stays good, for so long",
        "probe.commands.hold",
        "Whatever is found, kubelet will not restart the application for it, and every answer of "
        "the sidecar says so. To be run beside the sidecar, as its user or as root. It ends by "
        "itself, or by probe release, or with the sidecar.",
        examples=(
            ("probe hold", ""),
            ("probe hold --for 2h --ready", "and stays in its Service, too"),
        ),
    ),
    Command(
        "release",
        "the end of a hold, before its time",
        "probe.commands.hold",
        "From now on /live says what is found.",
        examples=(("probe release", ""),),
    ),
    Command(
        "evidence list",
        "the incidents of which evidence was kept",
        "probe.commands.evidence",
        examples=(("probe evidence list --evidence-dir /evidence", ""),),
    ),
    Command(
        "evidence show",
        "the report of one incident",
        "probe.commands.evidence",
        operand="ID",
        into="incident",
        examples=(("probe evidence show --evidence-dir /evidence ID", "ID is one of the list"),),
    ),
    Command(
        "replay",
        "judge a recorded sequence of observations again",
        "probe.commands.replay",
        "Reads what `probe serve --record FILE` wrote and prints every transition.",
        operand="FILE",
        into="file",
        examples=(("probe replay incident.jsonl", ""),),
    ),
    Command(
        "lint",
        "in review: do the probes ask the port of the traffic?",
        "probe.commands.lint",
        "Reads manifests (files, folders, - for standard input; YAML or JSON) and says which of "
        "their probes would not see an incident, and what to write instead. Exit status: 0 "
        "nothing found, 1 something, 2 usage or an input that cannot be read.",
        operand="PATH",
        into="paths",
        several=True,
        examples=(
            ("probe lint deploy/", ""),
            ("probe lint --fail-on error -", "what helm template or kubectl kustomize prints"),
            ("probe lint --format text --format sarif --output lint.sarif deploy/", ""),
        ),
    ),
    Command(
        "inject",
        "put the sidecar into manifests",
        "probe.commands.inject",
        "Reads manifests (files, folders, - for standard input; YAML or JSON) and writes them with "
        "the sidecar in every pod that takes traffic. What to watch comes from the Services among "
        "them and from the application's own probes; each choice is said on standard error. All "
        "other bytes stay as they are, and probe uninject gives back the original. FLAGS after -- "
        "are further ones of probe serve. Exit status: 0 done, 1 a pod was refused or none was "
        "found, 2 usage or an input that cannot be read.",
        operand="PATH",
        into="paths",
        several=True,
        then="FLAGS ...",
        examples=(
            ("kubectl get deploy web -o yaml | probe inject - | kubectl apply -f -", ""),
            ("probe inject --in-place deploy/", "again with the next version: an upgrade"),
            ("probe inject --port 8080 web.yaml -- --jvm-attach", ""),
            ("probe inject --output component web.yaml > sidecar/kustomization.yaml", ""),
        ),
    ),
    Command(
        "uninject",
        "take the sidecar out again",
        "probe.commands.inject",
        "Takes back what probe inject did: in a file every byte is as it was. Exit status: 0 done, "
        "or nothing to do, 1 something could not be taken back, 2 usage or an input that cannot be "
        "read.",
        operand="PATH",
        into="paths",
        several=True,
        examples=(("probe uninject --in-place deploy/", ""),),
    ),
    Command(
        "demo",
        "the incident, shown end to end in under a minute",
        "probe.commands.demo",
        "Starts an application with a separate health port, lets its accept thread die, and "
        "shows on one timeline what each way of probing says.",
        examples=(("probe demo", ""),),
    ),
)

BY_NAME = {command.name: command for command in COMMANDS}
