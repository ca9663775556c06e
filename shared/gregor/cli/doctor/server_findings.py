"""Findings about a Redis server, from its INFO and its options. Those of a cluster are about each node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from .finding import Finding

MIN_VERSIONS: Final = {"redis": (7, 2), "valkey": (8, 0)}
"""The oldest versions that the tests run against."""
FULL: Final = 0.95
"""Share of maxmemory from which creations are refused soon."""
NEARLY_FULL: Final = 0.8
"""Share of maxmemory, or of maxclients, from which an operator should act."""
MIN_PUBSUB_BUFFER: Final = 64 * 1024 * 1024
"""The default of 32 MB cuts the connection of a gateway in a burst; deploy/redis/gregor.conf has 256 MB."""
OPTIONS: Final = ("timeout", "tcp-keepalive", "appendfsync", "client-output-buffer-limit")
"""Options that the checks of a server read."""

Info = Mapping[str, str]

# ---- from INFO


def parse_info(raw: bytes) -> dict[str, str]:
    """Return the fields of INFO."""
    pairs = (line.partition(":") for line in raw.decode("utf-8", "replace").splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in pairs if colon}


def version_finding(info: Info) -> Finding:
    """Return whether the server is new enough. Valkey reports its own version and that of a compatible Redis."""
    kind = "valkey" if "valkey_version" in info else "redis"
    version = info.get(f"{kind}_version", "0")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    oldest = MIN_VERSIONS[kind]
    wanted = f"{kind} {'.'.join(map(str, oldest))} or newer is needed"
    if numbers >= oldest:
        return Finding("version", "ok", f"{kind} {version}")
    return Finding("version", "fail", f"{kind} {version}", wanted)


def role_finding(info: Info) -> Finding:
    """Return whether the server accepts writes."""
    role = info.get("role", "master")
    if role == "master":
        return Finding("role", "ok", "it is a primary")
    found = f"the server is a replica of {info.get('master_host', '?')}: it accepts no writes"
    return Finding("role", "fail", found, "name the primary in GREGOR_REDIS_URL, or the Sentinels (redis+sentinel://)")


def eviction_finding(info: Info) -> Finding:
    """Return whether the server may evict keys, and so lose state."""
    policy = info.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        return Finding("eviction", "ok", policy)
    bounded = info.get("maxmemory", "0") != "0"
    found = f"{policy}, maxmemory {info.get('maxmemory_human', '0')}"
    return Finding("eviction", "fail" if bounded else "warn", found, "set maxmemory-policy noeviction")


def evicted_keys_finding(info: Info) -> Finding:
    """Return whether the server has evicted keys since its start: that state is lost."""
    count = int(info.get("evicted_keys", 0))
    if count == 0:
        return Finding("evicted-keys", "ok", "none")
    fix = "set maxmemory-policy noeviction, raise maxmemory, then flush the users: their devices get a new copy"
    return Finding("evicted-keys", "fail", f"{count} keys were evicted since the start: their state is lost", fix)


def memory_finding(info: Info) -> Finding:
    """Return whether the memory of the server has a limit, and how much of it is left."""
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    text = info.get("used_memory_human", str(used))
    if limit == 0:
        found = f"{text} used, maxmemory has no limit: the kernel kills a server that outgrows the host"
        return Finding("memory", "warn", found, "set maxmemory to about 60 % of the memory of the host")
    share = used / limit
    found = f"{text} of {info.get('maxmemory_human', str(limit))} used ({100 * share:.0f} %)"
    if share >= NEARLY_FULL:
        effect = ": creations are refused (503)" if share >= FULL else ": when it is full, creations are refused (503)"
        fix = "raise maxmemory, or move to a cluster (docs/how-to/redis-cluster.md)"
        return Finding("memory", "fail" if share >= FULL else "warn", found + effect, fix)
    return Finding("memory", "ok", found)


def persistence_finding(info: Info) -> Finding:
    """Return whether an acknowledged message survives a restart of the server."""
    if info.get("aof_enabled") != "1":
        return Finding("persistence", "warn", "no append-only file: a restart loses the state", "set appendonly yes")
    failed = {
        "the append-only file cannot be written": "aof_last_write_status",
        "the last rewrite of the append-only file failed, so the file grows": "aof_last_bgrewrite_status",
        "the last snapshot failed": "rdb_last_bgsave_status",
    }
    for found, field in failed.items():
        if info.get(field, "ok") != "ok":
            return Finding("persistence", "fail", found, "check the disk and the log of the server")
    return Finding("persistence", "ok", "append-only file")


def replication_finding(info: Info) -> Finding:
    """Return how many replicas are in sync, and whether a primary that loses them stops accepting messages."""
    count = sum(name.startswith("slave") and "state=online" in value for name, value in info.items())
    if count == 0:
        return Finding("replication", "ok", "no replica: Gregor-Durability: replicated is refused")
    # INFO has this field only if min-replicas-to-write is set.
    if count == 1 or "min_slaves_good_slaves" in info:
        return Finding("replication", "ok", f"{count} in sync")
    found = f"{count} in sync; a primary that loses them accepts messages that will be lost"
    return Finding("replication", "warn", found, "set min-replicas-to-write 1 and min-replicas-max-lag 2")


def clients_finding(info: Info) -> Finding:
    """Return whether the server has connections left, or has refused some."""
    connected, most = int(info.get("connected_clients", 0)), int(info.get("maxclients", 0))
    if most and connected >= NEARLY_FULL * most:
        found = f"{connected} of {most} connections are used"
        return Finding("clients", "warn", found, "raise maxclients, or find the client that leaks (CLIENT LIST)")
    refused = int(info.get("rejected_connections", 0))
    if refused:
        found = f"{refused} connections were refused since the start, because maxclients ({most}) was reached"
        return Finding("clients", "warn", found, "raise maxclients, and the limit of open files of the server")
    return Finding("clients", "ok", f"{connected} of {most} connections are used")


INFO_CHECKS: Final[tuple[Callable[[Info], Finding], ...]] = (
    version_finding,
    eviction_finding,
    evicted_keys_finding,
    memory_finding,
    persistence_finding,
    clients_finding,
)
"""The checks of every server: of the state, of the queues, and of each node of a cluster."""

# ---- from CONFIG GET


def timeout_finding(options: Info) -> Finding:
    """Return whether the server closes idle connections of the services."""
    seconds = int(options.get("timeout") or 0)
    if seconds == 0:
        return Finding("timeout", "ok", "idle connections stay open")
    found = f"the server closes connections that are idle for {seconds} s, such as those of a quiet gateway"
    return Finding("timeout", "warn", found, "CONFIG SET timeout 0, and in the file of the server")


def keepalive_finding(options: Info) -> Finding:
    """Return whether the server notices clients whose host vanished."""
    seconds = int(options.get("tcp-keepalive") or 0)
    if 0 < seconds <= 300:
        return Finding("tcp-keepalive", "ok", f"{seconds} s")
    found = f"tcp-keepalive {seconds}: connections of vanished hosts stay open and count against maxclients"
    return Finding("tcp-keepalive", "warn", found, "CONFIG SET tcp-keepalive 60, and in the file of the server")


def appendfsync_finding(options: Info) -> Finding:
    """Return how much a power failure loses."""
    value = options.get("appendfsync", "everysec")
    if value != "no":
        return Finding("appendfsync", "ok", value)
    found = "appendfsync no: a power failure loses as much as the kernel holds back, about 30 s"
    return Finding("appendfsync", "warn", found, "CONFIG SET appendfsync everysec, and in the file of the server")


def pubsub_buffer_finding(options: Info) -> Finding:
    """Return whether the server keeps the connection of a gateway in a burst of announcements."""
    words = options.get("client-output-buffer-limit", "").split()
    bytes_ = int(words[words.index("pubsub") + 1]) if "pubsub" in words else 0
    if bytes_ == 0 or bytes_ >= MIN_PUBSUB_BUFFER:
        return Finding("pubsub-buffer", "ok", f"{bytes_ // 1_048_576} MB" if bytes_ else "no limit")
    found = f"the server cuts a gateway that is {bytes_ // 1_048_576} MB behind; all its devices then compare at once"
    fix = 'CONFIG SET client-output-buffer-limit "pubsub 256mb 128mb 60", and in the file of the server'
    return Finding("pubsub-buffer", "warn", found, fix)


OPTION_CHECKS: Final[tuple[Callable[[Info], Finding], ...]] = (
    timeout_finding,
    keepalive_finding,
    appendfsync_finding,
    pubsub_buffer_finding,
)
"""The checks of every server whose options can be read."""
