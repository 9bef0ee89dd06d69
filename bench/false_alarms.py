"""An hour of what must not alarm: each load beside a sidecar and a kubelet, MINUTES=60 of it.

A load has one of two bars. `ready`: the application serves whoever comes, so it may never be not
ready. `live`: it takes no more for now, or is away, so it may be out of rotation, but is never to
be restarted. All loads run side by side, each in a network namespace of its own, and each with a
share of a core for server and clients together, which they use up: so both are throttled, as in a
pod at its limit.
"""

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from signal import SIGCONT, SIGHUP, SIGKILL, SIGSTOP, SIGTERM, SIGUSR2, Signals
from typing import Any, NamedTuple

from bench.measure import table
from bench.share import share, waited
from probe.sidecar import recording
from tests.conftest import fresh_namespace
from tests.faults.harness import App, Lines, Sidecar
from tests.support import until

MINUTES = float(os.environ.get("MINUTES", "60"))

PORT = 8080
CORES = 0.05
"""Of one core, for server and clients of a load. There are some twenty loads."""

STARVED = 0.02
"""Of one core, for a sidecar that is starved: the 20m of a very tight pod."""

KUBELET_WAITS = 1.0
KUBELET_COUNTS = 3
"""Seconds, and failures in a row after which it acts: its defaults."""

PROGRAMS = "/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin"


class Missing(Exception):
    """A program that this load takes is not installed."""


