"""Findings of `gregor doctor` about one Redis server, from its INFO and from what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gregor.config.values import PARTITION_COUNTS, TEST_PARTITIONS
from gregor.core.formats import FORMAT
from gregor.store.formats import DeploymentFormats, WrittenFormat, refusal

MIN_VERSIONS = {"redis": (7, 2), "valkey": (8, 0)}
"""The oldest versions that the tests run against."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check, and how to fix it unless it is `ok`."""

    check: str
    verdict: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""


def parse_info(raw: bytes) -> dict[str, str]:
    """Return the fields of INFO."""
    pairs = (line.partition(":") for line in raw.decode("utf-8", "replace").splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in pairs if colon}


def version_finding(info: Mapping[str, str]) -> Finding:
    """Return whether the server is new enough. Valkey reports its own version and that of a compatible Redis."""
    kind = "valkey" if "valkey_version" in info else "redis"
    version = info.get(f"{kind}_version", "0")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    oldest = MIN_VERSIONS[kind]
    wanted = f"{kind} {'.'.join(map(str, oldest))} or newer is needed"
    return (
        Finding("version", "ok", f"{kind} {version}")
        if numbers >= oldest
        else Finding("version", "fail", f"{kind} {version}", wanted)
    )


def eviction_finding(info: Mapping[str, str]) -> Finding:
    """Return whether the server may evict keys, and so lose state."""
    policy = info.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        return Finding("eviction", "ok", policy)
    bounded = info.get("maxmemory", "0") != "0"
    found = f"{policy}, maxmemory {info.get('maxmemory_human', '0')}"
    return Finding("eviction", "fail" if bounded else "warn", found, "set maxmemory-policy noeviction")


def persistence_finding(info: Mapping[str, str]) -> Finding:
    """Return whether an acknowledged message survives a restart of the server."""
    if info.get("aof_enabled") != "1":
        return Finding("persistence", "warn", "no append-only file: a restart loses the state", "set appendonly yes")
    if info.get("aof_last_write_status", "ok") != "ok":
        return Finding(
            "persistence", "fail", "the append-only file cannot be written", "check the disk and the log of the server"
        )
    return Finding("persistence", "ok", "append-only file")


def replication_finding(info: Mapping[str, str]) -> Finding:
    """Return how many replicas are in sync, and whether a primary that loses them stops accepting messages."""
    count = sum(name.startswith("slave") and "state=online" in value for name, value in info.items())
    if count == 0:
        return Finding("replication", "ok", "no replica: Gregor-Durability: replicated is refused")
    # INFO has this field only if min-replicas-to-write is set.
    if count == 1 or "min_slaves_good_slaves" in info:
        return Finding("replication", "ok", f"{count} in sync")
    return Finding(
        *(
            "replication",
            "warn",
            f"{count} in sync; a primary that loses them accepts messages that will be lost",
        ),
        "set min-replicas-to-write 1 and min-replicas-max-lag 2",
    )


def partitions_finding(configured: int, stored: int | None) -> Finding:
    """Return whether a deployment has the configured number of partitions; a new one has no ``stored`` number."""
    if stored is not None and stored != configured:
        found = f"the store has {stored}, GREGOR_PARTITIONS is {configured}"
        return Finding("partitions", "fail", found, f"set GREGOR_PARTITIONS={stored}, or use another namespace")
    found = f"{configured} (this namespace is new)" if stored is None else str(configured)
    if configured == TEST_PARTITIONS:
        fix = f"choose another number for production ({', '.join(map(str, PARTITION_COUNTS[1:]))}) in a new namespace"
        return Finding("partitions", "warn", found, fix)
    return Finding("partitions", "ok", found)


def formats_finding(written: WrittenFormat | None) -> Finding:
    """Return whether this release can read the data of the deployment; a new deployment has no written format."""
    if written is None:
        return Finding("formats", "ok", f"{FORMAT} (this namespace is new)")
    problem = refusal(written)
    if problem is None:
        return Finding("formats", "ok", f"{written.number} is written")
    found, _, fix = problem.partition("; ")
    return Finding("formats", "fail", found, fix)


def processes_finding(formats: DeploymentFormats) -> Finding:
    """Return whether the running processes have one release, and can all read what is written."""
    written, releases = formats.written, sorted({each.release for each in formats.processes})
    found = f"{len(formats.processes)} run release {' and '.join(releases)}" if releases else "there are no processes"
    unreadable = [each for each in formats.processes if not each.reads[0] <= written.number <= each.reads[1]]
    if unreadable:
        names = ", ".join(f"{each.service} {each.process}" for each in unreadable)
        fix = "replace these processes with the release of the others"
        return Finding("processes", "fail", f"cannot read format {written.number}: {names}", fix)
    if formats.state != "finished" or len(releases) > 1:
        return Finding("processes", "warn", found, "complete the upgrade: gregor upgrade status")
    return Finding("processes", "ok", found)
