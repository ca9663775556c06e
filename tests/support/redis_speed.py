"""The speed of Redis on this machine now. Bounds of CPU time hold for the machine of docs/performance.md."""

from __future__ import annotations

from typing import Final

from tests.bench.sockets import redis_cpu_s
from tests.support.servers import Server

_SCRIPT: Final = """
local counts = {}
for n = 1, 20000 do
  local key = 'c' .. (n % 500) .. string.rep('.c', 30)
  counts[key] = (counts[key] or 0) + #key
end
return 0
"""
_REFERENCE_MS: Final = 8.0
"""CPU time of the script where a filtered read of 2,000 deep categories takes 5 ms, as docs/security.md states."""


def slowness(server: Server) -> float:
    """Return how many times longer a script takes here than on the reference machine, at least 1.

    Virtual machines share cores and caches, so the same command may take twice the CPU time a minute later.
    """
    before_s = redis_cpu_s(server.url)
    server.say("EVAL", _SCRIPT, "0")
    return max(1.0, 1_000 * (redis_cpu_s(server.url) - before_s) / _REFERENCE_MS)
