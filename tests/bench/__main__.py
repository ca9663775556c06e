"""`python -m tests.bench [name …] [--quick]`: run all benchmarks, or the named ones; print one line for each result.

`attacks:intervals,dead_origin` runs only these rows of `attacks`.
"""

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
    chosen = [word.partition(":") for word in words if word != "--quick"] or [(name, "", "") for name in NAMES]
    if unknown := [name for name, _, rows in chosen if name not in NAMES or (rows and name != "attacks")]:
        print(f"no benchmark {unknown[0]}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    for name, _, rows in chosen:
        only = {"rows": rows.split(",")} if rows else {}
        importlib.import_module(f"tests.bench.{name}").run(quick=is_quick, **only)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
