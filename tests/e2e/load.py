"""Twenty requests a second to the Service `web`, a connection each, until SIGTERM."""

import os
import signal
import socket
import threading
import time

RATE = 20.0
SERVICE = (os.environ["WEB_SERVICE_HOST"], 80)
"""By its address, which kubelet tells the pods that start after it: a name would test DNS, too."""
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
failures: list[str] = []
clients: list[threading.Thread] = []


def ask() -> None:
    answer = b""
    try:
        with socket.create_connection(SERVICE, timeout=5) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
            while part := connection.recv(4096):
                answer += part
    except OSError as error:
        failures.append(f"{time.strftime('%X')} {error}")
        return
    if not answer.startswith(b"HTTP/1.1 200 "):
        failures.append(f"{time.strftime('%X')} answered {answer[:40]!r}")


print("began", flush=True)
while not ended.wait(1 / RATE):
    clients.append(threading.Thread(target=ask))
    clients[-1].start()
for client in clients:
    client.join()
for failure in failures:
    print(failure)
print(f"{len(clients)} requests, {len(failures)} failed")
