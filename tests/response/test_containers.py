"""Whom `--on-stall terminate` would end, in pods of real processes and namespaces."""

import json
from pathlib import Path

import pytest

from probe.response.containers import UnclearContainer, first_process
from tests.evidence.programs import Program
from tests.response.pod import USER, Pod, as_user, pod, python

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
"""Of clone(2): os.unshare is there since Python 3.12."""
NAMED = "import os, signal, socket, sys, time; open('/proc/self/comm', 'w').write({!r})\n"
LISTEN = "held = socket.create_server(('127.0.0.1', 8080))\n"
READY = "print('ready', flush=True); signal.pause()\n"


def named(name: str, *lines: str) -> tuple[str, ...]:
    """A program that calls itself so."""
    return python(NAMED.format(name) + "".join(lines))


ALONE = named("first", LISTEN, READY)
WITH_A_CHILD = named(
    "first",
    "if os.fork() == 0:\n open('/proc/self/comm', 'w').write('child'); ",
    LISTEN,
    " " + READY,
    "signal.pause()\n",
)
ORPHANED = named(
    "first",
    "if os.fork() == 0:\n if os.fork(): os._exit(0)\n",
    " while os.getppid() != 1: time.sleep(0.001)\n ",
    LISTEN,
    " " + READY,
    "os.wait(); signal.pause()\n",
)
OTHERWISE_MOUNTED = named(
    "first",
    "import ctypes\nif os.fork() == 0:\n open('/proc/self/comm', 'w').write('child'); ",
    f"assert ctypes.CDLL(None).unshare({CLONE_NEWUSER | CLONE_NEWNS}) == 0; ",
    LISTEN,
    " " + READY,
    "signal.pause()\n",
)

CHOOSE = """
import json
from probe.kernel import open_view
from probe.response.stalls import Declined
from probe.response.terminate import choose
view = open_view()
try:
    print(json.dumps(choose(view.listeners(8080)).first.comm))
except Declined as declined:
    print(json.dumps({"declined": str(declined)}))
"""


def asked(program: Program) -> str | dict[str, str]:
    answer: str | dict[str, str] = json.loads(program.line())
    return answer


def choose(there: Pod, user: int = USER) -> str | dict[str, str]:
    """What a sidecar in a container of its own would do."""
    sidecar = there.run(*python("print('ready', flush=True)\n" + CHOOSE), user=user)
    return asked(sidecar)


@pytest.mark.parametrize(
    "application",
    [
        pytest.param(ALONE, id="alone"),
        pytest.param(WITH_A_CHILD, id="by a child"),
        pytest.param(ORPHANED, id="by an orphan"),
        pytest.param(OTHERWISE_MOUNTED, id="with mounts of its own"),
    ],
)
def test_the_first_process_of_the_container_that_holds_the_listener(
    application: tuple[str, ...],
) -> None:
    with pod() as there:
        there.run(*named("bystander", READY))
        container = there.run(*application)
        there.execute(container, *named("executed", READY))
        assert choose(there) == "first"


def test_an_executed_process_that_holds_the_listener_is_not_the_first() -> None:
    with pod() as there:
        container = there.run(*named("first", READY))
        there.execute(container, *named("executed", LISTEN, READY))
        assert choose(there) == "first"


GIVE = (
    "door = socket.socket(socket.AF_UNIX); door.bind('\\0door'); door.listen()\n"
    "print('ready', flush=True)\n"
    "guest, _ = door.accept(); socket.send_fds(guest, [b'x'], [held.fileno()]); signal.pause()\n"
)
TAKE = (
    "door = socket.socket(socket.AF_UNIX); door.connect('\\0door')\n"
    "taken = socket.recv_fds(door, 1, 1)\n"
)


def declined(there: Pod, user: int = USER) -> str:
    answer = choose(there, user)
    assert isinstance(answer, dict), answer
    return answer["declined"]


def test_what_is_held_in_two_containers_is_nobodys_to_end() -> None:
    with pod() as there:
        there.run(*named("first", LISTEN, GIVE))
        there.run(*named("second", TAKE, READY))
        said = declined(there)
        assert said.startswith("the listener is held in 2 containers, by process ")
        assert "`first`" in said
        assert "`second`" in said


def test_the_sidecars_own_container_is_not_ended() -> None:
    with pod() as there:
        container = there.run(*ALONE)
        sidecar = there.execute(container, *python("print('ready', flush=True)\n" + CHOOSE))
        own = "the listener is held in the sidecar's own container"
        assert asked(sidecar) == {"declined": own}


def test_process_1_takes_no_signal_from_its_namespace() -> None:
    """So it is where the sidecar was put into the application's namespace, without a pause."""
    with pod(first=ALONE) as there:
        assert "is process 1, which nobody in its namespace can end" in declined(there)


def test_a_first_process_of_another_user_is_left_alone() -> None:
    """The process that holds the listener can be seen, and so can what was executed beside it."""
    other = [*as_user(USER), *named("child", LISTEN, READY)]
    child = f"if os.fork() == 0: os.execvp('setpriv', {other!r})\n"
    with pod() as there:
        container = there.run(*named("first", child, "signal.pause()\n"), user=0)
        there.execute(container, *named("executed", READY))
        assert "cannot be told" in declined(there)


def test_nobody_is_in_sight_for_another_user() -> None:
    with pod() as there:
        there.run(*ALONE)
        said = declined(there, user=USER + 1)
        assert f"it runs as {USER}:{USER}, this one as {USER + 1}:{USER + 1}" in said
        assert "give both containers the same securityContext" in said


def test_without_a_shared_process_namespace_nobody_is_in_sight() -> None:
    with pod() as there, pod() as elsewhere:
        there.run(*ALONE)
        said = declined(elsewhere)
        assert said.endswith("set shareProcessNamespace: true in the pod's spec")


def test_two_that_began_in_the_same_tick_are_not_told_apart(tmp_path: Path) -> None:
    for pid in (1, 7, 8):
        (tmp_path / f"{pid}/ns").mkdir(parents=True)
        (tmp_path / f"{pid}/stat").write_text(
            f"{pid} (web) S 0 {' 0' * 17}{100 + pid // 7}{' 0' * 30}"
        )
        (tmp_path / f"{pid}/ns/mnt").symlink_to("mnt:[2]" if pid > 1 else "mnt:[1]")
    with pytest.raises(
        UnclearContainer, match="process 7 `web` and process 8 `web` started at the same"
    ):
        first_process("mnt:[2]", 7, str(tmp_path))
