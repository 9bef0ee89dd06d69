"""The servers, how each is started, and how its faults are brought about and healed in reality.

All listen on 8080 for traffic; those with `health` on 8081 too.
"""

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from probe.kernel import KernelView
from tests.faults.harness import APP, Lines, flowing
from tests.roundtrip.test_documented import JARS, PROGRAMS

PORT, HEALTH = 8080, 8081
HERE = Path(__file__).parent
TESTS = HERE.parents[1] / "tests"
BACKLOG = 50
LIMIT = 16
"""Connections that the servers with a limit are given."""
PATIENCE = 120.0
"""Seconds that a server may take to listen, on a machine that starts sixty at a time."""


class Missing(Exception):
    """What is not installed here."""


class Talk(NamedTuple):
    """How a server is asked that does not speak HTTP, and its name with who has a check for it."""

    send: bytes
    expect: bytes
    monit: str
    """What monit calls the protocol."""

    @property
    def target(self) -> str:
        """The target of `probe`."""
        send, expect = (words.decode().replace("\r\n", "\\r\\n") for words in self[:2])
        return f"tcp://:{PORT}?send={send}&expect={expect}"


class Server(NamedTuple):
    """A row. `command` is given a directory of its own; it raises Missing."""

    command: Callable[[Path], Sequence[str | Path]]
    version: Sequence[str]
    """The command that tells it."""
    faults: Mapping[str, "Bring"]
    talk: Talk | None = None
    """None: it speaks HTTP."""
    health: bool = False
    ready: str = ""
    """The first word that it prints, of a server that obeys words on stdin."""


class Running:
    """A server that listens, in a directory and in the network namespace of this thread."""

    def __init__(self, server: Server, place: Path, view: KernelView) -> None:
        self.server, self.place, self.view = server, place, view
        self._command = server.command(place)
        self._log = (place / "server.log").open("ab")
        self.start()

    def start(self) -> None:
        """Return when it listens. Raises RuntimeError when it ends, or takes too long."""
        obeys = bool(self.server.ready)
        self.process = subprocess.Popen(
            list(self._command),
            cwd=self.place,
            stdin=subprocess.PIPE if obeys else subprocess.DEVNULL,
            stdout=subprocess.PIPE if obeys else self._log,
            stderr=self._log,
            process_group=0,
        )
        if self.process.stdout is not None:
            self._lines = Lines(self.process.stdout.fileno())
            self._expect(self.server.ready)
        deadline = time.monotonic() + PATIENCE
        ports = (PORT, HEALTH) if self.server.health else (PORT,)
        while not all(self.view.listeners(port) for port in ports):
            if self.process.poll() is not None or time.monotonic() > deadline:
                log = (self.place / "server.log").read_text(errors="replace").strip()
                raise RuntimeError(f"it does not listen: {log[-300:]}")
            time.sleep(0.05)

    def tell(self, word: str, answer: str = "done") -> None:
        """Tell a server that obeys, and wait for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n".encode())
        self.process.stdin.flush()
        self._expect(answer)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process of the server."""
        os.killpg(self.process.pid, number)

    def end(self) -> None:
        """End it, whatever its state."""
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
        self.process.communicate()

    def close(self) -> None:
        """End it for good."""
        self.end()
        self._log.close()

    def restart(self) -> None:
        """As kubelet would: end it, start it again."""
        self.end()
        self.start()

    def _expect(self, answer: str) -> None:
        line = self._lines.next(PATIENCE)
        if line is None or line.split()[0] != answer:
            raise RuntimeError(f"it says {line!r}, not {answer!r}")


Bring = Callable[[Running], AbstractContextManager[None]]
"""Brings a fault about, and heals it at the end."""


def told(break_: str, heal: str) -> Bring:
    """Break and heal by a word on stdin."""

    @contextmanager
    def bring(running: Running) -> Iterator[None]:
        running.tell(break_)
        yield
        running.tell(heal)

    return bring


def dies(answer: str) -> Bring:
    """The accept thread dies; nothing heals that but a restart."""

    @contextmanager
    def bring(running: Running) -> Iterator[None]:
        running.tell("die", answer)
        yield
        running.restart()

    return bring


