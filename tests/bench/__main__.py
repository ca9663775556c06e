"""`python -m tests.bench [name …] [--quick]`: run all benchmarks, or the named ones; print one line for each result.

`attacks:intervals,dead_origin` runs only these rows of `attacks`. `paired:main` compares with the branch `main`.
`rolling:devices=100,rate=20` sets arguments.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

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
    "rolling",
    "storm",
    "overload",
    "paired",
)


def main(words: list[str]) -> int:
    """Return the exit status: 0, or 2 for an unknown name.

    A missed target is reported but is not a failure: machines differ.
    """
    is_quick = "--quick" in words
    chosen = [word.partition(":") for word in words if word != "--quick"] or [(name, "", "") for name in NAMES]
    if unknown := [name for name, _, _ in chosen if name not in NAMES]:
        print(f"no benchmark {unknown[0]}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    for name, _, arguments in chosen:
        importlib.import_module(f"tests.bench.{name}").run(quick=is_quick, **_parsed(arguments))
    return 0


def _parsed(arguments: str) -> dict[str, Any]:
    """Return the arguments of a benchmark: `KEY=NUMBER` parts, or the names of rows."""
    if "=" in arguments:
        return {key: int(value) for key, _, value in (part.partition("=") for part in arguments.split(","))}
    return {"rows": arguments.split(",")} if arguments else {}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
