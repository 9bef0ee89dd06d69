"""Become a `python -m` command that counts what is alive in it: `bench.counted FILE python -m ...`.

At SIGUSR1 it writes FILE anew: how many tasks of asyncio there are, and how many objects that the
collector of garbage knows.
"""

import asyncio
import gc
import json
import runpy
import signal
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    told, _, _, module, *sys.argv[1:] = sys.argv[1:]

    def count(*_: Any) -> None:
        gc.collect()
        draft = Path(f"{told}.new")
        found = {"tasks": len(asyncio.all_tasks()), "objects": len(gc.get_objects())}
        draft.write_text(json.dumps(found))
        draft.replace(told)

    signal.signal(signal.SIGUSR1, count)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