@contextmanager
def stopped(running: Running) -> Iterator[None]:
    """SIGSTOP, then SIGCONT."""
    running.signal(signal.SIGSTOP)
    yield
    running.signal(signal.SIGCONT)


def clients(count: int, says: bytes = b"", *, restart: bool = False) -> Bring:
    """Clients connect, say something or nothing, and stay until the fault is healed."""

    @contextmanager
    def bring(running: Running) -> Iterator[None]:
        with ExitStack() as stack:
            for _ in range(count):
                client = stack.enter_context(connect())
                client.sendall(says)
            yield
        if restart:
            running.restart()

    return bring


def connect() -> socket.socket:
    """Connect to the traffic port as a client does."""
    return socket.create_connection(("127.0.0.1", PORT), timeout=10)


def among_clients(bring: Bring, rate: int, at_once: int) -> Bring:
    """The same while clients come, `rate` a second, each asking and waiting 2 s at most."""

    @contextmanager
    def both(running: Running) -> Iterator[None]:
        traffic = str(TESTS / "faults/traffic.py")
        with flowing(sys.executable, traffic, str(PORT), str(rate), str(at_once)), bring(running):
            yield

    return both


def find(program: str) -> str:
    """The path of a program. Raises Missing."""
    found = shutil.which(program) or shutil.which(program, path=PROGRAMS)
    if found is None:
        raise Missing(f"{program} is not installed")
    return found


def written(path: Path, text: str) -> Path:
    """A file with this text."""
    path.write_text(text)
    return path


def application(_: Path) -> Sequence[str | Path]:
    """The embedded one: accepts in one thread, serves in others, and obeys."""
    ports = ("--port", str(PORT), "--health", str(HEALTH), "--backlog", str(BACKLOG))
    return [sys.executable, APP, *ports]


def nginx(place: Path) -> Sequence[str | Path]:
    """A worker, two ports."""
    text = f"""user root; daemon off; worker_processes 1;
        pid {place}/pid; error_log {place}/error.log;
        events {{}} http {{ access_log off; client_body_temp_path {place}/b;
        proxy_temp_path {place}/p; fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u;
        scgi_temp_path {place}/s;
        server {{ listen {PORT}; listen {HEALTH}; location / {{ return 200 fine; }} }} }}"""
    configuration = written(place / "nginx.conf", text)
    return [find("nginx"), "-e", place / "error.log", "-c", configuration]


def haproxy(place: Path) -> Sequence[str | Path]:
    """A frontend at most LIMIT connections wide, and a health port in a frontend of its own."""
    text = f"""defaults
    mode http
    timeout client 10m
    timeout http-request 10m
    timeout server 1m
    timeout connect 1m
frontend web
    bind :{PORT}
    maxconn {LIMIT}
    http-request return status 200 content-type text/plain string fine
frontend health
    bind :{HEALTH}
    monitor-uri /
"""
    return [find("haproxy"), "-db", "-f", written(place / "haproxy.cfg", text)]


def memcached(_: Path) -> Sequence[str | Path]:
    """At most LIMIT connections, which it keeps to by accepting none."""
    words = ("-l", "127.0.0.1", "-p", str(PORT), "-U", "0", "-c", str(LIMIT), "-t", "1")
    return [find("memcached"), *(("-u", "root") if os.geteuid() == 0 else ()), *words]


def redis(place: Path) -> Sequence[str | Path]:
    """One that may be put to sleep."""
    words = ("--port", str(PORT), "--save", "", "--enable-debug-command", "yes")
    return [find("redis-server"), *words, "--dir", place]


WSGI = """
import time

def application(environ, start_response):
    if environ["PATH_INFO"] == "/stuck":
        time.sleep(3600)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"fine"]
"""


def gunicorn(place: Path) -> Sequence[str | Path]:
    """One sync worker, as it starts by default; nobody ends it for being slow."""
    written(place / "wsgi.py", WSGI)
    words = ("--chdir", place, "--worker-tmp-dir", place, "--bind", f"127.0.0.1:{PORT}")
    more = ("--backlog", str(BACKLOG), "--timeout", "3600", "--no-control-socket")
    return [sys.executable, "-m", "gunicorn", *words, *more, "wsgi:application"]


