"""A target with a host is judged by the listeners that this host reaches, and by no others."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from tests.faults.harness import App, application, sidecar
from tests.test_commands import probe, told

REMOTE = """
import socket, sys
from pyroute2 import IPRoute
sys.stdin.readline()
with IPRoute() as routes:
    index = socket.if_nametoindex("there")
    routes.link("set", index=index, state="up")
    routes.addr("add", index=index, address="192.0.2.2", prefixlen=24)
server = socket.create_server(("0.0.0.0", 5432))
print("listening", flush=True)
while True:
    client, _ = server.accept()
    if client.recv(64):
        client.sendall(b"+PONG\\r\\n")
    client.close()
"""


@contextmanager
def elsewhere() -> Iterator[str]:
    """A server in another network namespace; its address, which answers on 5432."""
    with (
        subprocess.Popen(
            ["unshare", "--net", sys.executable, "-c", REMOTE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as server,
        IPRoute() as routes,
    ):
        try:
            routes.link(
                *("add",),
                ifname="here",
                kind="veth",
                peer={"ifname": "there", "net_ns_pid": moved(server)},
            )
            (index,) = routes.link_lookup(ifname="here")
            routes.addr("add", index=index, address="192.0.2.1", prefixlen=24)
            routes.link("set", index=index, state="up")
            assert server.stdin
            assert server.stdout
            server.stdin.write("go\n")
            server.stdin.flush()
            assert server.stdout.readline() == "listening\n"
            yield "192.0.2.2"
        finally:
            server.kill()


def moved(process: subprocess.Popen[str]) -> int:
    """The process, once it is in a network namespace that is not ours."""
    ours = Path("/proc/thread-self/ns/net").readlink()
    while Path(f"/proc/{process.pid}/ns/net").readlink() == ours:
        assert process.poll() is None
    return process.pid


@contextmanager
def two() -> Iterator[tuple[App, App]]:
    """Two applications on one port, at 127.0.0.2 and at 127.0.0.3."""
    with application("--bind", "127.0.0.2") as ours:
        port = str(ours.port)
        with application("--bind", "127.0.0.3", "--port", port) as others:
            yield ours, others


def test_a_strangers_listener_on_the_same_port_has_no_part_in_the_verdict() -> None:
    with two() as (ours, others):
        target = f"http://127.0.0.2:{ours.port}"
        with sidecar("--target", target, "--live-after", "4s") as watching:
            watching.until(10, condition="healthy", ready=True)
            others.tell("accept off")
            assert told("check", "--target", f"http://127.0.0.3:{ours.port}")[0] == 1
            watching.throughout(7, condition="healthy", ready=True, live=True)
            (seen,) = watching.status()["targets"][0]["listeners"]
            assert (seen["address"], seen["length"]) == ("127.0.0.2", 0)
            assert told("check", "--target", target)[0] == 0
            ours.tell("accept off")
            watching.until(6, reason="accept_queue_stalled", ready=False)
            watching.until(6, live=False)


def test_an_audit_and_a_diagnosis_are_of_the_listener_that_is_meant() -> None:
    with two() as (ours, others):
        target = ("--target", f"http://127.0.0.2:{ours.port}")
        others.tell("accept off")
        assert told("check", "--target", f"http://127.0.0.3:{ours.port}")[0] == 1
        rows = probe("audit", "--json", *target).stdout.splitlines()
        probed = {row["address"]: row["probed"] for row in map(json.loads, rows)}
        assert probed == {"127.0.0.2": True, "127.0.0.3": False}
        ended = probe("diagnose", "--json", *target)
        report = json.loads(ended.stdout)["report"]
        assert ended.returncode == 0
        assert [one["address"] for one in report["listeners"]] == ["127.0.0.2"]
        assert [one["listener"]["address"] for one in report["acceptors"]["listeners"]] == [
            "127.0.0.2"
        ]
        assert not report["connections"]["queued"]


def test_where_a_sidecar_watches_another_address_of_the_port_its_memory_is_not_ours() -> None:
    with two() as (ours, _):
        place = ("--listen", "127.0.0.1:9809")
        target = f"http://127.0.0.3:{ours.port}"
        with sidecar(*place, "--target", target) as watching:
            watching.until(10, condition="healthy", ready=True)
            rows = probe("audit", "--json").stdout.splitlines()
            probed = {row["address"]: row["probed"] for row in map(json.loads, rows)}
            assert probed == {"127.0.0.2": False, "127.0.0.3": True}
            ended = probe("diagnose", "--target", f"http://127.0.0.2:{ours.port}")
    said = f"watches 127.0.0.3, port {ours.port}, and not that of 127.0.0.2"
    assert said in " ".join(ended.stdout.split())
    assert "The sidecar at" not in ended.stdout


def test_a_name_is_followed_when_it_changes_its_address(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.2 shop.test\n")
    mount = f'mount --bind {hosts} /etc/hosts && exec "$@"'
    wrapper = ("unshare", "--mount", "sh", "-c", mount, "sh")
    with two() as (ours, others):
        target = f"http://shop.test:{ours.port}"
        with sidecar("--target", target, wrapper=wrapper) as watching:
            watching.until(10, condition="healthy", ready=True)
            others.tell("answer status 500")
            hosts.write_text("127.0.0.3 shop.test\n")
            watching.until(10, stage="status", ready=False)
            (seen,) = watching.status()["targets"][0]["listeners"]
            assert seen["address"] == "127.0.0.3"
            hosts.write_text("192.0.2.7 shop.test\n")
            gone = "shop.test (192.0.2.7) is not of this network namespace"
            watching.until(10, message=f"{ours.port} cannot be seen: {gone}")
            hosts.write_text("192.0.2.7 shop.test\n127.0.0.2 shop.test\n")
            watching.until(10, condition="healthy", ready=True)


# --- a host of another network namespace


@pytest.mark.parametrize("query", ["", r"?send=PING\r\n&expect=%2BPONG"])
def test_wait_for_another_host(query: str) -> None:
    with elsewhere() as host:
        ended = probe("wait", "--timeout", "5s", "--target", f"tcp://{host}:5432{query}")
    assert ended.returncode == 0
    (line,) = ended.stdout.splitlines()
    assert line.startswith("5432 healthy: round trip ")
    assert line.endswith(
        f"({host} is not of this network namespace: judged by the round trip alone)"
    )


def test_a_listener_of_ours_on_its_port_says_nothing_of_another_host() -> None:
    """A dead one at every address, to which the kernel would lead an exact lookup as well."""
    with elsewhere() as host, application("--bind", "0.0.0.0", "--port", "5432", "--late"):
        code, line = told("check", "--target", f"tcp://{host}:5432")
        assert (code, line.split()[1]) == (0, "healthy:")
        code, line = told("check", "--target", f"http://{host}:5433")
        assert (code, line.split()[0]) == (1, "round_trip_failed:")
        assert f"refused: {host}:5433: " in line
        code, line = told("check", "--target", f"tcp://{host}:5432?expect=never&send=x")
        assert (code, line.split()[0]) == (1, "round_trip_failed:")
        assert "queued" not in line.partition("(")[0]


def test_a_diagnosis_of_another_host_claims_nothing() -> None:
    with elsewhere() as host:
        ended = probe("diagnose", "--target", f"http://{host}:5433")
    assert ended.returncode == 1
    assert ended.stdout.startswith("Port 5433: nothing could be found out about who accepts\n")
    assert f"queue: {host} is not of this network namespace" in ended.stdout


def test_serve_refuses_every_target_of_another_host_at_once() -> None:
    ended = probe(
        "serve", "--target", "tcp://192.0.2.1:5432", "--target", "http://[2001:db8::1]:80"
    )
    assert ended.returncode == 2
    lines = [line.partition(" CRITICAL ")[2] for line in ended.stderr.splitlines()]
    beginning = (
        "80: 2001:db8::1 is not of this network namespace, whose listeners",
        "5432: 192.0.2.1 is not of this network namespace, whose listeners",
    )
    assert [line.startswith(words) for line, words in zip(lines, beginning, strict=True)] == [
        True,
        True,
    ]
