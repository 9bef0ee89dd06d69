"""What is remembered from document to document."""

from probe.watch.document import Changed, History, Moment, read
from probe.watch.scene import CHANGES, POINTS, Scene, extend, hear, merge, miss
from tests.watch.scenes import document, known, scene, stalled, target


def points(last: int, count: int) -> History:
    """Told at a moment: the points up to `last`, each with its number for a queue."""
    numbers = tuple(range(last - count + 1, last + 1))
    return History(1.0, last, "h" * count, numbers, (None,) * count)


def test_a_tail_is_joined_to_what_is_known() -> None:
    joined = extend(points(100, 50), points(103, 10))
    assert joined == points(103, 53)
    assert extend(joined, points(103, 10)) == joined


def test_tails_add_up_beside_a_sidecar_that_has_just_started() -> None:
    """What is known is no longer than what is told then."""
    heard = History()
    for last in range(8, 30):
        heard = extend(heard, points(last, 8))
    assert heard == points(29, 29)


def test_no_more_is_kept_than_ten_minutes() -> None:
    joined = extend(points(1000, POINTS), points(1001, 10))
    assert joined == points(1001, POINTS)


def test_what_does_not_join_begins_anew() -> None:
    """After a gap, after a restart of the sidecar, with another step."""
    for told in (points(200, 10), points(5, 5), points(101, 10)._replace(step=5.0)):
        assert extend(points(100, 50), told) is told
    assert extend(History(), points(100, 50)) == points(100, 50)


def test_transitions_are_told_once_and_the_newest_first() -> None:
    early, late = (Changed(Moment(f"2026-11-26T14:0{n}:00Z"), "8080", "suspect") for n in (1, 2))
    assert merge((early,), (late, early)) == (late, early)
    again = early._replace(when=early.when._replace(seconds_ago=9.0))
    assert merge((early,), (again,)) == (early,)
    many = tuple(Changed(Moment(f"{n:04}"), "8080", "suspect") for n in range(2 * CHANGES))
    assert merge((), many) == many[: CHANGES - 1 : -1]


def test_a_target_that_is_not_told_any_more_is_forgotten() -> None:
    before = scene(target("8080"), target("8081"))
    after = hear(before, known(target("8081")), 1.0)
    assert set(after.histories) == {"8081"}


def test_a_sidecar_that_comes_back_is_said_to() -> None:
    lost = miss(scene(stalled()), "no sidecar answers", 10.0)
    lost = miss(lost, "no sidecar answers", 11.0)
    again = hear(lost, known(stalled()), 14.0)
    assert again.lost == ""
    assert again.changes[0].text == "the sidecar answers again after 4 s"
    assert again.changes[0].target == ""


def test_one_that_was_restarted_meanwhile_is_said_to() -> None:
    """Also where its absence was too short to be noticed."""
    began = {"at": "2026-11-26T14:02:30.000Z", "seconds_ago": 1.0}
    restarted = known(target("8080"), started_at=began, transitions=[])
    again = hear(scene(stalled()), restarted, 14.0)
    told = "the sidecar was restarted, and answers: its memory begins anew"
    assert again.changes[0].text == told
    # What happened before it is remembered here, if not there.
    assert [change.after for change in again.changes[1:]] == ["unhealthy", "suspect", "healthy"]


def test_fields_of_another_version_are_passed_over() -> None:
    told = document(target("8080", colour="mauve"), weather={"rain": True})
    assert read(told).targets[0].name == "8080"
    assert hear(Scene("here"), read(told), 0.0).document == read(told)