class Scene:
    """One load: the server, its clients, the sidecar beside them, and what it says."""

    def __init__(self, folder: Path, seconds: float, stack: ExitStack) -> None:
        self.folder = folder
        self.recording = folder / "recording"
        self.stack = stack
        self.seconds = seconds
        self.own = stack.enter_context(share(CORES))
        self.sidecar: Sidecar | None = None
        self.done: Counter[str] = Counter()
        """What was done to the server, and how often."""
        self.suspected = 0
        self.out: list[str] = []
        """Why it was not ready."""
        self.out_for = 0.0
        self._out_since: float | None = None
        self.restarts: list[str] = []
        """Why it was to be restarted."""
        self.late = self.late_in_a_row = 0
        """Answers of /live that did not come in time."""
        self.answers = 0
        self.began = self.end = 0.0
        self._asked_at = 0.0
        self._waited = deque([0.0], maxlen=10)
        """Seconds that the sidecar has waited for a core, of each of the last ten."""
        self._random = random.Random(folder.name)

    # --- who takes part

    def serve(self, program: str, *arguments: str | Path, port: int = PORT) -> "Server":
        """A server, once it listens."""
        found = shutil.which(program) or shutil.which(program, path=PROGRAMS)
        if found is None:
            raise Missing(program)
        log = self.stack.enter_context((self.folder / "server.log").open("ab"))
        server = Server((*self.own, found, *map(str, arguments)), log)
        self.stack.callback(server.end)
        until(lambda: server.ended() or listens(port), f"{program} on {port}")
        if server.ended():
            raise Missing(f"{program}: {(self.folder / 'server.log').read_text()[-200:].strip()}")
        return server

    def application(self, *options: str) -> App:
        """The embedded one, of the tests."""
        app = App("--port", str(PORT), *options)
        self.stack.callback(app.end)
        self.stack.callback(app.resume)
        return app

    def clients(self, count: int, *options: str) -> None:
        """From now until the end."""
        self.stack.enter_context(self._clients(count, options))

    @contextmanager
    def _clients(self, count: int, options: Sequence[str]) -> Iterator[None]:
        command = (sys.executable, "-m", "bench.clients", str(PORT), str(count), *options)
        process = subprocess.Popen([*self.own, *command], stdout=subprocess.PIPE)
        assert process.stdout
        lines = Lines(process.stdout.fileno())
        try:
            assert lines.next(60) == "flowing"
            yield
        finally:
            process.terminate()
            self.answers += int(lines.next(60) or 0)
            process.kill()
            process.communicate()

    def watch(self, target: str = f"http://:{PORT}", within: Sequence[str] = ()) -> None:
        """Begin, once the sidecar finds it healthy; `within` a share of a core, or all of one."""
        options = ("--target", target, "--record", str(self.recording))
        within = within or self.stack.enter_context(share(1))
        self.sidecar = Sidecar(*options, wrapper=within)
        self.stack.callback(self.sidecar.end)
        self.sidecar.until(60, condition="healthy", ready=True)
        self.began = self._asked_at = time.monotonic()
        self.end = self.began + self.seconds

    # --- what happens

    def goes_on(self, least: float = 1.0, most: float = 0.0) -> bool:
        """Wait so many seconds, or at random up to `most`; False at the end. See what is said."""
        assert self.sidecar
        now = time.monotonic()
        until_then = min(now + self._random.uniform(least, max(least, most)), self.end)
        while (now := time.monotonic()) < until_then:
            wait = min(until_then, self._asked_at + 1) - now
            event = self.sidecar.next(max(wait, 0))
            if event is not None:
                self._hear(event)
            elif self.sidecar.process.poll() is not None:
                self.restarts.append(f"the sidecar ended with {self.sidecar.process.poll()}")
                return False
            if time.monotonic() >= self._asked_at + 1:
                self._ask()
        return now < self.end

    def play_out(self) -> None:
        while self.goes_on():
            pass

    def freeze_and_thaw(self, freeze: Callable[[], None], thaw: Callable[[], None]) -> None:
        """Now and then, to the end; each time for less than it takes to be a stall."""
        while self.goes_on(1, 6):
            freeze()
            self.done["pauses"] += 1
            try:
                self.goes_on(0.2, 2.8)
            finally:
                thaw()

    def _hear(self, event: dict[str, Any]) -> None:
        if event.get("event") != "transition":
            if "exception" in event:
                self.restarts.append(f"a defect: {event['exception'].splitlines()[-1]}")
            return
        now = time.monotonic()
        self.suspected += event["condition"] == "suspect"
        if not event["ready"] and self._out_since is None:
            self._out_since = now
            self.out.append(self._told(event["message"]))
        if event["ready"] and self._out_since is not None:
            self.out_for += now - self._out_since
            self._out_since = None
        if not event["live"]:
            self.restarts.append(self._told(f"not live: {event['message']}"))

    def _ask(self) -> None:
        """As kubelet's liveness probe asks, once a second."""
        assert self.sidecar
        self._asked_at = time.monotonic()
        with suppress(FileNotFoundError):
            self._waited.append(waited(self.sidecar.process.pid))
        answer = b""
        try:
            with socket.create_connection(
                ("127.0.0.1", self.sidecar.port), KUBELET_WAITS
            ) as client:
                client.sendall(b"GET /live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                answer = client.recv(4096)
        except OSError:
            self.late += 1
        self.late_in_a_row = 0 if answer else self.late_in_a_row + 1
        if self.late_in_a_row == KUBELET_COUNTS:
            self.restarts.append(self._told(f"/live not answered {KUBELET_COUNTS} times in a row"))

    def _told(self, what: str) -> str:
        without = waited(self.sidecar.process.pid) - self._waited[0] if self.sidecar else 0.0
        at = time.monotonic() - self.began
        return f"at {at:.0f} s, with {without:.1f} of the last 10 s without a core: {what}"

    def close(self) -> None:
        if self._out_since is not None:
            self.out_for += time.monotonic() - self._out_since


class Server:
    """A real server in a process group of its own, since some go on under another process."""

    def __init__(self, command: Sequence[str], log: Any) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )

    def ended(self) -> bool:
        return self.process.poll() is not None

    def signal(self, number: Signals) -> None:
        """To the first process alone."""
        self.process.send_signal(number)

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, SIGKILL)
        self.process.wait()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


# --- servers


