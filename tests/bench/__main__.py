"""`python -m tests.bench [name …] [--quick]`: run all benchmarks, or the named ones; print one line for each result."""

from __future__ import annotations

import importlib
import sys

NAMES = (
    "fanout",
    "ingest",
    "commit",
    "resume",
    "idle",
    "memory",
    "soak",
    "push",
    "channels",
    "timers",
    "delivery",
    "isolation",
    "chaos",
    "cost",
    "failover",
    "shards",
    "attacks",
)


def main(words: list[str]) -> int:
    """Return the exit status: 0, or 2 for an unknown name.

    A missed target is reported but is not a failure: machines differ.
    """
    is_quick = "--quick" in words
    names = [word for word in words if word != "--quick"] or list(NAMES)
    if unknown := [name for name in names if name not in NAMES]:
        print(f"no benchmark {unknown[0]}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    for name in names:
        importlib.import_module(f"tests.bench.{name}").run(quick=is_quick)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
