"""Twenty requests a second to the Service `web`, a connection each, until SIGTERM."""

import signal
import threading
import time
import urllib.request

RATE = 20.0
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
failures: list[str] = []
clients: list[threading.Thread] = []


def ask() -> None:
    try:
        with urllib.request.urlopen("http://web/", timeout=5) as answer:
            answer.read()
    except OSError as error:
        failures.append(f"{time.strftime('%X')} {error}")


print("began", flush=True)
while not ended.wait(1 / RATE):
    clients.append(threading.Thread(target=ask))
    clients[-1].start()
for client in clients:
    client.join()
for failure in failures:
    print(failure)
print(f"{len(clients)} requests, {len(failures)} failed")
