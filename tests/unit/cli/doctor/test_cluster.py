"""The findings of `gregor doctor` about a Redis Cluster: from reports of nodes, and on a real cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gregor.cli.doctor.cluster import NodeReport, node_findings
from gregor.cli.doctor.cluster_view import NodeView, newest_view
from gregor.cli.doctor.finding import Finding
from gregor.redis.cluster.slots import SLOTS, MemberNode
from tests.support.redis_cluster import ClusterNode, RedisCluster, cluster_binary, running_redis_cluster
from tests.unit.cli.running import run

HEALTHY = {
    "redis_version": "8.0.2",
    "maxmemory_policy": "noeviction",
    "aof_enabled": "1",
    "maxmemory": "1000",
    "slave0": "ip=10.0.0.9,port=6379,state=online,offset=1,lag=0",
}
OPTIONS = {
    "cluster-require-full-coverage": "no",
    "cluster-node-timeout": "5000",
    "cluster-allow-reads-when-down": "no",
    "cluster-allow-pubsubshard-when-down": "yes",
    "min-replicas-to-write": "0",
    "tcp-keepalive": "60",
}


def node(host: str = "b", *, options: dict[str, str] | None = OPTIONS, error: str | None = None, **info: str) -> Any:
    return NodeReport(MemberNode((host, 6379), True, SLOTS // 2), {} if error else {**HEALTHY, **info}, options, error)


def findings(*reports: NodeReport) -> dict[str, Finding]:
    return {finding.check: finding for finding in node_findings([node("a"), *reports])}


def bad(*reports: NodeReport) -> dict[str, tuple[str, str]]:
    return {name: (each.verdict, each.found) for name, each in findings(*reports).items() if each.verdict != "ok"}


def test_healthy_cluster_passes_every_check() -> None:
    found = findings(node(), NodeReport(MemberNode(("c", 6379), False, SLOTS // 2), HEALTHY, OPTIONS))

    assert {each.verdict for each in found.values()} == {"ok"}
    assert found["nodes"].found == "2 primaries and 1 replicas answer"


@pytest.mark.parametrize(
    ("report", "check", "verdict", "text"),
    [
        (node(redis_version="7.0.1"), "version", "fail", "redis 7.0.1 (b:6379)"),
        (node(maxmemory_policy="allkeys-lru"), "eviction", "fail", "(b:6379)"),
        (node(aof_enabled="0"), "persistence", "warn", "a restart loses the state (b:6379)"),
        (node(slave0="state=wait_bgsave"), "replicas", "warn", "no replica in sync: b:6379"),
        (node(slave1="state=online"), "replicas", "warn", "b:6379 accepts messages that will be lost"),
        (node(options=None), "options", "warn", "CONFIG GET is refused"),
        (
            *(node(options={**OPTIONS, "cluster-require-full-coverage": "yes"}), "require-full-coverage"),
            *("fail", "one missing shard stops all"),
        ),
        (node(options={**OPTIONS, "cluster-node-timeout": "15000"}), "node-timeout", "warn", "15000 at b:6379"),
        (
            *(node(options={**OPTIONS, "cluster-allow-reads-when-down": "yes"}), "allow-reads-when-down"),
            *("warn", "old state"),
        ),
        (
            *(node(options={**OPTIONS, "cluster-allow-pubsubshard-when-down": "no"}), "allow-pubsubshard-when-down"),
            *("warn", "devices receive nothing"),
        ),
    ],
)
def test_problem_of_one_node_is_named(report: NodeReport, check: str, verdict: str, text: str) -> None:
    found = bad(report)

    assert list(found) == [check] and found[check][0] == verdict and text in found[check][1]
    assert findings(report)[check].fix


def test_silent_primary_leaves_slots_unserved() -> None:
    found = bad(node(error="connection refused"))

    assert list(found) == ["nodes", "coverage"]
    assert "b:6379 (connection refused)" in found["nodes"][1]
    assert found["coverage"] == ("fail", f"{SLOTS // 2} of {SLOTS} slots are not served: their users get 503")


def view(asked: str, *members: str, is_ok: bool = True, epoch: int = 3, slots: int = SLOTS) -> NodeView:
    nodes = [MemberNode((name, 6379), True, slots // len(members)) for name in members]
    return NodeView((asked, 6379), (is_ok, epoch, slots), nodes)


@pytest.mark.parametrize(
    "other",
    [
        view("c", "c", is_ok=False, epoch=0, slots=0),
        view("c", "c", epoch=0),
        view("c", "c", is_ok=False, epoch=9),
    ],
    ids=["was reset", "another cluster", "was reset and met others"],
)
def test_view_of_a_node_outside_of_the_cluster_does_not_count(other: NodeView) -> None:
    found = newest_view([other, view("a", "a", "b")])

    assert [member.address[0] for member in found.members] == ["a", "b"]
    assert found.strangers == [("c", 6379)]
    [nodes, *_] = node_findings([node("a"), node("b")], found.strangers)
    assert (nodes.check, nodes.verdict) == ("nodes", "fail") and "the URL names c:6379" in nodes.found


def test_node_that_is_behind_is_no_stranger() -> None:
    found = newest_view([view("b", "a", "b", epoch=4), view("a", "a", epoch=3)])

    assert (len(found.members), found.strangers) == (2, [])


# ---- a real cluster

TIMEOUT_S = 9
SLACK_S = 5
"""For a machine with other work. The hung node itself costs nothing beyond the timeout."""
EXPECTED_WARNINGS = {"replicas", "memory", "pubsub-buffer", "services", "service-keys", "queue"}
"""The servers have the defaults, and no service ran."""


@pytest.fixture
def cluster(redis_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisCluster]:
    if cluster_binary() is None:
        pytest.skip("no server is installed")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("GREGOR_TOKEN_SECRET", "a-secret-of-at-least-32-bytes-for-hs256")
    monkeypatch.setenv("GREGOR_QUEUE_URL", redis_server)
    with running_redis_cluster(tmp_path / "redis", "--appendonly", "yes", replicas=0) as cluster:
        yield cluster


def checked(url: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, str]]]:
    status = run("doctor", "--redis", url, "--json", "--timeout", str(TIMEOUT_S))
    return status, {each["check"]: each for each in json.loads(capsys.readouterr().out)}


@pytest.mark.redis
def test_node_of_another_cluster_hides_no_node(
    cluster: RedisCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stray = ClusterNode(str(cluster_binary()), tmp_path / "stray").start()
    try:
        stray.ask("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)

        status, found = checked(cluster.url.replace("//", f"//127.0.0.1:{stray.port},"), capsys)
    finally:
        stray.kill()

    assert (status, found["coverage"]["verdict"]) == (1, "ok")
    assert f"the URL names 127.0.0.1:{stray.port}, which" in found["nodes"]["found"]


@pytest.mark.redis
def test_doctor_checks_a_real_cluster(cluster: RedisCluster, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = checked(cluster.url, capsys)
    assert status == 0
    warnings = {name for name, each in found.items() if each["verdict"] != "ok"}
    assert warnings - {"python", "file-descriptors", "latency"} == EXPECTED_WARNINGS
    assert found["pubsub"]["found"] == "a probe arrived through each primary"

    cluster.nodes[1].ask("CONFIG", "SET", "cluster-require-full-coverage", "yes")
    status, found = checked(cluster.url, capsys)
    assert (status, found["require-full-coverage"]["verdict"]) == (1, "fail")

    cluster.nodes[1].ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
    cluster.nodes[2].suspend()
    began_s = time.monotonic()
    status, found = checked(cluster.url, capsys)
    assert status == 1 and {found[each]["verdict"] for each in ("nodes", "coverage", "pubsub")} == {"fail"}
    assert time.monotonic() - began_s < TIMEOUT_S + SLACK_S
