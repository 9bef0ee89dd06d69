"""Whole texts: read, changed, and held against what was meant before anybody gets them."""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from probe import __version__
from probe.inject import live, record
from probe.inject.changes import Change, KeyPath, Made, Put, apply, index_of, keep, reached, write
from probe.inject.data import TooLarge, data_of, same
from probe.inject.plan import Options, Passed, Plan, Unsuitable, plan
from probe.inject.record import PLACE, Record, Wishes
from probe.inject.splice import Editor, Strange
from probe.lint.check import lead
from probe.lint.view import View
from probe.manifests import (
    NotYaml,
    Object,
    Pod,
    Value,
    documents,
    objects,
    pods,
    repeated,
    services,
)

BEYOND = "is written in a form that cannot be changed in place"
OTHER = "the text would say something else"


class Page(NamedTuple):
    """A text, and the name of its file."""

    file: str
    text: str


class Remark(NamedTuple):
    """What is said about one object."""

    pod: Pod
    what: str
    level: str = ""
    """`refused` or `passed`; empty for a choice that was made."""


class Done(NamedTuple):
    """What came of it: the pages in their order, what is to be said, who was changed and how."""

    pages: tuple[Page, ...]
    remarks: tuple[Remark, ...]
    plans: tuple[tuple[Pod, Plan], ...]


class PodAt(NamedTuple):
    """A pod, with the document it stands in and the number it has in its file."""

    pod: Pod
    number: int
    shared: frozenset[Value]


class PageRead(NamedTuple):
    """What a page says."""

    objects: tuple[Object, ...]
    pods: tuple[PodAt, ...]
    documents: int

    def has_the_objects_of(self, other: "PageRead") -> bool:
        mine = [(item.title, item.file) for item in self.objects]
        theirs = [(item.title, item.file) for item in other.objects]
        numbers = (self.documents, len(self.pods))
        return mine == theirs and numbers == (other.documents, len(other.pods))


@lru_cache(maxsize=4)
def read(page: Page) -> PageRead:
    """Raises NotYaml. The same text is read again and again: as it was, as it is to be, and as it
    is when that is taken back.
    """
    items: list[Object] = []
    found: list[PodAt] = []
    roots = list(documents(page.text))
    for document in roots:
        shared = frozenset(repeated(document))
        for item in objects(page.file, document):
            items.append(item)
            found += [PodAt(pod, len(found) + at, shared) for at, pod in enumerate(pods(item))]
    return PageRead(tuple(items), tuple(found), len(roots))


# --- uninject


def uninject(pages: Iterable[Page]) -> Done:
    """Take back what inject did. Raises NotYaml."""
    remarks: list[Remark] = []
    plain = []
    for page in pages:
        cleaned = Page(page.file, live.clean(page.text, read(page).objects))
        taken, _ = take_back(cleaned, remarks)
        plain.append(taken)
    return Done(tuple(plain), tuple(remarks), ())


def take_back(page: Page, remarks: list[Remark]) -> tuple[Page, dict[int, Record]]:
    """The page without what inject did; and by the number of each pod the record of it."""
    editor = Editor(page.text)
    found: dict[int, Record] = {}
    for pod, number, _ in read(page).pods:
        try:
            told = record.read(pod.template)
            if told is None:
                continue
            with editor.together():
                left = record.take_back(editor, pod.template, told, editor.style(pod.template))
        except (ValueError, Strange) as error:
            remarks.append(Remark(pod, str(error), "refused"))
            continue
        found[number] = remembered(pod, told)
        remarks += [Remark(pod, what) for what in left]
    try:
        result = Page(page.file, editor.edited())
        if not read(result).has_the_objects_of(read(page)):
            raise Strange(OTHER)
    except (Strange, NotYaml) as error:
        what = f"{BEYOND}: {error}"
        remarks += [Remark(one.pod, what, "refused") for one in read(page).pods]
        return page, {}
    return result, found


def remembered(pod: Pod, told: Record) -> Record:
    """The record with what was added by hand to the arguments of the sidecar."""
    value = at(pod.template, told.container)
    args = value.get("args").words() if value else ()
    by_hand = tuple(word for word in args if word not in ("serve", *told.args))
    further = (*told.told.further, *by_hand)
    return told._replace(told=told.told._replace(further=further))


def at(template: Value, path: KeyPath) -> Value | None:
    parent, missing = reached(template, path)
    index = index_of(parent, missing) if missing == path else None
    return parent.parts()[index] if index is not None else None


# --- inject


