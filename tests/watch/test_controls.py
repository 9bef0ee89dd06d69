"""Keys, from the bytes of a terminal to what is shown."""

import pytest

from probe.watch.controls import Aim, Controls, Keyboard, Sheet, Wish, press
from probe.watch.scene import Scene
from tests.watch.scenes import scene, target

HERE = Scene("here")
UNTOUCHED = Controls()
NAMES = ("8080", "8081", "8082")


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"q", ["q"]),
        (b"jk", ["down", "up"]),
        (b"\x1b[A\x1b[B", ["up", "down"]),
        (b"\x1bOA\x1bOB", ["up", "down"]),
        (b"\x1b[5~\x1b[6~ ", ["page up", "page down", "page down"]),
        (b"\x1b[H\x1b[F\x1b[1~\x1b[4~", ["home", "end", "home", "end"]),
        (b"\r\n", ["enter", "enter"]),
        (b"\x7f\x1b[D", ["back", "back"]),
        (b"\x1b[1;5Aq", ["q"]),  # ctrl-up
        (b"\x1b[200~q\x1b[201~", ["q"]),  # what is pasted is typed
        (b"\x1bx", ["x"]),  # alt-x
        (b"\xc3\xa9\xff\x00\x01e", ["e"]),
        (b"\x1b[" + b"9" * 50 + b"~q", ["q"]),
        (b"\x1b[" + b"9" * 9, ["[", *"999999999"]),
    ],
)
def test_bytes_are_keys(data: bytes, keys: list[str]) -> None:
    assert Keyboard().feed(data) == keys


def test_a_sequence_may_come_in_pieces() -> None:
    keyboard = Keyboard()
    assert [keyboard.feed(piece) for piece in (b"\x1b", b"[", b"6", b"~")] == [
        *([], [], []),
        ["page down"],
    ]
    assert not keyboard.waits


def test_a_lone_escape_is_a_key_when_nothing_follows() -> None:
    keyboard = Keyboard()
    assert (keyboard.feed(b"\x1b"), keyboard.waits) == ([], True)
    assert (keyboard.idle(), keyboard.waits) == (["back"], False)
    # The beginning of something whose end was lost.
    assert (keyboard.feed(b"\x1b["), keyboard.idle()) == ([], [])


def pressed(*keys: str, controls: Controls = UNTOUCHED) -> tuple[Controls, Wish | None]:
    wish = None
    for key in keys:
        controls, wish = press(controls, key, HERE, NAMES, 10)
    return controls, wish


def test_the_choice_moves_and_stays_within() -> None:
    for keys, chosen in (
        (["down"], "8081"),
        (["down", "down", "down", "down"], "8082"),
        (["down", "up", "up"], "8080"),
        (["end"], "8082"),
        (["end", "home"], "8080"),
        (["page down"], "8082"),
        (["z"], ""),
    ):
        assert pressed(*keys)[0].selected == chosen
    assert press(Controls(), "down", HERE, (), 10)[0].selected == ""


def test_q_ends_it_and_p_stops_and_goes_on() -> None:
    assert pressed("q")[1] == Wish(Aim.QUIT)
    assert pressed("p")[0].paused is HERE
    assert pressed("p", "p")[0].paused is None


def test_what_takes_a_while_is_asked_for_once() -> None:
    controls, wish = pressed("down", "d")
    assert wish == Wish(Aim.DIAGNOSE, "8081")
    assert controls.busy == "diagnosing 8081"
    assert press(controls, "d", HERE, NAMES, 10)[1] is None
    assert press(controls, "e", HERE, NAMES, 10)[1] is None
    assert pressed("e")[1] == Wish(Aim.LIST)


def test_the_first_is_diagnosed_where_none_was_chosen_or_that_one_is_gone() -> None:
    assert pressed("enter")[1] == Wish(Aim.DIAGNOSE, "8080")
    assert pressed("d", controls=Controls(selected="9999"))[1] == Wish(Aim.DIAGNOSE, "8080")
    assert press(Controls(), "d", HERE, (), 10)[1] is None


def test_a_sheet_is_scrolled_and_left() -> None:
    sheet = Sheet("x", tuple("abcdefghijklmnopqrstuvwxyz"))
    controls = Controls(sheet=sheet)
    for keys, top in (
        (["down"], 1),
        (["up"], 0),
        (["page down"], 10),
        (["end"], 16),
        (["end", "page up"], 6),
        (["end", "home"], 0),
    ):
        moved, wish = pressed(*keys, controls=controls)
        assert moved.sheet is not None
        assert (moved.sheet.top, wish) == (top, None)
    assert pressed("q", controls=controls)[0].sheet is None
    assert pressed("back", controls=controls) == (Controls(), None)
    assert pressed("?", "q") == (Controls(), None)


def test_of_a_list_one_is_opened() -> None:
    """Each has two lines, under a heading."""
    ids = ("", *(identity for number in range(20) for identity in (f"id{number}", "")))
    sheet = Sheet("evidence", ids, ids, chosen=1)
    controls = Controls(sheet=sheet)
    assert pressed("enter", controls=controls)[1] == Wish(Aim.SHOW, "id0")
    assert pressed("down", "down", "enter", controls=controls)[1] == Wish(Aim.SHOW, "id2")
    assert pressed("end", "enter", controls=controls)[1] == Wish(Aim.SHOW, "id19")
    moved = pressed("end", controls=controls)[0].sheet
    assert moved is not None
    assert moved.top <= moved.chosen < moved.top + 10
    assert pressed("end", "home", "enter", controls=controls)[1] == Wish(Aim.SHOW, "id0")
    assert pressed("page down", "enter", controls=controls)[1] == Wish(Aim.SHOW, "id5")
    # What lies below is there again when it is left.
    opened = Controls(sheet=Sheet("id0", ("text",), below=sheet))
    assert pressed("q", controls=opened)[0].sheet is sheet


def test_without_anything_to_open_enter_does_nothing() -> None:
    controls = Controls(sheet=Sheet("evidence", ("no incident was kept",)))
    assert pressed("enter", controls=controls) == (controls, None)


def test_paused_is_the_scene_of_that_moment() -> None:
    shown = scene(target("8080"))
    assert press(Controls(), "p", shown, ("8080",), 10)[0].paused is shown
