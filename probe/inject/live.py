"""What a cluster adds to an object, and no file should have."""

from collections.abc import Iterable

from probe.inject.splice import Editor
from probe.manifests import Object, Value

OF_METADATA = (
    *("uid", "resourceVersion", "generation", "creationTimestamp", "selfLink"),
    "managedFields",
)
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def is_live(item: Object) -> bool:
    """Whether it was read from a cluster, rather than written."""
    return bool(item.root.get("metadata", "uid").text)


def clean(text: str, items: Iterable[Object]) -> str:
    """The text without what the cluster added to live objects."""
    editor = Editor(text)
    for item in items:
        if not is_live(item):
            continue
        drop(editor, item.root, ("status",))
        metadata = item.root.get("metadata")
        annotations = metadata.get("annotations")
        alone = [part.key for part in annotations.parts()] == [LAST_APPLIED]
        drop(editor, metadata, (*OF_METADATA, *(("annotations",) if alone else ())))
        if not alone:
            drop(editor, annotations, (LAST_APPLIED,))
    return editor.edited()


def drop(editor: Editor, mapping: Value, keys: tuple[str, ...]) -> None:
    found = [index for index, part in enumerate(mapping.parts()) if part.key in keys]
    if found:
        editor.drop(mapping, found)