def nginx(scene: Scene, *, options: str = "", connections: int = 512, more: str = "") -> Server:
    here = scene.folder
    (here / "nginx.conf").write_text(f"""
        user root; daemon off; worker_processes 2; pid {here}/pid; error_log {here}/error.log;
        events {{ worker_connections {connections}; }}
        http {{ client_body_temp_path {here}/body; proxy_temp_path {here}/proxy;
        fastcgi_temp_path {here}/fastcgi; uwsgi_temp_path {here}/uwsgi; scgi_temp_path {here}/scgi;
        access_log off; keepalive_requests 100000; {more}
        server {{ listen 127.0.0.1:{PORT} {options}; return 200 "ok"; }} }}""")
    return scene.serve("nginx", "-p", here, "-c", here / "nginx.conf", "-e", here / "error.log")


def haproxy(scene: Scene, *, takes: str, maxconn: int = 2000, master: bool = False) -> Server:
    """One that answers by itself, each after `takes`."""
    (scene.folder / "haproxy.cfg").write_text(f"""
global
    maxconn {maxconn}
    stats socket {scene.folder}/stats level admin expose-fd listeners
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 5s
    timeout tarpit {takes}
frontend web
    bind 127.0.0.1:{PORT}
    backlog 1024
    http-request {"tarpit deny_status 200" if takes != "0" else "return status 200"} {LF_OK}
""")
    how = ("-W", "-S", scene.folder / "master") if master else ("-db",)
    return scene.serve("haproxy", *how, "-f", scene.folder / "haproxy.cfg")


LF_OK = "content-type text/plain string ok"

WSGI = """
import time

def application(environ, start_response):
    time.sleep(0.02)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]
"""


def gunicorn(scene: Scene, *options: str) -> Server:
    (scene.folder / "web.py").write_text(WSGI)
    words = ("-m", "gunicorn", "--chdir", scene.folder, "--worker-tmp-dir", scene.folder)
    where = ("--bind", f"127.0.0.1:{PORT}", "--no-control-socket", "--graceful-timeout", "5")
    return scene.serve(sys.executable, *words, *where, *options, "web:application")


NODE = """
require("http").createServer((request, response) => {
    if (Math.random() < 0.01) {
        const end = Date.now() + 200 + Math.random() * 2300;
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, end - Date.now());
    }
    response.end("ok");
}).listen({port: %d, host: "127.0.0.1"});
"""


# --- loads


def play_keep_alive(scene: Scene) -> None:
    nginx(scene)
    scene.watch()
    scene.clients(100, "--keep")
    scene.play_out()


def play_one_request_each(scene: Scene) -> None:
    nginx(scene)
    scene.watch()
    scene.clients(100)
    scene.play_out()


def play_pool(scene: Scene) -> None:
    """Its workers end after a while, and others take their place."""
    recycled = ("--max-requests", "300", "--max-requests-jitter", "50")
    gunicorn(scene, "--workers", "2", *recycled)
    scene.watch()
    scene.clients(20)
    scene.play_out()


def play_too_many(scene: Scene) -> None:
    """More than it accepts, for ever: the queue is full."""
    app = scene.application("--backlog", "16")
    scene.watch()
    app.tell("pace 0.1")
    scene.clients(60, "--pause", "0.2")
    scene.play_out()


def play_slow(scene: Scene) -> None:
    app = scene.application("--backlog", "128")
    scene.watch()
    app.tell("pace 0.2")
    scene.clients(3)
    scene.play_out()


def play_bursts(scene: Scene) -> None:
    app = scene.application("--backlog", "5")
    scene.watch()
    app.tell("pace 0.02")
    scene.clients(40, "--burst", "3")
    scene.play_out()


def play_nginx_bursts(scene: Scene) -> None:
    nginx(scene, options="backlog=8")
    scene.watch()
    scene.clients(100, "--burst", "5")
    scene.play_out()