def inject(pages: Sequence[Page], options: Options) -> Done:
    """Give every pod the sidecar, or say why not. Raises NotYaml."""
    remarks: list[Remark] = []
    plain: list[Page] = []
    before: dict[tuple[str, int], tuple[Record, str]] = {}
    running: set[tuple[str, int]] = set()
    for page in pages:
        running |= {
            (page.file, one.number) for one in read(page).pods if live.is_live(one.pod.owner)
        }
        cleaned = Page(page.file, live.clean(page.text, read(page).objects))
        images = {one.number: image_of(one.pod) for one in read(cleaned).pods}
        taken, records = take_back(cleaned, remarks)
        plain.append(taken)
        before |= {(page.file, n): (told, images[n]) for n, told in records.items()}
    everything = [(page, read(page).pods) for page in plain]
    items = [item for page in plain for item in read(page).objects]
    leading = lead(services(items), [one.pod for _, found in everything for one in found])
    plans: list[tuple[Pod, Plan]] = []
    results = []
    for page, found in everything:
        jobs: list[PodEdit] = []
        for one in found:
            view = View(one.pod, tuple(leading.get(one.pod.template, ())), {})
            place = page.file, one.number
            own = with_memory(options, before.get(place), live=place in running)
            try:
                jobs.append(PodEdit(one, plan(view, own), own))
            except Unsuitable as error:
                remarks.append(Remark(one.pod, str(error), "refused"))
            except Passed as error:
                remarks.append(Remark(one.pod, str(error), "passed"))
        result, done = make(page, jobs, remarks)
        for job in done:
            remarks += [Remark(job.at.pod, what) for what in job.plan.notes]
        results.append(result)
        plans += [(job.at.pod, job.plan) for job in done]
    return Done(tuple(results), tuple(remarks), tuple(plans))


def image_of(pod: Pod) -> str:
    """The image of the sidecar that inject put there."""
    try:
        told = record.read(pod.template)
    except ValueError:
        return ""
    value = at(pod.template, told.container) if told else None
    return value.get("image").text if value else ""


def with_memory(options: Options, before: tuple[Record, str] | None, *, live: bool) -> Options:
    """What the user says now, else what was said when the pod was injected before."""
    if before is None:
        return options._replace(live=live)
    told, image = before
    now = options.told
    return Options(
        Wishes(
            now.ports or (() if now.urls else told.told.ports),
            now.urls or (() if now.ports else told.told.urls),
            now.further or told.told.further,
        ),
        options.image or of_this_version(image),
        options.classic or told.container[1] == "containers",
        live or told.live,
    )


def of_this_version(image: str) -> str:
    """The same name with the tag of this version; empty for none."""
    head, slash, last = image.partition("@")[0].rpartition("/")
    name = last.partition(":")[0]
    return f"{head}{slash}{name}:{__version__}" if name else ""


class PodEdit(NamedTuple):
    """One pod that is to be changed."""

    at: PodAt
    plan: Plan
    options: Options


def make(page: Page, jobs: Sequence[PodEdit], remarks: list[Remark]) -> tuple[Page, list[PodEdit]]:
    """The page with the changes made; what cannot be made is refused, and all else is made."""
    try:
        return edited(page, jobs), list(jobs)
    except (Strange, TooLarge, NotYaml):
        possible: list[PodEdit] = []
        for job in jobs:
            try:
                edited(page, [job])
            except (Strange, TooLarge, NotYaml) as error:
                remarks.append(Remark(job.at.pod, f"{BEYOND}: {error}", "refused"))
            else:
                possible.append(job)
    return edited(page, possible), possible


def edited(page: Page, jobs: Sequence[PodEdit]) -> Page:
    """The changed page, after it was seen that it says what it is to say, and that uninject gives
    back every byte. Raises Strange, TooLarge and NotYaml.
    """
    editor = Editor(page.text)
    meant = {job.at.number: write_job(editor, job) for job in jobs}
    result = Page(page.file, editor.edited())
    found = read(result)
    if not found.has_the_objects_of(read(page)) or not all(
        same(data, data_of(found.pods[number].pod.template)) for number, data in meant.items()
    ):
        raise Strange(OTHER)
    if take_back(result, [])[0] != page:
        raise Strange("it could not be taken back")
    return result


def write_job(editor: Editor, job: PodEdit) -> object:
    """Make the changes to one pod; the data that its template is to be."""
    template = job.at.pod.template
    style = editor.style(template)
    for change in job.plan.changes:
        require_alone(template, change.path, job.at.shared)
    made = write(editor, template, job.plan.changes, style)
    parent, missing = reached(template, PLACE)
    require_alone(template, PLACE, job.at.shared)
    above = tuple(PLACE[:length] for length in range(len(missing), len(PLACE)))
    index = index_of(parent, missing)
    null = () if index is None else (keep(editor, parent, index, missing),)
    whole = Made((*made.added, PLACE), (*made.made, *above), (*made.kept, *null))
    values = record.values_of(template, whole)
    text = record.write(
        Record(
            __version__,
            job.options.told,
            job.plan.container,
            job.plan.args,
            job.options.live,
            whole,
            values,
        )
    )
    annotation: Change = Put(PLACE, text)
    write(editor, template, [annotation], style)
    return apply([*job.plan.changes, annotation], data_of(template))


def require_alone(template: Value, path: KeyPath, shared: frozenset[Value]) -> None:
    """Raises Strange where the change would be one of something else as well."""
    parent, missing = reached(template, path)
    index = index_of(parent, missing)
    there = [template, parent]
    if index is not None:
        there += anchored(parent.parts()[index])
    for value in there:
        if value in shared:
            raise Strange(f"line {value.line} is an anchor, or stands below one, that others use")


def anchored(value: Value) -> Iterator[Value]:
    """What is written in it, as far as it is written there and not elsewhere."""
    yield value
    for part in value.parts():
        if part.marks.own >= part.marks.after_key and part.key != "<<":
            yield from anchored(part)
