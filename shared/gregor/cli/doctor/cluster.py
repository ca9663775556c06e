"""The checks of `gregor doctor` for a Redis Cluster: every node, the slots, and the options that a failover needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from gregor.config.settings import Settings
from gregor.redis.cluster.client import ClusterClient
from gregor.redis.cluster.slots import SLOTS, MemberNode, NodeAddress
from gregor.redis.errors import RedisUnavailable, ReplyError
from gregor.redis.pubsub import ClusterPubSub
from gregor.redis.url import RedisUrl

from .cluster_view import ask_node, cluster_view
from .finding import CheckName, Finding, Verdict, severity
from .remote_checks import Deadline, RemoteCheck, run_checks
from .server import access_findings, clock_findings, deployment_checks, pairs_of
from .server_findings import INFO_CHECKS, OPTION_CHECKS, OPTIONS, parse_info

MAX_NODE_TIMEOUT_MS: Final = 5_000
_OPTIONS: Final = (
    "cluster-require-full-coverage",
    "cluster-node-timeout",
    "cluster-allow-reads-when-down",
    "cluster-allow-pubsubshard-when-down",
    "min-replicas-to-write",
    *OPTIONS,
)
_FIX: Final = "repair the node that the check `nodes` names, then check again"


@dataclass(frozen=True, slots=True)
class NodeReport:
    """The answer of one node.

    ``options``: those of CONFIG GET; ``None`` if the node refused it. ``error``: why the node did not answer.
    """

    member: MemberNode
    info: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """The address of the node."""
        host, port = self.member.address
        return f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class _ClusterOption:
    """An option ``cluster-<name>`` that a failover needs. ``effect``: of a bad value. ``wanted``: a good value."""

    name: CheckName
    is_bad: Callable[[str], bool]
    verdict: Verdict
    effect: str
    wanted: str


_CLUSTER_OPTIONS: Final = (
    _ClusterOption(
        name="require-full-coverage",
        is_bad=lambda value: value != "no",
        verdict="fail",
        effect="with yes, one missing shard stops all shards",
        wanted="no",
    ),
    _ClusterOption(
        name="node-timeout",
        is_bad=lambda value: int(value or 0) > MAX_NODE_TIMEOUT_MS,
        verdict="warn",
        effect="a failover begins after this time",
        wanted="2000 to 5000",
    ),
    _ClusterOption(
        name="allow-reads-when-down",
        is_bad=lambda value: value == "yes",
        verdict="warn",
        effect="a node that was cut off answers with old state",
        wanted="no",
    ),
    _ClusterOption(
        name="allow-pubsubshard-when-down",
        is_bad=lambda value: value == "no",
        verdict="warn",
        effect="devices receive nothing while another shard is missing",
        wanted="yes",
    ),
)


# ---- requests to the nodes


async def cluster_findings(settings: Settings, deadline: Deadline) -> list[Finding]:
    """Return the findings of a cluster. Raises ``RedisUnavailable`` if no node answers.

    The nodes are asked directly, beside the client that the services use: a hung node delays its own report only.
    """
    address = RedisUrl.parse(settings.redis_url)
    name, answer_s = f"{settings.namespace}-doctor", deadline.answer_s
    client = ClusterClient(settings.redis_url, name=name, max_wait_s=answer_s, timeout_s=answer_s)
    opening = asyncio.ensure_future(client.open())

    checks = [
        RemoteCheck("clock", lambda: clock_findings(settings, client), _FIX).after(opening),
        RemoteCheck("acl", lambda: access_findings(address, client, answer_s), _FIX).after(opening),
        RemoteCheck("pubsub", lambda: _pubsub_findings(settings, client, answer_s), _FIX).after(opening),
        *(each.after(opening) for each in deployment_checks(settings, client)),
    ]
    try:
        reported, findings = await asyncio.gather(_reported_findings(address, answer_s), run_checks(checks, deadline))
        return [*reported, *findings]
    finally:
        opening.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.close()


async def _reported_findings(address: RedisUrl, answer_s: float) -> list[Finding]:
    view = await cluster_view(address, answer_s)
    reports = await asyncio.gather(*(_report(address, member, answer_s) for member in view.members))
    return node_findings(reports, view.strangers)


async def _report(address: RedisUrl, member: MemberNode, answer_s: float) -> NodeReport:
    try:
        info, options = await ask_node(address, member.address, [("INFO",), ("CONFIG", "GET", *_OPTIONS)], answer_s)
    except (RedisUnavailable, TimeoutError) as error:
        return NodeReport(member, error=str(error) or f"no answer within {answer_s:g} s")
    if isinstance(info, ReplyError):
        return NodeReport(member, error=str(info))
    return NodeReport(member, parse_info(info), None if isinstance(options, ReplyError) else pairs_of(options))


async def _pubsub_findings(settings: Settings, client: ClusterClient, answer_s: float) -> list[Finding]:
    pubsub = ClusterPubSub(client, namespace=settings.namespace, probe_timeout_s=answer_s)
    try:
        await pubsub.open()
        failing = pubsub.failing
    except RedisUnavailable as error:
        return [Finding("pubsub", "fail", str(error), "check for a proxy that does not support SSUBSCRIBE")]
    finally:
        await pubsub.close()
    if failing:
        found = f"no probe arrived through {', '.join(failing)}"
        return [Finding("pubsub", "fail", found, "repair this node, or check for a proxy without SSUBSCRIBE")]
    return [Finding("pubsub", "ok", "a probe arrived through each primary")]


# ---- findings, from the reports alone


def node_findings(reports: Sequence[NodeReport], strangers: Sequence[NodeAddress] = ()) -> list[Finding]:
    """Return the findings about the nodes of a cluster. ``strangers``: nodes of the URL that are not part of it."""
    answered = [report for report in reports if report.error is None]
    return [
        nodes_finding(reports, strangers),
        coverage_finding(reports),
        *(_worst({report.name: check(report.info) for report in answered}) for check in INFO_CHECKS if answered),
        replicas_finding(reports),
        *option_findings(answered),
    ]


def nodes_finding(reports: Sequence[NodeReport], strangers: Sequence[NodeAddress]) -> Finding:
    """Return whether every node answers, and whether the URL names only nodes of this cluster."""
    silent = [f"{report.name} ({report.error})" for report in reports if report.error is not None]
    if silent:
        return Finding(
            "nodes", "fail", f"no answer from {'; '.join(silent)}", "start it, or remove it (CLUSTER FORGET)"
        )
    if strangers:
        names = ", ".join(f"{host}:{port}" for host, port in strangers)
        found = f"the URL names {names}, which is not in the cluster of the other nodes; a service may start on it"
        return Finding("nodes", "fail", found, "remove it from GREGOR_REDIS_URL, or add it again (CLUSTER MEET)")
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
        fix = "add a replica on another host (CLUSTER REPLICATE); if there is one, check its masteruser and masterauth"
        return Finding("replicas", "warn", found, fix)
    many = [
        each
        for each in primaries
        if _replicas(each) > 1 and (each.options or {}).get("min-replicas-to-write", "0") == "0"
    ]
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
    readable = {report.name: report.options or {} for report in reports}
    return [
        Finding("options", "ok", "can be read"),
        *(_option_finding(reports, option) for option in _CLUSTER_OPTIONS),
        *(_worst({name: check(options) for name, options in readable.items()}) for check in OPTION_CHECKS if reports),
    ]


def _option_finding(reports: Iterable[NodeReport], option: _ClusterOption) -> Finding:
    name = option.name
    values = {report.name: (report.options or {}).get(f"cluster-{name}", "") for report in reports}
    bad = [node for node, value in values.items() if value and option.is_bad(value)]
    if not bad:
        return Finding(name, "ok", ", ".join(sorted(filter(None, set(values.values())))) or "not known to this version")
    found = f"{values[bad[0]]} at {', '.join(bad)}: {option.effect}"
    return Finding(name, option.verdict, found, f"CONFIG SET cluster-{name}, to {option.wanted}, on each node")


def _worst(by_node: Mapping[str, Finding]) -> Finding:
    """Return the worst of the findings by node, with the names of the nodes that have it."""
    worst = max(by_node.values(), key=severity)
    if worst.verdict == "ok":
        return replace(worst, found=", ".join(sorted({each.found for each in by_node.values()})))
    names = ", ".join(name for name, each in by_node.items() if each.verdict == worst.verdict)
    return replace(worst, found=f"{worst.found} ({names})")


def _replicas(report: NodeReport) -> int:
    return sum(name.startswith("slave") and "state=online" in value for name, value in report.info.items())
