"""What inject does not write stays as it was, byte by byte, and all of it comes back."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.inject import record
from probe.inject.changes import Original
from probe.inject.data import data_of, same
from probe.inject.edit import Done, Page, inject, uninject
from probe.inject.plan import Options
from probe.manifests import documents, objects, pods
from probe.manifests.nodes import Loader
from tests.inject.forms import manifest
from tests.lint.corpus import FILES, FOLDER

FORMS = Path(__file__).parent / "forms"


def read(path: Path) -> str:
    """With its line breaks as they are."""
    return path.read_bytes().decode()


def injected(text: str) -> Done:
    return inject([Page("web.yaml", text)], Options())


def taken_back(text: str) -> str:
    return uninject([Page("web.yaml", text)]).pages[0].text


def levels(done: Done) -> list[str]:
    return [remark.level for remark in done.remarks if remark.level]


NOT_CHANGED = {
    "cronjob.yaml": ["passed"],
    "custom-resources.yaml": ["passed"],
    "exec-in-many.yaml": ["passed"],
    "hosts.yaml": ["passed", "refused"],
    "job-native-sidecar.yaml": ["passed"],
    "knative.yaml": ["refused"],
    "names-missing.yaml": ["refused"],
    "node-exporter.yaml": ["refused"],
    "pods.json": ["passed", "passed"],
} | {name: ["passed"] for name in FILES if name.startswith("sidecar-")}
LIVE = "get-list.json"
"""Read from a cluster: what that added is gone for good."""
ADDED_BY_A_CLUSTER = (
    *("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "status"),
    *("last-applied", "namespace"),
)


@pytest.mark.parametrize("name", FILES)
def test_the_corpus_of_lint(name: str) -> None:
    text = read(FOLDER / name)
    done = injected(text)
    after = done.pages[0].text
    assert (after == text) is (name in NOT_CHANGED)
    if name in NOT_CHANGED:
        assert levels(done) == NOT_CHANGED[name]
    back = taken_back(after)
    if name == LIVE:
        lines = text.splitlines()
        lost = [line for line in lines if line not in back.splitlines()]
        assert lost
        for line in lost:
            assert any(word in line for word in ADDED_BY_A_CLUSTER), line
    else:
        assert back == text
    assert injected(after).pages == done.pages


def test_enough_files_are_changed() -> None:
    forms = list(FORMS.iterdir())
    assert len(FILES) - len(NOT_CHANGED) + len(forms) >= 45


def files_of_forms() -> list[Path]:
    return sorted(FORMS.iterdir())


@pytest.mark.parametrize("path", files_of_forms(), ids=lambda path: path.name)
def test_forms_that_are_met(path: Path) -> None:
    text = read(path)
    done = injected(text)
    assert not levels(done), done.remarks
    after = done.pages[0].text
    assert "accept-probe/injected" in after
    assert taken_back(after) == text
    assert injected(after).pages == done.pages
    assert_nothing_is_lost(text, after)


def assert_nothing_is_lost(before: str, after: str) -> None:
    """Every line is there still, in its order, but what is kept in the annotation."""
    kept = "".join(original.text for original in originals(after))
    breaks = "\r\n" if "\r\n" in before else "\n"
    # A dash stays for the next key where the first of an item goes.
    lines = [line.lstrip(" -") for line in after.split(breaks)]
    for line in (line.lstrip(" -") for line in before.split(breaks)):
        if line.rstrip() in kept or any(sign in line for sign in "{}[]"):
            continue
        assert line in lines, line
        del lines[: lines.index(line) + 1]


def originals(text: str) -> Iterator[Original]:
    for document in documents(text):
        for item in objects("web.yaml", document):
            for pod in pods(item):
                if found := record.read(pod.template):
                    yield from found.made.kept


@settings(max_examples=150, deadline=None)
@given(st.integers(0))
def test_any_form(seed: int) -> None:
    text = manifest(Random(seed))
    done = injected(text)
    assert not levels(done), done.remarks
    after = done.pages[0].text
    assert taken_back(after) == text
    assert injected(after).pages == done.pages


@settings(max_examples=60, deadline=None)
@given(st.integers(0))
def test_what_went_through_a_cluster_comes_back_in_its_meaning(seed: int) -> None:
    """kubectl writes everything anew: keys in their order, no comments, and no form of ours."""
    text = manifest(Random(seed))
    after = injected(text).pages[0].text
    for write in (anew, as_json):
        written = write(after)
        back = taken_back(written)
        assert "probe:0" not in back
        assert all(map(same, plain(back), plain(text)))
        assert plain_json(injected(written).pages[0].text) == plain_json(after)


def anew(text: str) -> str:
    return yaml.safe_dump_all(yaml.load_all(text, Loader), sort_keys=True)


def as_json(text: str) -> str:
    items = list(yaml.load_all(text, Loader))
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=4)


def plain(text: str) -> list[object]:
    """The objects, however they are put into a stream."""
    found: list[object] = []
    for document in documents(text):
        found += [data_of(item.root) for item in objects("web.yaml", document)]
    return found


def plain_json(text: str) -> list[str]:
    return [json.dumps(without_record(item), sort_keys=True) for item in plain(text)]


def without_record(item: object) -> object:
    """But for what is kept, which is kept in the form in which it stood."""
    if isinstance(item, dict):
        return {key: without_record(of) for key, of in item.items() if "injected" not in key}
    return [without_record(of) for of in item] if isinstance(item, list) else item


@settings(max_examples=40, deadline=None)
@given(st.integers(0))
def test_what_is_in_a_cluster_already_changes_nothing_there(seed: int) -> None:
    """Not even the record: another pod template is a rollout."""
    first = injected(anew(manifest(Random(seed)))).pages[0].text
    again = injected(anew(first)).pages[0].text
    assert all(map(same, plain(again), plain(first)))
