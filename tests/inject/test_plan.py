"""What is chosen for a pod, and where it is said to come from."""

import re
from typing import Any

import pytest
import yaml

from probe import __version__
from probe.api.questions import read_question
from probe.inject import good
from probe.inject.edit import Done, Page, inject
from probe.inject.plan import Options
from probe.inject.record import Wishes

WEB = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    metadata: {labels: {app: web}}
    spec:
      securityContext: {runAsUser: 101, runAsGroup: 102}
      containers:
      - name: web
        image: registry.example/web:1
        readinessProbe: {httpGet: {path: /ready, port: 8080}}
"""
ALONE = WEB.partition("---")[2]


def changed(text: str, before: str, after: str) -> str:
    assert text.count(before) == 1, before
    return text.replace(before, after)


def done(text: str, *, classic: bool = False, image: str = "", **wishes: Any) -> Done:
    options = Options(Wishes(**wishes), image, classic)
    return inject([Page("web.yaml", text)], options)


def spec_of(result: Done) -> dict[str, Any]:
    *_, deployment = yaml.safe_load_all(result.pages[0].text)
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


def sidecar_of(result: Done) -> dict[str, Any]:
    spec = spec_of(result)
    everyone = [*spec.get("initContainers", ()), *spec["containers"]]
    (found,) = (one for one in everyone if "accept-probe" in one["image"])
    ours: dict[str, Any] = found
    return ours


def targets(result: Done) -> list[str]:
    return [word for word in sidecar_of(result)["args"] if word.startswith(("--port", "--target"))]


def said(result: Done) -> str:
    return "\n".join(remark.what for remark in result.remarks)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        # The application's own probe says how its port is asked.
        ("x", "x", ["--target=http://:8080/ready"]),
        ("path: /ready", "path: /", ["--port=8080"]),
        ("path: /ready", "path: 'ready?full=1'", ["--target=http://:8080/ready?full=1"]),
        (
            "{path: /ready, port: 8080}",
            "{path: /ready, port: 8080, scheme: HTTPS}",
            ["--target=https://:8080/ready?insecure=1"],
        ),
        (
            "{path: /ready, port: 8080}",
            "{path: '/ready?full=1', port: 8080, scheme: https}",
            ["--target=https://:8080/ready?full=1&insecure=1"],
        ),
        (
            "httpGet: {path: /ready, port: 8080}",
            "grpc: {port: 8080, service: shop.Cart}",
            ["--target=grpc://:8080/shop.Cart"],
        ),
        (
            "readinessProbe: {httpGet: {path: /ready, port: 8080}}",
            "startupProbe: {grpc: {port: 8080}}",
            ["--target=grpc://:8080"],
        ),
        (
            "{path: /ready, port: 8080}",
            "{path: /ready, port: 8080, httpHeaders: [{name: Host, value: 'a.example&b%$(X)'}]}",
            ["--target=http://:8080/ready?header=Host: a.example%26b%25%24(X)"],
        ),
        # A name in its query that is one of ours; a `$`, which kubelet would take for its own.
        (
            "path: /ready",
            "path: '/ready$?status=7&x'",
            ["--target=http://:8080/ready%24?%73tatus=7&x"],
        ),
        # What stands for a secret here, and does not there, is not said at all.
        (
            "{path: /ready, port: 8080}",
            "{path: /ready, port: 8080, httpHeaders: [{name: A, value: '${env:B}'}]}",
            ["--port=8080"],
        ),
        # A mere connect, or another port, says nothing: the names of the port do.
        ("httpGet: {path: /ready, port: 8080}", "tcpSocket: {port: 8080}", ["--port=8080"]),
        ("port: 8080}}", "port: 8081}}", ["--port=8080"]),
    ],
)
def test_how_a_port_is_asked(before: str, after: str, words: list[str]) -> None:
    text = WEB if before == "x" else changed(WEB, before, after)
    assert targets(done(text)) == words


@pytest.mark.parametrize(
    ("port", "words"),
    [
        ("{port: 80, targetPort: 8080}", ["--port=8080"]),
        ("{port: 8000, targetPort: 8080}", ["--target=tcp://:8080"]),
        ("{name: db, port: 5432, targetPort: 8080}", ["--target=tcp://:8080"]),
        ("{name: x, port: 1, targetPort: 8080, appProtocol: http}", ["--port=8080"]),
        ("{name: http, port: 1, targetPort: 8080, appProtocol: grpc}", ["--target=grpc://:8080"]),
        ("{name: tcp-mysql, port: 1, targetPort: 8080}", ["--target=queue://:8080"]),
        ("{port: 3306, targetPort: 8080}", ["--target=queue://:8080"]),
        (
            "{name: x, port: 1, targetPort: 8080, appProtocol: kubernetes.io/h2c}",
            ["--target=http://:8080?http_version=2"],
        ),
        ("{name: https-web, port: 443, targetPort: 8080}", ["--target=https://:8080?insecure=1"]),
        ("{name: http, port: 80, targetPort: 8080}, {name: x, port: 9, targetPort: 99}", None),
        # For operators, for peers, for nobody who would be let go of.
        ("{name: http, port: 80, targetPort: 8080}, {name: metrics, port: 9090}", ["--port=8080"]),
        ("{name: metrics, port: 9090}", ["--target=tcp://:9090"]),
        ("{name: http, port: 80, targetPort: 8080}, {port: 53, protocol: UDP}", ["--port=8080"]),
    ],
)
def test_which_ports_of_a_service(port: str, words: list[str] | None) -> None:
    text = changed(WEB, "{name: http, port: 80, targetPort: 8080}", port)
    text = changed(text, "path: /ready, port: 8080", "path: /ready, port: 8081")
    assert targets(done(text)) == (words or ["--target=tcp://:99", "--port=8080"])


@pytest.mark.parametrize(
    ("ports", "words"),
    [
        ("[{name: http, containerPort: 8080}]", ["--target=http://:8080/ready"]),
        (
            "[{name: http, containerPort: 8000}, {name: health, containerPort: 8080}]",
            ["--port=8000"],
        ),
        ("[{containerPort: 7}]", ["--target=tcp://:7"]),
        ("[]", ["--target=http://:8080/ready"]),
        (
            "[{containerPort: 8080}, {containerPort: 8081}]",
            "8080, 8081? Give --port, or its Service",
        ),
        ("[{name: metrics, containerPort: 9090}]", "takes no traffic"),
    ],
)
def test_without_a_service_only_what_is_clear_is_taken(ports: str, words: list[str] | str) -> None:
    text = changed(ALONE, "image:", f"ports: {ports}\n        image:")
    result = done(text)
    if isinstance(words, str):
        assert words in said(result)
        assert result.pages[0].text == text
        assert targets(done(text, ports=(8080,))) == ["--target=http://:8080/ready"]
    else:
        assert targets(result) == words


def test_what_the_user_says_goes_first() -> None:
    result = done(WEB, ports=(9000,), urls=(r"tcp://:6379?send=PING\r\n&expect=+PONG",))
    assert targets(result) == ["--port=9000", r"--target=tcp://:6379?send=PING\r\n&expect=+PONG"]
    again = inject(result.pages, Options())
    assert again.pages == result.pages
    other = inject(result.pages, Options(Wishes(ports=(9001,))))
    assert targets(other) == ["--port=9001"]


def test_every_choice_is_said_with_its_place() -> None:
    text = changed(
        WEB, "readinessProbe:", "livenessProbe: {exec: {command: [x]}}\n        readinessProbe:"
    )
    told = said(done(text))
    for sentence in (
        "watches 8080: Service web sends traffic to it (web.yaml:7); http://:8080/ready: "
        "readinessProbe of container web (web.yaml:21)",
        "readiness is the sidecar's; before, of container web: httpGet 8080 /ready (web.yaml:21)",
        "liveness of container web is left to --on-stall=terminate; before: exec (web.yaml:20)",
        "runs as 101:102, as the application does",
    ):
        assert sentence in told


def test_probes_of_the_application() -> None:
    (web,) = spec_of(done(WEB))["containers"]
    assert "readinessProbe" not in web
    asking_else = changed(WEB, "port: 8080}}", "port: 8081}}\n        startupProbe: {exec: {}}")
    (web,) = spec_of(done(asking_else))["containers"]
    assert web["readinessProbe"] == {"httpGet": {"path": "/ready", "port": 8081}}
    assert web["startupProbe"] == {"exec": {}}


def test_a_patient_probe_keeps_its_patience() -> None:
    patient = changed(WEB, "port: 8080}}", "port: 8080}, timeoutSeconds: 10}")
    assert "--round-trip-timeout=10s" in sidecar_of(done(patient))["args"]
    told = done(patient, further=("--round-trip-timeout=5s",))
    assert sidecar_of(told)["args"].count("--round-trip-timeout=5s") == 1
    assert "--round-trip-timeout=10s" not in sidecar_of(told)["args"]


@pytest.mark.parametrize(
    ("pod", "container", "own"),
    [
        ("{runAsUser: 101, runAsGroup: 102}", "{}", {}),
        ("{runAsUser: 101, runAsGroup: 102}", "{runAsUser: 7}", {"runAsUser": 7}),
        ("{}", "{runAsUser: 7, runAsGroup: 8}", {"runAsUser": 7, "runAsGroup": 8}),
        ("{}", "{runAsUser: 7}", {"runAsUser": 7}),
        ("{}", "{}", {}),
        ("{}", "{runAsUser: 0}", {}),
        ("{runAsUser: 0}", "{}", {"runAsNonRoot": False}),
    ],
)
def test_user_and_group_are_those_of_the_pod_and_never_guessed(
    pod: str, container: str, own: dict[str, Any]
) -> None:
    text = changed(WEB, "{runAsUser: 101, runAsGroup: 102}", pod)
    result = done(changed(text, "image:", f"securityContext: {container}\n        image:"))
    security = sidecar_of(result)["securityContext"]
    assert security.pop("seccompProfile") == {"type": "RuntimeDefault"}
    as_root = own.pop("runAsNonRoot", None) is False
    assert security.pop("runAsNonRoot", False) is not as_root
    for name in ("capabilities", "allowPrivilegeEscalation", "readOnlyRootFilesystem"):
        del security[name]
    assert security == own


def test_what_the_pod_says_already_is_not_said_again() -> None:
    of_pod = (
        "{runAsUser: 101, runAsGroup: 102, runAsNonRoot: true, seccompProfile: {type: Localhost}}"
    )
    text = changed(WEB, "{runAsUser: 101, runAsGroup: 102}", of_pod)
    security = sidecar_of(done(text))["securityContext"]
    assert security.keys().isdisjoint({"runAsNonRoot", "seccompProfile", "runAsUser"})


@pytest.mark.parametrize(
    ("field", "shares"),
    [
        ("dnsPolicy: Default", True),
        ("shareProcessNamespace: false", False),
        ("hostPID: true", None),
    ],
)
def test_process_namespace(field: str, shares: bool | None) -> None:
    result = done(changed(WEB, "      securityContext", f"      {field}\n      securityContext"))
    assert spec_of(result).get("shareProcessNamespace") is shares


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("hostNetwork: true", "has hostNetwork: port 9809"),
        ("os: {name: windows}", "is for Windows"),
        ("nodeSelector: {kubernetes.io/os: windows}", "is for Windows"),
        (
            "initContainers: [{name: probe, image: accept-probe, restartPolicy: Always}]",
            "has the sidecar already, and not by inject",
        ),
        ("initContainers: [{image: x}]", "has a container without a name"),
    ],
)
def test_who_gets_none(field: str, says: str) -> None:
    text = changed(WEB, "      securityContext", f"      {field}\n      securityContext")
    result = done(text)
    assert [remark.what for remark in result.remarks if remark.what.startswith(says)]
    assert result.pages[0].text == text
    assert not result.plans


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("image: registry.example/web:1", "tty: true", "has a container without an image: a patch"),
        (
            "metadata: {name: web}\nspec:\n  template",
            "metadata: {ownerReferences: [{kind: ReplicaSet, name: w}]}\nspec:\n  template",
            "is made by ReplicaSet w: inject what makes it",
        ),
        ("apps/v1\nkind: Deployment", "batch/v1\nkind: Job", "is a job"),
    ],
)
def test_what_is_none_of_its_pods(before: str, after: str, says: str) -> None:
    result = done(changed(WEB, before, after))
    (remark,) = result.remarks
    assert remark.what.startswith(says)
    assert remark.level == "passed"


def test_a_pod_that_runs() -> None:
    metadata = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, uid: 1-2}\n"
    (remark,) = done(
        f"{metadata}spec: {{containers: [{{name: a, image: a}}]}}", ports=(80,)
    ).remarks
    assert remark.what.startswith("runs already")


def test_a_job_with_a_port_of_its_own() -> None:
    job = changed(WEB, "apps/v1\nkind: Deployment", "batch/v1\nkind: Job")
    assert targets(done(job, ports=(8080,))) == ["--target=http://:8080/ready"]
    (remark,) = done(job, ports=(8080,), classic=True).remarks
    assert (remark.level, remark.what.partition(",")[0]) == ("refused", "is a job")


def test_classic() -> None:
    result = done(WEB, classic=True)
    spec = spec_of(result)
    web, probe = spec["containers"]
    assert "initContainers" not in spec
    assert probe["name"] == "probe"
    assert probe.keys().isdisjoint({"restartPolicy", "startupProbe"})
    assert web["lifecycle"] == {"preStop": {"exec": {"command": ["sleep", "4"]}}}
    again = inject(result.pages, Options())
    assert again.pages == result.pages


@pytest.mark.parametrize(
    ("field", "has"),
    [
        ("terminationGracePeriodSeconds: 4", False),
        ("terminationGracePeriodSeconds: 5", True),
    ],
)
def test_prestop_has_its_time(field: str, has: bool) -> None:
    result = done(changed(WEB, "      securityContext", f"      {field}\n      securityContext"))
    (web,) = spec_of(result)["containers"]
    assert ("lifecycle" in web) is has


def test_names_that_are_taken() -> None:
    text = changed(
        WEB,
        "      containers:",
        "      volumes: [{name: evidence, emptyDir: {}}]\n      containers:\n"
        "      - {name: probe, image: other}",
    )
    result = done(text)
    ours = sidecar_of(result)
    assert ours["name"] == "accept-probe"
    assert ours["volumeMounts"][0]["name"] == "accept-probe-evidence"
    assert {volume["name"] for volume in spec_of(result)["volumes"]} == {
        "evidence",
        "accept-probe-evidence",
    }


def test_port_that_is_taken() -> None:
    text = changed(WEB, "targetPort: 8080", "targetPort: 9809")
    (remark,) = (one for one in done(text).remarks if one.level)
    assert "port 9809 is a target's" in remark.what
    text = changed(WEB, "image:", "ports: [{containerPort: 9809}]\n        image:")
    (remark,) = (one for one in done(text).remarks if one.level)
    assert "has port 9809 itself: -- --listen=:9810" in remark.what
    result = done(text, further=("--listen=:9810",))
    ours = sidecar_of(result)
    assert ours["ports"][0]["containerPort"] == ours["startupProbe"]["httpGet"]["port"] == 9810
    assert ours["readinessProbe"]["grpc"] == {"port": 9810, "service": "ready"}
    result = done(text, further=("--listen=:9810", "--on-stall=restart"))
    (web,) = spec_of(result)["containers"]
    assert web["livenessProbe"]["httpGet"]["port"] == 9810


def test_arguments_that_serve_would_not_take() -> None:
    (remark,) = (one for one in done(WEB, further=("--live-aftr=1m",)).remarks if one.level)
    assert remark.level == "refused"
    assert "did you mean --live-after?" in remark.what


def test_an_upgrade_keeps_what_was_said_and_what_was_added_by_hand() -> None:
    first = done(WEB, image="registry.example:5000/team/accept-probe:0.0.9@sha256:00")
    by_hand = re.sub(r"(\n +- )--evidence-dir=.*", r"\g<0>\1--jvm-attach", first.pages[0].text)
    second = done(by_hand)
    ours = sidecar_of(second)
    assert ours["image"] == f"registry.example:5000/team/accept-probe:{__version__}"
    assert ours["args"][-1] == "--jvm-attach"
    assert done(second.pages[0].text).pages == second.pages


def test_several_workloads_each_with_its_own() -> None:
    other = WEB.replace("web", "shop").replace("8080", "9000").replace("/ready", "/ok")
    result = inject([Page("web.yaml", WEB), Page("shop.yaml", other)], Options())
    assert [pod.owner.name for pod, _ in result.plans] == ["web", "shop"]
    assert "http://:8080/ready" in result.pages[0].text
    assert "http://:9000/ok" in result.pages[1].text


def test_two_containers_that_serve() -> None:
    text = changed(WEB, "ports: [{", "ports: [{name: grpc, port: 9, targetPort: grpc}, {")
    text += "      - {name: api, image: x, ports: [{name: grpc, containerPort: 9000}]}\n"
    text = changed(text, "{runAsUser: 101, runAsGroup: 102}", "{}")
    declared = changed(
        text, "image: registry", "ports: [{containerPort: 8080}]\n        image: registry"
    )
    spec = spec_of(done(declared))
    paths = [one["livenessProbe"]["httpGet"]["path"] for one in spec["containers"]]
    assert paths == ["/live/8080", "/live/9000"]
    # What is declared nowhere is in the container whose own probe asks it, if one does.
    spec = spec_of(done(text))
    paths = [one["livenessProbe"]["httpGet"]["path"] for one in spec["containers"]]
    assert paths == ["/live/8080", "/live/9000"]
    result = done(changed(text, "path: /ready, port: 8080", "path: /ready, port: 8081"))
    assert "which container has 8080 is not said" in said(result)
    web, api = spec_of(result)["containers"]
    assert "livenessProbe" not in web
    assert "livenessProbe" in api


LIVE = {"httpGet": {"path": "/live", "port": 9809}, "periodSeconds": 5, "failureThreshold": 6}
USER = "{runAsUser: 101, runAsGroup: 102}"


@pytest.mark.parametrize(
    ("security", "field", "further", "on_stall", "liveness"),
    [
        # It can end who stalls by itself: as the same user, in the same process namespace.
        (USER, "", (), "terminate", None),
        ("{}", "", (), "", LIVE),
        ("{runAsUser: 101}", "", (), "", LIVE),
        ("{runAsUser: 0, runAsGroup: 0}", "", (), "", LIVE),
        (USER, "shareProcessNamespace: false", (), "", LIVE),
        (USER, "hostPID: true", (), "", LIVE),
        # What the user says goes first, and what is said last of several is done by liveness.
        (USER, "", ("--on-stall=restart",), "restart", LIVE),
        (USER, "", ("--on-stall=hold",), "hold", None),
        (USER, "", ("--on-stall=exit",), "exit", None),
        (USER, "", ("--on-stall=terminate", "--on-stall=restart"), "terminate", LIVE),
    ],
)
def test_who_ends_what_has_stalled(
    security: str, field: str, further: tuple[str, ...], on_stall: str, liveness: Any
) -> None:
    text = changed(WEB, USER, security)
    text = changed(text, "      securityContext", f"      {field}\n      securityContext")
    text = changed(
        text, "port: 8080}}", "port: 8080}}\n        livenessProbe: {exec: {command: [x]}}"
    )
    result = done(text, further=further)
    args = sidecar_of(result)["args"]
    assert [word for word in args if word.startswith("--on-stall")][:1] == (
        [f"--on-stall={on_stall}"] if on_stall else []
    )
    (web,) = spec_of(result)["containers"]
    short = {"terminationGracePeriodSeconds": 10}
    assert web.get("livenessProbe") == (liveness and liveness | short)


@pytest.mark.parametrize(
    ("kind", "grace", "told", "liveness"),
    [
        ("Deployment", 60, [], 10),
        ("Deployment", 10, [], None),
        ("StatefulSet", 60, ["--terminate-grace=60s"], None),
        ("StatefulSet", 5, [], None),
    ],
)
def test_how_long_it_has_to_end(
    kind: str, grace: int, told: list[str], liveness: int | None
) -> None:
    text = changed(WEB, "kind: Deployment", f"kind: {kind}")
    field = f"      terminationGracePeriodSeconds: {grace}\n      securityContext"
    text = changed(text, "      securityContext", field)
    args = sidecar_of(done(text))["args"]
    assert [word for word in args if word.startswith("--terminate")] == told
    (web,) = spec_of(done(text, further=("--on-stall=restart",)))["containers"]
    assert web["livenessProbe"].get("terminationGracePeriodSeconds") == liveness


def test_exit_restarts_all() -> None:
    (rule,) = sidecar_of(done(WEB, further=("--on-stall=exit",)))["restartPolicyRules"]
    assert rule["action"] == "RestartAllContainers"


@pytest.mark.parametrize(
    ("mine", "path"),
    [({1, 2, 3}, "/live"), ({2}, "/live/2"), ({1, 2}, "/live?exclude=3"), ({3}, "/live/3")],
)
def test_a_container_is_restarted_for_its_own_ports(mine: set[int], path: str) -> None:
    asked = good.live(mine, {1, 2, 3})
    assert asked == path
    question = read_question(*asked.split("?"))
    assert question is not None
    names = {question.target} if question.target else {"1", "2", "3"} - question.excluded
    assert names == set(map(str, mine))
