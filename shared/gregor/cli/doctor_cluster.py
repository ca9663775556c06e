"""The checks of `gregor doctor` for a Redis Cluster: every node, the slots, and the options that a failover needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gregor.config.settings import Settings
from gregor.redis.cluster.client import ClusterClient
from gregor.redis.cluster.node import SilentListener
from gregor.redis.cluster.slots import SLOTS, MemberNode, NodeAddress, parse_members
from gregor.redis.connection import Command
from gregor.redis.errors import RedisUnavailable, ReplyError
from gregor.redis.pubsub import ClusterPubSub
from gregor.store.contract.store import Unavailable
from gregor.store.redis.deployment import RedisDeployment
from gregor.store.redis.keys import Keys

from .redis_findings import (
    Finding,
    eviction_finding,
    formats_finding,
    parse_info,
    partitions_finding,
    persistence_finding,
    processes_finding,
    version_finding,
)

ANSWER_S: Final = 1.0
"""Timeout of each node. The whole check takes at most three times as long."""
MAX_NODE_TIMEOUT_MS: Final = 5_000
_OPTIONS: Final = (
    "cluster-require-full-coverage",
    "cluster-node-timeout",
    "cluster-allow-reads-when-down",
    "cluster-allow-pubsubshard-when-down",
    "min-replicas-to-write",
)
_VERDICTS: Final = ("ok", "warn", "fail")


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What one node answered. ``options``: of CONFIG GET; ``None`` if the node refused it. ``error``: no answer."""

    member: MemberNode
    info: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """The address of the node."""
        host, port = self.member.address
        return f"{host}:{port}"


# ---- asking


async def cluster_findings(settings: Settings) -> list[Finding]:
    """Return the findings of a cluster. Raises ``RedisUnavailable`` if no node answers."""
    client = ClusterClient(
        settings.redis_url, name=f"{settings.namespace}-doctor", max_wait_s=ANSWER_S, timeout_s=ANSWER_S
    )
    try:
        await client.open()
        reports, shared, pubsub = await asyncio.gather(
            _reports(client), _shared_findings(settings, client), _pubsub_finding(settings, client)
        )
        return [*node_findings(reports), *shared, pubsub]
    finally:
        await client.close()


async def _reports(client: ClusterClient) -> list[NodeReport]:
    [asked, *_] = (address for address in client.primary_addresses if client.is_connected(address))
    [members] = await _ask(client, asked, [("CLUSTER", "SHARDS")])
    nodes = parse_members(members, asked, tls=client.address.tls is not None)
    return await asyncio.gather(*(_report(client, node) for node in nodes))


async def _report(client: ClusterClient, member: MemberNode) -> NodeReport:
    try:
        info, options = await _ask(client, member.address, [("INFO",), ("CONFIG", "GET", *_OPTIONS)])
    except (RedisUnavailable, TimeoutError) as error:
        return NodeReport(member, error=str(error) or f"no answer within {ANSWER_S:g} s")
    if isinstance(info, ReplyError):
        return NodeReport(member, error=str(info))
    return NodeReport(member, parse_info(info), None if isinstance(options, ReplyError) else _pairs(options))


async def _ask(client: ClusterClient, address: NodeAddress, commands: Sequence[Command]) -> list[Any]:
    async with asyncio.timeout(ANSWER_S):
        connection = await client.opener("gregor-doctor")(address, SilentListener())
        try:
            return await connection.request(commands)
        finally:
            connection.abort("is no longer needed")


async def _shared_findings(settings: Settings, client: ClusterClient) -> list[Finding]:
    deployment = RedisDeployment(client, Keys(settings.namespace, settings.partitions))
    try:
        reads = deployment.partitions(), deployment.written_format(), deployment.formats()
        stored, written, formats = await asyncio.gather(*reads)
    except Unavailable as error:
        return [Finding("partitions", "warn", f"cannot be read: {error}", "repair the shard, then check again")]
    return [partitions_finding(settings.partitions, stored), formats_finding(written), processes_finding(formats)]


async def _pubsub_finding(settings: Settings, client: ClusterClient) -> Finding:
    pubsub = ClusterPubSub(client, namespace=settings.namespace, probe_timeout_s=ANSWER_S)
    try:
        await pubsub.open()
        failing = pubsub.failing
    except RedisUnavailable as error:
        return Finding("pubsub", "fail", str(error), "check for a proxy that does not support SSUBSCRIBE")
    finally:
        await pubsub.close()
    if failing:
        found = f"no probe arrived through {', '.join(failing)}"
        return Finding("pubsub", "fail", found, "repair this node, or check for a proxy without SSUBSCRIBE")
    return Finding("pubsub", "ok", "a probe arrived through each primary")


# ---- findings, from the reports alone


def node_findings(reports: Sequence[NodeReport]) -> list[Finding]:
    """Return the findings about the nodes of a cluster."""
    answered = [report for report in reports if report.error is None]
    checks: list[Callable[[Mapping[str, str]], Finding]] = [version_finding, eviction_finding, persistence_finding]
    return [
        nodes_finding(reports),
        coverage_finding(reports),
        *(_worst(answered, check) for check in checks),
        replicas_finding(reports),
        *option_findings(answered),
    ]


