"""Looks like a HotSpot JVM from outside, as far as its arguments say.

Usage: fake_jvm.py DIRECTORY WORD ... where the words are names of libraries to map executable
from DIRECTORY (only readable with "-read" after the name), "quit" to handle SIGQUIT (it then
prints "signalled"), "silent" to listen at the attach path and never answer, "full" to do so with
a backlog that is full, "headless" to answer there with a text that is no dump.
"""

import mmap
import os
import signal
import socket
import sys
import threading
from pathlib import Path

directory, words = Path(sys.argv[1]), sys.argv[2:]
keep: list[object] = []
for word in words:
    name, suffix, only_read = word.partition(".so")
    if suffix:
        library = directory / (name + suffix)
        library.write_bytes(bytes(mmap.PAGESIZE))
        protection = mmap.PROT_READ | (0 if only_read else mmap.PROT_EXEC)
        with library.open("rb") as file:
            keep.append(mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=protection))
if "quit" in words:
    signal.signal(signal.SIGQUIT, lambda *_: print("signalled", flush=True))
if {"silent", "full", "headless"}.intersection(words):
    path = f"/tmp/.java_pid{os.getpid()}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(0 if "full" in words else 8)
    keep.append(listener)
    if "full" in words:
        first = socket.socket(socket.AF_UNIX)
        first.connect(path)
        keep.append(first)
    if "headless" in words:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"0\nOpenJDK 99: out of words\n")

        threading.Thread(target=answer, daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    print(line.strip(), flush=True)