def play_pauses(scene: Scene) -> None:
    """As a collector of garbage stops the world: for less than three seconds."""
    app = scene.application("--backlog", "64")
    scene.watch()
    scene.clients(4, "--pause", "0.4")
    scene.freeze_and_thaw(app.stop, app.resume)


def play_node(scene: Scene) -> None:
    (scene.folder / "server.js").write_text(NODE % PORT)
    scene.serve("node", scene.folder / "server.js")
    scene.watch()
    scene.clients(4, "--pause", "0.4")
    scene.play_out()


def play_redis(scene: Scene) -> None:
    """Frozen as a fork of a large instance, or a slow command, freezes it."""
    options = ("--bind", "127.0.0.1", "--save", "", "--dir", scene.folder)
    server = scene.serve("redis-server", "--port", str(PORT), *options)
    scene.watch(f"tcp://:{PORT}?send=PING\\r\\n&expect=PONG")
    scene.clients(20, "--pause", "0.5", "--say", r"PING\r\n", "--expect", r"PONG\r\n")
    scene.freeze_and_thaw(partial(server.signal, SIGSTOP), partial(server.signal, SIGCONT))


def reloading(start: Callable[[Scene], Server], number: Signals, pause: float) -> "Play":
    def play(scene: Scene) -> None:
        server = start(scene)
        scene.watch()
        scene.clients(5, "--pause", "0.2")
        while scene.goes_on(pause / 2, pause):
            server.signal(number)
            scene.done["reloads"] += 1

    return play


def play_upgrade(scene: Scene) -> None:
    """A new master takes over the listener of the old one, which ends gracefully."""
    pids = scene.folder / "pids"
    gunicorn(scene, "--pid", str(pids), "--workers", "2")
    scene.watch()
    scene.clients(5, "--pause", "0.2")
    successor = pids.with_suffix(".2")
    while scene.goes_on(10, 20):
        old = int(pids.read_text())
        os.kill(old, SIGUSR2)
        until(successor.exists, "the new gunicorn")
        scene.goes_on(3)
        os.kill(old, SIGTERM)
        until(lambda: not successor.exists() and pids.exists(), "the end of the old gunicorn")
        scene.done["upgrades"] += 1


def play_handover(scene: Scene) -> None:
    """The next one listens on the same port, and then the one before closes its listener."""
    app = scene.application("--reuseport")
    scene.watch()
    scene.clients(5, "--pause", "0.2")
    while scene.goes_on(2, 6):
        app.tell("replace")
        scene.done["hand-overs"] += 1


def play_restarts(scene: Scene) -> None:
    """It is away for a while: not listening, which is so."""
    server = nginx(scene)
    scene.watch()
    scene.clients(5, "--pause", "0.2")
    while scene.goes_on(8, 16):
        server.signal(SIGTERM)
        server.process.wait()
        scene.goes_on(0.5, 4)
        server = nginx(scene)
        scene.done["restarts"] += 1


def play_haproxy_full(scene: Scene) -> None:
    """As many requests at once as it may have, and as many clients that wait: all are served."""
    haproxy(scene, takes="500ms", maxconn=20)
    scene.watch()
    scene.clients(40, "--pause", "0.05")
    scene.play_out()


def play_haproxy_sessions(scene: Scene) -> None:
    """Sessions that last hold every place, and each is answered all the time."""
    haproxy(scene, takes="0", maxconn=20)
    scene.watch()
    scene.clients(30, "--keep", "--pause", "2")
    scene.play_out()


def play_memcached(scene: Scene) -> None:
    """At -c it leaves the queue alone: listen() with a backlog of 0."""
    options = ("-u", "root", "-l", "127.0.0.1", "-U", "0", "-t", "1", "-o", "no_maxconns_fast")
    scene.serve("memcached", *options, "-p", str(PORT), "-c", "24")
    scene.watch(f"tcp://:{PORT}?send=version\\r\\n&expect=VERSION")
    scene.clients(40, "--keep", "--pause", "2", "--say", r"version\r\n", "--expect", r"\r\n")
    scene.play_out()


