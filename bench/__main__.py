"""`python -m bench [NAME ...]`: measure; without a name, those of a few minutes.

Speed is told as a ratio of figures taken side by side in one run, or as CPU time: machines are
shared and noisy. Each benchmark runs in a network namespace of its own, so it takes root, or
`unshare -Urn`.
"""

import sys
from importlib import import_module

from tests.conftest import fresh_namespace

NAMES = (
    "check",
    "sample",
    "ready",
    "targets",
    "flood",
    "detect",
    "evidence",
    "idle",
    "recording",
    "dashboard",
    "false_alarms",
    "soak",
    "footprint",
    "scale",
)
BRIEF = ("check", "sample", "ready", "targets", "flood", "detect", "evidence")


def main() -> None:
    """Run the benchmarks that are named."""
    for name in sys.argv[1:] or BRIEF:
        if name not in NAMES:
            raise SystemExit(f"no benchmark {name}; there are {', '.join(NAMES)}")
        benchmark = import_module(f"bench.{name}")
        about = (benchmark.__doc__ or "").partition("\n")[0]
        print(f"\n## {name}: {about}\n", flush=True)
        with fresh_namespace():
            benchmark.main()


if __name__ == "__main__":
    main()