NODE = f"""
const http = require('http');
http.createServer((request, answer) => {{
  if (request.url == '/stuck') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  answer.end('fine');
}}).listen({PORT});
http.createServer((_, answer) => answer.end('fine')).listen({HEALTH});
"""


def node(place: Path) -> Sequence[str | Path]:
    """One event loop, two ports."""
    return [find("node"), written(place / "server.js", NODE)]


compiling = threading.Lock()


@cache
def classes(source: Path, jars: str = "") -> tuple[str, str]:
    """A Java program compiled once, as `-cp` takes it. Raises Missing."""
    path = [JARS / f"{jar}.jar" for jar in jars.split()]
    for jar in path:
        if not jar.exists():
            raise Missing(f"{jar} is not installed")
    compiler = find("javac")
    into = tempfile.mkdtemp(prefix="compare-")
    atexit.register(shutil.rmtree, into)
    everything = ":".join(map(str, [into, *path]))
    command = [compiler, "-cp", everything, "-d", into, str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return "-cp", everything


def java(source: Path, jars: str = "") -> list[str]:
    """The beginning of the command of a Java program that is to start soon and stay small."""
    with compiling:
        path = classes(source, jars)
    return [find("java"), "-Xmx64m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", *path]


def incident(_: Path) -> Sequence[str | Path]:
    """java.net.ServerSocket with an accept thread, and a health port with another."""
    words = (str(PORT), str(HEALTH), str(BACKLOG), "20")
    return [*java(TESTS / "java/Incident.java"), "Incident", *words]


def tomcat(place: Path) -> Sequence[str | Path]:
    """Embedded, LIMIT connections and threads, and a management port beside it."""
    return [*java(HERE / "java/Web.java", "tomcat10-embed-core"), "Web", place]


STUCK = b"GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n"

SERVERS = {
    "application": Server(
        application,
        (sys.executable, "--version"),
        {
            "dead": dies("done"),
            "dead, clients": among_clients(dies("done"), 5, 50),
            "deadlock": told("answer hang", "answer ok"),
            "descriptors": told("emfile", "release"),
            "closed": told("close", "listen"),
            "slow": among_clients(told("pace 0.05", "pace 0"), 40, 25),
            "saturated": among_clients(told("pace 0.2", "pace 0"), 40, 100),
        },
        health=True,
        ready="port",
    ),
    "Java ServerSocket": Server(
        incident, ("java", "--version"), {"dead": dies("dead")}, health=True, ready="ready"
    ),
    "Tomcat": Server(
        tomcat,
        ("dpkg-query", "-W", "-f", "${Version}", "libtomcat10-embed-java"),
        {
            "limit": clients(LIMIT),
            "deadlock": clients(LIMIT, STUCK, restart=True),
        },
        health=True,
    ),
    "nginx": Server(nginx, ("nginx", "-v"), {"stopped": stopped}, health=True),
    "haproxy": Server(haproxy, ("haproxy", "-v"), {"limit": clients(LIMIT)}, health=True),
    "gunicorn": Server(
        gunicorn,
        (sys.executable, "-m", "gunicorn", "--version"),
        {"deadlock": clients(1, STUCK, restart=True)},
    ),
    "node": Server(
        node,
        ("node", "--version"),
        {"stopped": stopped, "deadlock": clients(1, STUCK, restart=True)},
        health=True,
    ),
    "redis": Server(
        redis,
        ("redis-server", "--version"),
        {
            "stopped": stopped,
            "deadlock": clients(1, b"DEBUG SLEEP 3600\r\n", restart=True),
        },
        talk=Talk(b"PING\r\n", b"PONG", monit="redis"),
    ),
    "memcached": Server(
        memcached,
        ("memcached", "--version"),
        {"limit": clients(LIMIT)},
        talk=Talk(b"version\r\n", b"VERSION", monit="memcache"),
    ),
}