def play_nginx_connections(scene: Scene) -> None:
    """More that keep their connection than it has worker_connections."""
    nginx(scene, connections=16)
    scene.watch()
    scene.clients(40, "--keep", "--pause", "1")
    scene.play_out()


def play_starved(scene: Scene) -> None:
    """The sidecar alone is throttled, and asked all the while."""
    nginx(scene)
    scene.watch(within=scene.stack.enter_context(share(STARVED)))
    scene.clients(10, "--pause", "0.2")
    scene.play_out()


def play_crowded(scene: Scene) -> None:
    """The sidecar shares the limit of its pod with a neighbour that spins."""
    nginx(scene)
    crowd = scene.stack.enter_context(share(2 * CORES))
    spinning = subprocess.Popen([*crowd, sys.executable, "-c", "while True: pass"])
    scene.stack.callback(spinning.wait)
    scene.stack.callback(spinning.kill)
    scene.watch(within=crowd)
    scene.clients(10, "--pause", "0.2")
    scene.play_out()


def play_idle(scene: Scene) -> None:
    scene.application()
    scene.watch()
    scene.play_out()


Play = Callable[[Scene], None]


class Load(NamedTuple):
    name: str
    bar: str
    play: Play


LOADS = (
    Load("nobody comes", "ready", play_idle),
    Load(
        "nginx: 100 clients on connections that are kept, as fast as it can",
        "ready",
        play_keep_alive,
    ),
    Load(
        "nginx: 100 clients, a connection for each request, as fast as it can",
        "ready",
        play_one_request_each,
    ),
    Load("gunicorn: 20 clients, 2 workers that are recycled", "ready", play_pool),
    Load("accepts one each 0.2 s", "ready", play_slow),
    Load("bursts of 40, backlog 5", "ready", play_bursts),
    Load("nginx: bursts of 100, backlog 8", "ready", play_nginx_bursts),
    Load("frozen for 0.2 to 2.8 s", "ready", play_pauses),
    Load("redis: frozen for 0.2 to 2.8 s", "ready", play_redis),
    Load("node: its loop is blocked for 0.2 to 2.5 s", "ready", play_node),
    Load("nginx reloads", "ready", reloading(nginx, SIGHUP, 6)),
    Load(
        "nginx reloads, reuseport",
        "ready",
        reloading(lambda scene: nginx(scene, options="reuseport"), SIGHUP, 6),
    ),
    Load(
        "haproxy reloads",
        "ready",
        reloading(lambda scene: haproxy(scene, takes="0", master=True), SIGUSR2, 10),
    ),
    Load(
        "gunicorn reloads",
        "ready",
        reloading(lambda scene: gunicorn(scene, "--workers", "2"), SIGHUP, 20),
    ),
    Load("gunicorn is upgraded", "ready", play_upgrade),
    Load("a new process takes over the port", "ready", play_handover),
    Load("haproxy: maxconn 20 in use, 20 more wait", "ready", play_haproxy_full),
    Load("the sidecar has 20m of CPU", "ready", play_starved),
    Load("the sidecar shares 100m with one that spins", "ready", play_crowded),
    Load("the process is ended, and started anew", "live", play_restarts),
    Load("more than it accepts", "live", play_too_many),
    Load("haproxy: maxconn 20 in sessions", "live", play_haproxy_sessions),
    Load("memcached: 24 of -c 24 in sessions", "live", play_memcached),
    Load("nginx: 16 worker_connections, 40 sessions", "live", play_nginx_connections),
)


