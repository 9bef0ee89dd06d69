"""One Deployment with its Service, written in every form that YAML has for it."""

from random import Random
from typing import Any

SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {
        "selector": {"app": "web"},
        "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
    },
}


def deployment(draw: Random) -> dict[str, Any]:
    """Whatever inject adds to, replaces or takes out may be there, be null, or be missing."""

    def some(**entries: Any) -> dict[str, Any]:
        chosen = {key: value for key, value in entries.items() if draw.random() < 0.5}
        return {key: chosen[key] for key in draw.sample(list(chosen), len(chosen))}

    ask = {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 5}
    container = {
        "name": "web",
        **some(
            image="registry.example/web:1",
            readinessProbe=ask,
            livenessProbe=draw.choice([ask, {"exec": {"command": ["/bin/true", "- # :"]}}, None]),
            lifecycle=draw.choice([{"postStart": {"exec": {"command": ["a"]}}}, None, {}]),
            env=[
                {"name": "TEXT", "value": "one\n\ntwo # three: '\n"},
                {"name": "EMPTY", "value": ""},
            ],
            resources={},
        ),
    }
    container.setdefault("image", "registry.example/web:2")
    other = {"name": "other", "image": "registry.example/other:1"}
    spec = some(
        volumes=draw.choice([[{"name": "tmp", "emptyDir": {}}], [], None]),
        initContainers=draw.choice([[{"name": "first", "image": "a"}], [], None]),
        containers=draw.choice([[container], [other, container], [container, other]]),
        securityContext={"runAsUser": 101, "runAsGroup": 101},
        shareProcessNamespace=draw.choice([True, False, None]),
        terminationGracePeriodSeconds=draw.choice([2, 30, 120]),
    )
    spec.setdefault("containers", [container])
    metadata = {
        "labels": {"app": "web"},
        **some(annotations=draw.choice([{"a/b": "c"}, {}, None]), name="x"),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"template": {"metadata": metadata, "spec": spec}},
    }


class Writer:
    """Writes data as YAML in a form that is drawn anew at every turn."""

    def __init__(self, draw: Random) -> None:
        self.draw = draw
        self.step = draw.choice([1, 2, 3, 4])
        self.dash = draw.choice([0, 1, 2, 4])
        self.newline = draw.choice(["\n", "\r\n"])

    def document(self, data: dict[str, Any]) -> str:
        return self.newline.join(self.block(data, 0)) + self.newline

    def comment(self) -> str:
        choices = ["", "", "", "  # comment", " # - it: {is\t[one", "\t# tab"]
        return str(self.draw.choice(choices))

    def between(self, column: int) -> list[str]:
        pad = " " * column
        choices: list[list[str]] = [[], [], [], [""], [f"{pad}# above: - it"], ["# left", "", "  "]]
        return list(self.draw.choice(choices))

    def block(self, data: Any, column: int) -> list[str]:
        lines: list[str] = []
        pad = " " * column
        if isinstance(data, dict):
            for key, value in data.items():
                lines += self.between(column)
                lines += self.entry(self.draw.choice([key, key, f'"{key}"']), value, pad)
            return lines
        for item in data:
            lines += self.between(column)
            if isinstance(item, dict) and item and self.draw.random() < 0.5:
                gap = self.draw.choice([" ", "   "])
                first, *rest = self.block_without_head(item, column + 1 + len(gap))
                lines += [f"{pad}-{gap}{first.lstrip()}", *rest]
            else:
                lines.append(f"{pad}- {self.flow(item)}{self.comment()}")
        return lines

    def block_without_head(self, data: dict[str, Any], column: int) -> list[str]:
        lines = self.block(data, column)
        while not lines[0].strip() or lines[0].lstrip().startswith("#"):
            lines.pop(0)
        return lines

    def entry(self, key: str, value: Any, pad: str) -> list[str]:
        column = len(pad)
        if isinstance(value, dict) and value and self.draw.random() < 0.75:
            return [f"{pad}{key}:{self.comment()}", *self.block(value, column + self.step)]
        if isinstance(value, list) and value and self.draw.random() < 0.75:
            return [f"{pad}{key}:{self.comment()}", *self.block(value, column + self.dash)]
        if isinstance(value, str) and "\n" in value and self.draw.random() < 0.5:
            head = self.draw.choice(["|", "|+"])
            body = value.split("\n")[:-1]
            inner = " " * (column + self.step)
            return [f"{pad}{key}: {head}", *(f"{inner}{line}" if line else "" for line in body)]
        if value is None and self.draw.random() < 0.5:
            return [f"{pad}{key}:{self.comment()}"]
        return [f"{pad}{key}: {self.flow(value)}{self.comment()}"]

    def flow(self, value: Any) -> str:
        gap = self.draw.choice(["", " ", " "])
        if isinstance(value, dict):
            entries = [f"{key}: {self.flow(of)}" for key, of in value.items()]
            return f"{{{gap}{f',{gap}'.join(entries)}{gap}}}"
        if isinstance(value, list):
            last = self.draw.choice(["", ","]) if value else ""
            return f"[{gap}{f',{gap}'.join(map(self.flow, value))}{last}{gap}]"
        if value is None:
            return str(self.draw.choice(["null", "~"]))
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int):
            return str(value)
        simple = value.isprintable() and value.replace("/", "").replace(".", "").isalnum()
        forms = [value] if simple else []
        if value.isprintable():
            forms.append("'" + value.replace("'", "''") + "'")
        forms.append('"' + value.replace('"', '\\"').replace("\n", "\\n") + '"')
        return str(self.draw.choice(forms))


def manifest(draw: Random) -> str:
    writer = Writer(draw)
    data = [SERVICE, deployment(draw)]
    if draw.random() < 0.5:
        data.reverse()
    if draw.random() < 0.5:
        data = [{"apiVersion": "v1", "kind": "List", "items": data}]
    apart = draw.choice(["---", "--- # next", "...\n---".replace("\n", writer.newline)])
    text = f"{apart}{writer.newline}".join(map(writer.document, data))
    if draw.random() < 0.5:
        text = text.rstrip("\r\n")
    return text
