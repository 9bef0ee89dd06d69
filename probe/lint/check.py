"""Objects in, a report out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath

from probe.lint import ignoring
from probe.lint.records import Found, Level, LintFinding, LintReport, Place, Rule
from probe.lint.rules import RULES
from probe.lint.view import View
from probe.manifests import Object, Pod, Route, Value, pods, routes, selected, services

IGNORE = Rule(
    "lint-ignore",
    Level.WARNING,
    "An annotation that is to ignore a rule names none, or gives no reason",
    "Nothing is ignored by it.",
    "Name the rule and say why.",
    """\
annotations:
  accept-probe/lint-ignore: "no-prestop: accepts for 5 s after SIGTERM by itself"
""",
    lambda view: iter(()),
)

ALL_RULES = (*RULES, IGNORE)

NAMES = tuple(rule.id for rule in ALL_RULES)


def lint(items: Sequence[Object], rules: Iterable[Rule] = ALL_RULES) -> LintReport:
    """Hold the rules against every pod among the objects. Findings are in the order of the input,
    the worst of an object first.
    """
    chosen = tuple(rules)
    written = list(without_replicas(pod for item in items for pod in pods(item)))
    leading = lead(services(items), written)
    tags = kustomized(items)
    findings: list[LintFinding] = []
    for pod in written:
        folder = str(PurePath(pod.owner.file).parent)
        view = View(pod, tuple(leading.get(pod.template, ())), tags.get(folder, {}))
        findings += of_pod(view, chosen)
    looked = tuple(dict.fromkeys(place_of(pod.owner) for pod in written))
    return LintReport(tuple(findings), len(items), looked)


def without_replicas(everything: Iterable[Pod]) -> Iterator[Pod]:
    """All but the pods that a controller made of which the input has the template, or an earlier
    pod: `kubectl get deploy,pods` lists both, and one finding is enough.
    """
    found = list(everything)
    templates = [pod for pod in found if not pod.owner.owner and pod.labels]
    seen: set[tuple[str, str]] = set()
    for pod in found:
        maker = (pod.owner.owner, pod.owner.kind)
        if maker[0]:
            labels = pod.labels.items()
            if maker in seen or any(
                template.labels.items() <= labels
                and template.owner.namespace == pod.owner.namespace
                for template in templates
            ):
                continue
            seen.add(maker)
        yield pod


def lead(found: Iterable[Object], written: Sequence[Pod]) -> Mapping[Value, list[Route]]:
    """The routes of each pod template."""
    labelled: dict[tuple[str, str], list[Pod]] = {}
    for pod in written:
        for label in pod.labels.items():
            labelled.setdefault(label, []).append(pod)
    leading: dict[Value, list[Route]] = {}
    for service in found:
        # With thousands of pods, only those that have the rarest of its labels.
        wanted = service.root.get("spec", "selector").texts().items()
        candidates = min((labelled.get(label, []) for label in wanted), key=len)
        for pod in selected(service, candidates):
            leading.setdefault(pod.template, []).extend(routes(service, pod))
    return leading


def kustomized(items: Iterable[Object]) -> Mapping[str, dict[str, str]]:
    """For each folder with a kustomization: the tags that it gives to images."""
    return {
        str(PurePath(item.file).parent): {
            image.get("name").text: image.get("newTag").text for image in item.root.get("images")
        }
        for item in items
        if item.kind in ("Kustomization", "Component")
    }


def of_pod(view: View, rules: Iterable[Rule]) -> list[LintFinding]:
    pod = view.pod
    # Of a bare Pod these are one and the same.
    places = dict.fromkeys((pod.owner.annotations, pod.annotations))
    own = ignoring.read(places, NAMES)
    findings = []
    for rule in rules:
        founds = mistaken(own) if rule is IGNORE else rule.check(view)
        findings += [finding(rule, found, pod.owner, own) for found in founds]
    return sorted(
        findings, key=lambda finding: (finding.level.rank, finding.place.file, finding.place.line)
    )


def place_of(item: Object) -> Place:
    return Place(item.file, item.root.line, item.root.column, item.title)


def mistaken(own: ignoring.Ignored) -> Iterator[Found]:
    for at, what in own.mistakes:
        yield Found(
            at,
            f"The annotation {ignoring.ANNOTATION}: {what}, so nothing is ignored by it.",
            "Name the rule and say why:",
            ('accept-probe/lint-ignore: "no-prestop: accepts for 5 s after SIGTERM by itself"',),
        )


def finding(rule: Rule, found: Found, owner: Object, own: ignoring.Ignored) -> LintFinding:
    reason = own.reasons.get(rule.id, "")
    if not reason and found.of is not None:
        reason = ignoring.read((found.of.annotations,), NAMES).reasons.get(rule.id, "")
    return LintFinding(
        rule,
        found.level or rule.level,
        place_of(owner),
        Place((found.of or owner).file, found.at.line, found.at.column),
        found.what,
        found.instead,
        found.lines,
        found.related,
        reason,
    )