class Seen(NamedTuple):
    """What was seen of one load."""

    load: Load
    scene: Scene
    lasted: float
    samples: int
    longest: str
    """The longest queue of a sample, of its limit."""
    failed: int
    """Round trips."""
    opened: int
    """Connections that the namespace took in."""

    @property
    def alarms(self) -> list[str]:
        out = self.scene.out if self.load.bar == "ready" else ()
        return [*(f"not ready: {why}" for why in out), *self.scene.restarts]


def see(load: Load, folder: Path) -> Seen:
    """Play one load in a namespace of its own. Raises Missing where it cannot be played."""
    with fresh_namespace(), ExitStack() as stack:
        scene = Scene(folder, 60 * MINUTES, stack)
        load.play(scene)
        lasted = time.monotonic() - scene.began
        opened = passive_opens()
        stack.close()
    scene.close()
    samples = failed = 0
    longest, limit = 0, 0
    for _, observation in recording.read(scene.recording)[1]:
        if observation.sample is not None:
            samples += 1
            for listener in observation.sample.listeners:
                if listener.length > longest:
                    longest, limit = listener.length, listener.limit or 0
        if observation.round_trip is not None:
            failed += observation.round_trip.stage is not None
    return Seen(
        load, scene, lasted, samples, f"{longest} of {limit}" if longest else "0", failed, opened
    )


def passive_opens() -> int:
    """Connections that were accepted by the kernel in this thread's network namespace."""
    lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(values[names.index("PassiveOpens")])


def main() -> None:
    """Print a row for each load; exit 1 at a false alarm."""
    root = Path(tempfile.mkdtemp(prefix="false-alarms-"))
    root.chmod(0o755)
    chosen = [load for load in LOADS if os.environ.get("LOAD", "") in load.name]
    seen: dict[str, Seen] = {}
    missing: dict[str, str] = {}

    def play(load: Load, folder: Path) -> None:
        folder.mkdir()
        try:
            seen[load.name] = see(load, folder)
        except Missing as error:
            missing[load.name] = f"not here: {error}"
        except BaseException as error:  # noqa: BLE001 - the other loads go on
            missing[load.name] = f"failed: {error!r}"

    threads = [
        threading.Thread(target=play, args=(load, root / str(number)))
        for number, load in enumerate(chosen)
    ]
    for thread in threads:
        thread.start()
        time.sleep(1)  # Starting is the dearest thing that any of them does.
    for thread in threads:
        thread.join()
    report([seen[load.name] for load in chosen if load.name in seen], missing)
    if missing or any(one.alarms for one in seen.values()):
        print(f"\nRecordings and logs are in {root}")
        raise SystemExit(any(one.alarms for one in seen.values()))
    shutil.rmtree(root)


def report(seen: Sequence[Seen], missing: dict[str, str]) -> None:
    """Print a table for each bar, what could not be played, and every false alarm."""
    for bar, what in (("ready", "not ready"), ("live", "restarted")):
        head = ("load", "lasted", "connections", "answers", "longest queue", "failed round trips")
        out = ("not ready",) if bar == "live" else ()
        rows: list[Sequence[str]] = [(*head, "suspected", *out, "/live late", "false alarms")]
        rows += [row(one) for one in seen if one.load.bar == bar]
        print(f"\nNever {what}:\n")
        table(rows)
    print()
    for name, why in missing.items():
        print(f"- {name}: {why}")
    for one in seen:
        for alarm in one.alarms:
            print(f"- {one.load.name}: {alarm}")


def row(seen: Seen) -> Sequence[str]:
    scene = seen.scene
    done = "".join(f", {count} {what}" for what, count in scene.done.items())
    out = (f"{scene.out_for / seen.lasted:.0%}",) if seen.load.bar == "live" else ()
    return (
        f"{seen.load.name}{done}",
        f"{seen.lasted / 60:.0f} min",
        *(f"{seen.opened:,}", f"{scene.answers:,}", seen.longest),
        *(f"{seen.failed}", f"{scene.suspected}", *out, f"{scene.late}", f"{len(seen.alarms)}"),
    )


if __name__ == "__main__":
    main()