def nodes_finding(reports: Sequence[NodeReport]) -> Finding:
    """Return whether every node answers."""
    silent = [f"{report.name} ({report.error})" for report in reports if report.error is not None]
    if silent:
        return Finding(
            "nodes", "fail", f"no answer from {'; '.join(silent)}", "start it, or remove it (CLUSTER FORGET)"
        )
    primaries = sum(report.member.is_primary for report in reports)
    return Finding("nodes", "ok", f"{primaries} primaries and {len(reports) - primaries} replicas answer")


def coverage_finding(reports: Sequence[NodeReport]) -> Finding:
    """Return whether each slot has a primary that answers."""
    covered = sum(report.member.slots for report in reports if report.member.is_primary and report.error is None)
    if covered == SLOTS:
        return Finding("coverage", "ok", "every slot is served")
    found = f"{SLOTS - covered} of {SLOTS} slots are not served: their users get 503"
    return Finding("coverage", "fail", found, "start the primary of the slots or a replica; see CLUSTER SHARDS")


def replicas_finding(reports: Sequence[NodeReport]) -> Finding:
    """Return whether each primary with slots has a replica in sync, which takes over if it dies."""
    primaries = [report for report in reports if report.member.is_primary and report.member.slots]
    alone = [report.name for report in primaries if report.error is None and not _replicas(report)]
    if alone:
        found = f"no replica in sync: {', '.join(alone)}; if it dies, its users get 503 until it is back"
        return Finding("replicas", "warn", found, "add a replica on another host (CLUSTER REPLICATE)")
    many = [each for each in primaries if _replicas(each) > 1 and (each.options or {}).get(_OPTIONS[-1], "0") == "0"]
    if many:
        found = f"{', '.join(each.name for each in many)} accepts messages that will be lost after losing its replicas"
        return Finding("replicas", "warn", found, "set min-replicas-to-write 1 and min-replicas-max-lag 2")
    return Finding("replicas", "ok", "each primary has a replica in sync")


def option_findings(reports: Sequence[NodeReport]) -> list[Finding]:
    """Return whether the options of the nodes let one shard fail without the others."""
    refused = [report.name for report in reports if report.options is None]
    if refused:
        found = f"the options of {', '.join(refused)} cannot be read: CONFIG GET is refused"
        return [Finding("options", "warn", found, "allow CONFIG GET for this check (+config|get)")]
    findings = [
        _option(
            *(reports, "cluster-require-full-coverage", lambda value: value != "no", "fail"),
            "with yes, one missing shard stops all shards",
            "no",
        ),
        _option(
            *(reports, "cluster-node-timeout", lambda value: int(value or 0) > MAX_NODE_TIMEOUT_MS, "warn"),
            "a failover begins after this time",
            "2000 to 5000",
        ),
        _option(
            *(reports, "cluster-allow-reads-when-down", lambda value: value == "yes", "warn"),
            "a node that was cut off answers with old state",
            "no",
        ),
        _option(
            *(reports, "cluster-allow-pubsubshard-when-down", lambda value: value == "no", "warn"),
            "devices receive nothing while another shard is missing",
            "yes",
        ),
    ]
    return findings


def _option(
    reports: Iterable[NodeReport],
    option: str,
    is_bad: Callable[[str], bool],
    verdict: str,
    effect: str,
    wanted: str,
) -> Finding:
    values = {report.name: (report.options or {}).get(option, "") for report in reports}
    bad = [name for name, value in values.items() if value and is_bad(value)]
    name = option.removeprefix("cluster-")
    if not bad:
        return Finding(name, "ok", ", ".join(sorted(filter(None, set(values.values())))) or "not known to this version")
    found = f"{values[bad[0]]} at {', '.join(bad)}: {effect}"
    return Finding(
        name, "fail" if verdict == "fail" else "warn", found, f"CONFIG SET {option}, to {wanted}, on each node"
    )


def _worst(reports: Sequence[NodeReport], check: Callable[[Mapping[str, str]], Finding]) -> Finding:
    """Return the worst finding of a check over all nodes, with the names of the nodes that have it."""
    by_name = {report.name: check(report.info) for report in reports}
    worst = max(by_name.values(), key=lambda finding: _VERDICTS.index(finding.verdict))
    if worst.verdict == "ok":
        return Finding(worst.check, "ok", ", ".join(sorted({each.found for each in by_name.values()})))
    names = ", ".join(name for name, each in by_name.items() if each.verdict == worst.verdict)
    return Finding(worst.check, worst.verdict, f"{worst.found} ({names})", worst.fix)


def _replicas(report: NodeReport) -> int:
    return sum(name.startswith("slave") and "state=online" in value for name, value in report.info.items())


def _pairs(reply: Any) -> dict[str, str]:
    texts = [bytes(each).decode() for each in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))
