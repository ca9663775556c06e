"""Findings about the facts of a deployment in Redis: partitions, formats, processes, service keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from gregor.config.values import PARTITION_COUNTS, TEST_PARTITIONS
from gregor.core.formats import FORMAT
from gregor.store.formats import DeploymentFormats, ProcessFormats, WrittenFormat, refusal

from .finding import Finding

SERVICES: Final = ("ingest", "gateway", "scheduler", "delivery")


def databases_finding(others: Sequence[int], namespace: str) -> Finding:
    """Return whether other databases of the server have a deployment with the same namespace."""
    if not others:
        return Finding("databases", "ok", f"no other database of the server has a deployment {namespace!r}")
    found = (
        f"database {', '.join(map(str, others))} has another deployment {namespace!r}. "
        "Databases share pub/sub: each deployment gets the items and closes of the other if user ids are equal"
    )
    return Finding("databases", "fail", found, "give each deployment of a server a different GREGOR_NAMESPACE")


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


def services_finding(running: Sequence[ProcessFormats]) -> Finding:
    """Return whether at least one process of each service is running. Each renews its registration in Redis."""
    counts = Counter(each.service for each in running)
    missing = [service for service in SERVICES if not counts[service]]
    if missing:
        found = f"no process of {', '.join(missing)} is running in this namespace"
        return Finding("services", "warn", found, "start it; if it runs, compare GREGOR_REDIS_URL and GREGOR_NAMESPACE")
    found = ", ".join(f"{counts[each]} {each}" for each in SERVICES)
    return Finding("services", "ok", found)


def service_keys_finding(count: int) -> Finding:
    """Return whether a backend has a credential."""
    if count:
        return Finding("service-keys", "ok", str(count))
    found = "no service key exists: every call of a backend is refused"
    return Finding("service-keys", "warn", found, "gregor keys create --scope ingest")
