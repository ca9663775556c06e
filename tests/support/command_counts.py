"""Commands that Redis servers executed, inner calls of scripts included, by ``INFO commandstats``."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from tests.support.redis_cluster import ask


def executed(ports: Iterable[int]) -> Counter[str]:
    """Return how often each command was executed since the servers started, over all of them."""
    counts: Counter[str] = Counter()
    for port in ports:
        for line in ask(port, "INFO", "commandstats").decode().splitlines():
            name, _, values = line.partition(":calls=")
            if values:
                counts[name.removeprefix("cmdstat_")] += int(values.partition(",")[0])
    return counts


def commands_per_second(ports: Iterable[int], seconds: float) -> dict[str, float]:
    """Count for so many seconds. Returns the commands a second by name, the most frequent first."""
    servers = list(ports)
    before, began_s = executed(servers), time.monotonic()
    time.sleep(seconds)
    after, took_s = executed(servers), time.monotonic() - began_s
    # The two readings are not counted.
    after["info"] -= len(servers)
    return {name: count / took_s for name, count in (after - before).most_common()}
