"""A capture's child whose steps do what their names say: for the parent's side, at its worst."""

import ctypes
import json
import os
import signal
import sys
import time


def say(**message: object) -> None:
    print(json.dumps(message), flush=True)


def end(step: str, **sections: object) -> None:
    carried = {"processes": [[os.getpid(), 1]], "counters": request["carried"]["counters"]}
    say(end=step, seconds=0.1, sections=sections, missing=[], carried=carried)


request = json.load(sys.stdin)
for step in request["steps"]:
    say(begin=step)
    match step.partition("-")[0]:
        case "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(60)
        case "crash":
            ctypes.string_at(0)
        case "leave":
            sys.exit()
        case "fail":
            sys.exit(7)
        case "rubbish":
            print("rubbish", flush=True)
        case "list":
            print("[1]", flush=True)
        case "flood":
            while True:
                print("x" * (1 << 20), end="", flush=True)
        case "fork":
            if not os.fork():
                time.sleep(60)
            time.sleep(60)
        case "before":
            end(step, before=request["carried"]["processes"])
        case _:
            end(step, **{step: True})
