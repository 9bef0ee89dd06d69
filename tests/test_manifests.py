"""Where things stand in a text: what an editor of manifests relies on."""

import pytest

from probe.manifests import Value, documents, repeated

TEXT = """\
a: 1   # one
é: "😀"\r
list:
  - &x {b: [1, 2,], c: }  # flow
  - *x
text: |+
  kept

end: {<<: *x}
"""


def document(text: str) -> Value:
    (found,) = documents(text)
    return found


@pytest.mark.parametrize("text", [TEXT, TEXT.replace("\n", "\r\n"), f"# before\n--- \n{TEXT}"])
def test_marks_are_offsets_into_the_text(text: str) -> None:
    root = document(text)
    for part in root.parts():
        marks = part.marks
        assert text[marks.start : marks.after_key] == part.key
        assert part.text[:3] in text[marks.own : marks.end]
    flow = next(iter(root.get("list")))
    assert text[flow.marks.own : flow.marks.end] == "&x {b: [1, 2,], c: }"
    assert text[root.get("é").marks.own : root.get("é").marks.end] == '"😀"'


def test_an_alias_has_the_marks_of_what_it_stands_for() -> None:
    first, alias = document(TEXT).get("list")
    assert alias.marks == first.marks


def test_what_a_value_is() -> None:
    root = document(TEXT)
    assert [part.key for part in root.parts()] == ["a", "é", "list", "text", "end"]
    assert [part.key for part in root.get("end").parts()] == ["<<"]
    assert [part.kind for part in root.parts()] == ["int", "str", "seq", "str", "map"]
    assert [part.is_flow for part in root.parts()] == [False, False, False, False, True]
    assert [part.is_block_text for part in root.parts()] == [False, False, False, True, False]
    missing = root.get("no", "such")
    assert (missing.kind, missing.parts(), missing.key) == ("null", [], "")
    with pytest.raises(ValueError, match="nothing stands there"):
        _ = missing.marks


def test_what_aliases_and_merges_refer_to_is_repeated() -> None:
    root = document(TEXT)
    first, _ = root.get("list")
    below = {first.get("b"), *first.get("b"), *first.parts()}
    assert repeated(root) == {first} | below
    assert not repeated(document("a: &x {b: 1}"))
    itself = document("a: &a [*a]")
    assert repeated(itself) == {itself.get("a")}
    scalar = document("a: &a 1\nb: *a")
    assert repeated(scalar) == {scalar.get("b")}
