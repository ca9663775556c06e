"""The findings of `gregor doctor`: on real servers, and for replies of INFO."""

import asyncio
import json
import re
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gregor.cli.doctor.command import redis_findings
from gregor.cli.doctor.deployment_findings import processes_finding
from gregor.cli.doctor.finding import CHECK_NAMES, Finding
from gregor.cli.doctor.host_findings import python_finding
from gregor.cli.doctor.remote_checks import Deadline
from gregor.cli.doctor.server import sentinels_finding
from gregor.cli.doctor.server_findings import (
    eviction_finding,
    parse_info,
    persistence_finding,
    replication_finding,
    version_finding,
)
from gregor.config.settings import Settings
from gregor.dev.embedded_redis import EmbeddedRedis
from gregor.redis.client import RedisClient
from gregor.redis.sentinel.query import ask_each
from gregor.redis.url import RedisUrl
from gregor.store.formats import DeploymentFormats, ProcessFormats, WrittenFormat
from gregor.store.redis.keys import Keys
from tests.support.fake_sentinel import FakeSentinel
from tests.support.servers import BINARIES, running_server
from tests.unit.cli.running import run


@pytest.fixture(autouse=True)
def deployment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A token secret is set, and no `gregor dev` is running."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("GREGOR_TOKEN_SECRET", "a-secret-of-at-least-32-bytes-for-hs256")


def findings(url: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, str]]]:
    status = run("doctor", "--redis", url, "--json", "--timeout", "30")
    return status, {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)}


def test_healthy_server_passes_every_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with EmbeddedRedis(data=tmp_path / "data") as server:
        status, found = findings(server.url, capsys)

    assert status == 0
    only_in_a_cluster = CHECK_NAMES[CHECK_NAMES.index("nodes") : CHECK_NAMES.index("partitions")]
    assert list(found) == [name for name in CHECK_NAMES if name not in {*only_in_a_cluster, "sentinels", "providers"}]
    warnings = {check for check, finding in found.items() if finding["verdict"] != "ok"}
    # Of this host and Python, of the defaults of a server, and of a namespace in which no service ran.
    assert warnings <= {"python", "file-descriptors", "memory", "pubsub-buffer", "services", "service-keys", "latency"}


def test_replica_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running_server(BINARIES[0], tmp_path) as primary, running_server(BINARIES[0], tmp_path) as replica:
        replica.say("REPLICAOF", "127.0.0.1", str(primary.port))

        status = run("doctor", "--redis", replica.url, "--json", "--timeout", "6")

    found = {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert status == 1
    assert found["role"]["found"] == "the server is a replica of 127.0.0.1: it accepts no writes"


def test_deployment_in_another_database_with_the_same_namespace_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def store(url: str, key: str) -> None:
        client = RedisClient(url)
        await client.open()
        await client.call("SET", key, 1_024)
        await client.close()

    with running_server(BINARIES[0], tmp_path) as server:
        first, third, fourth = (f"redis://127.0.0.1:{server.port}/{database}" for database in (0, 3, 4))
        asyncio.run(store(third, Keys("gregor").partitions))
        asyncio.run(store(fourth, Keys("other").partitions))
        _, own = findings(first, capsys)
        _, other = findings(third, capsys)

    assert own["databases"]["verdict"] == "fail"
    assert own["databases"]["found"].startswith("database 3 has another deployment 'gregor'.")
    assert other["databases"]["verdict"] == "ok"


@pytest.mark.parametrize("fixture", ["redis_server", "valkey_server"])
def test_server_without_persistence_is_a_warning(
    fixture: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = findings(request.getfixturevalue(fixture), capsys)

    assert status == 0
    assert (found["version"]["verdict"], found["pubsub"]["verdict"]) == ("ok", "ok")
    assert found["persistence"]["verdict"] == "warn"
    assert found["persistence"]["fix"] == "set appendonly yes"


def test_clock_skew_is_a_warning(
    redis_server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GREGOR_CLOCK_OFFSET", "1h")

    _, found = findings(redis_server, capsys)

    assert found["clock"]["verdict"] == "warn"
    match = re.match(r"server (-\d+\.\d+) s", found["clock"]["found"])
    assert match is not None and -3601 < float(match[1]) < -3599


async def _store_partitions(url: str, namespace: str, count: int) -> None:
    link = RedisClient(url)
    await link.open()
    await link.call("SET", Keys(namespace).partitions, count)
    await link.close()


def test_other_number_of_partitions_fails(
    redis_server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GREGOR_NAMESPACE", "doctor-test")
    asyncio.run(_store_partitions(redis_server, "doctor-test", 64))

    status, found = findings(redis_server, capsys)

    assert status == 1
    assert found["partitions"]["found"] == "the store has 64, GREGOR_PARTITIONS is 1024"
    assert found["partitions"]["fix"] == "set GREGOR_PARTITIONS=64, or use another namespace"


def test_wrong_credentials_of_a_provider_fail(
    redis_server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("GREGOR_FCM_CREDENTIALS_FILE", str(tmp_path / "nothing.json"))

    status, found = findings(redis_server, capsys)

    assert status == 1
    assert (found["apns"]["verdict"], found["apns"]["found"]) == ("ok", "not set up")
    assert (found["fcm"]["verdict"], found["fcm"]["found"]) == ("fail", "it cannot be used: no push or e-mail leaves")
    assert "nothing.json cannot be read" in found["fcm"]["fix"]


def test_unreachable_redis_is_a_finding_beside_others(capsys: pytest.CaptureFixture[str]) -> None:
    status, found = findings("redis://:hunter2@127.0.0.1:1/0", capsys)

    assert status == 1 and found["tokens"]["verdict"] == "ok" and "version" not in found
    assert found["redis"]["verdict"] == "fail" and "hunter2" not in found["redis"]["found"]
    assert "Redis cannot be used at redis://" in found["redis"]["found"]


def test_fix_of_a_wrong_password_names_the_rules_of_the_user(
    redis_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = findings(redis_server.replace("redis://", "redis://gregor-ingest:hunter2@"), capsys)

    assert (status, found["redis"]["verdict"]) == (1, "fail")
    assert "WRONGPASS" in found["redis"]["found"] and "users.acl" in found["redis"]["fix"]
    assert "start Redis" not in found["redis"]["fix"]


@pytest.mark.parametrize("url", ["localhost:6379", "redis://127.0.0.1:99999/0", "redis://[::1/0", "http://x"])
def test_invalid_redis_url_is_one_line(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "--redis", url) == 2

    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    lines = [line for line in (printed.out + printed.err).splitlines() if "redis" in line.lower()]
    assert len(lines) == 1


def test_missing_key_for_device_tokens_fails(
    redis_server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GREGOR_TOKEN_SECRET")

    status, found = findings(redis_server, capsys)

    assert (status, found["tokens"]["verdict"]) == (1, "fail")
    assert found["tokens"]["fix"] == "set GREGOR_TOKEN_SECRET or GREGOR_TOKEN_JWKS"


@pytest.mark.parametrize(
    ("info", "verdict"),
    [
        ("redis_version:7.2.0", "ok"),
        ("redis_version:8.0.2", "ok"),
        ("redis_version:7.0.15", "fail"),
        ("redis_version:7.2.4\r\nvalkey_version:8.1.1", "ok"),
        ("redis_version:7.2.4\r\nvalkey_version:7.2.9", "fail"),
        ("", "fail"),
    ],
)
def test_old_server_fails(info: str, verdict: str) -> None:
    assert version_finding(parse_info(info.encode())).verdict == verdict


@pytest.mark.parametrize(
    ("policy", "maxmemory", "verdict"),
    [("noeviction", "1000", "ok"), ("allkeys-lru", "0", "warn"), ("allkeys-lru", "1000", "fail")],
)
def test_server_that_evicts_keys_fails(policy: str, maxmemory: str, verdict: str) -> None:
    assert eviction_finding({"maxmemory_policy": policy, "maxmemory": maxmemory}).verdict == verdict


def test_unwritable_append_only_file_fails() -> None:
    assert persistence_finding({"aof_enabled": "1", "aof_last_write_status": "err"}).verdict == "fail"


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        ((3, 11, 7), "warn"),
        ((3, 11, 9), "warn"),
        ((3, 11, 10), "ok"),
        ((3, 12, 5), "warn"),
        ((3, 12, 6), "ok"),
        ((3, 13, 0), "ok"),
        ((3, 14, 0), "ok"),
    ],
)
def test_python_with_known_vulnerabilities_is_a_warning(version: tuple[int, int, int], verdict: str) -> None:
    found = python_finding(version)

    assert found.verdict == verdict
    assert ("CVE-2024-7592" in found.found) == (verdict == "warn")


@pytest.mark.parametrize(
    ("info", "verdict", "found"),
    [
        ({}, "ok", "no replica"),
        ({"slave0": "ip=a,state=online"}, "ok", "1 in sync"),
        ({"slave0": "ip=a,state=wait_bgsave"}, "ok", "no replica"),
        ({"slave0": "state=online", "slave1": "state=online"}, "warn", "2 in sync; a primary that loses them"),
        ({"slave0": "state=online", "slave1": "state=online", "min_slaves_good_slaves": "2"}, "ok", "2 in sync"),
    ],
)
def test_replicas_are_counted(info: dict[str, str], verdict: str, found: str) -> None:
    finding = replication_finding(info)

    assert finding.verdict == verdict
    assert finding.found.startswith(found)


async def test_sentinels_are_compared(redis_server: str) -> None:
    port = int(re.findall(r":(\d+)", redis_server)[0])
    async with AsyncExitStack() as stack:
        fakes = [await stack.enter_async_context(FakeSentinel(("127.0.0.1", port))) for _ in range(3)]
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in fakes)
        settings = Settings(redis_url=f"redis+sentinel://{hosts}/gregor/0")

        async def found() -> Finding:
            return next(each for each in await redis_findings(settings, Deadline.after(9)) if each.check == "sentinels")

        assert await found() == Finding("sentinels", "ok", "3 name the same primary")
        fakes[0].primary, fakes[0].epoch = ("127.0.0.1", 1), 0
        assert (await found()).found == f"they name different primaries: 127.0.0.1:1 and 127.0.0.1:{port}"
        fakes[0].is_hung = True
        assert "did not answer" in (await found()).found


async def test_too_few_sentinels_are_a_warning() -> None:
    async with FakeSentinel(("127.0.0.1", 1)) as sentinel:
        answers = await ask_each(RedisUrl.parse(f"redis+sentinel://127.0.0.1:{sentinel.port}/gregor/0"))

    assert sentinels_finding(answers).verdict == "warn"


OLD = ProcessFormats("h:1", "gateway", "0.1.0", (1, 1), 1)
NEW = ProcessFormats("h:2", "ingest", "0.2.0", (1, 2), 1)


@pytest.mark.parametrize(
    ("written", "running", "verdict", "found"),
    [
        (1, [], "ok", "there are no processes"),
        (1, [OLD], "ok", "1 run release 0.1.0"),
        (1, [OLD, NEW], "warn", "2 run release 0.1.0 and 0.2.0"),
        (1, [NEW], "warn", "1 run release 0.2.0"),
        (2, [NEW], "ok", "1 run release 0.2.0"),
        (2, [OLD, NEW], "fail", "cannot read format 2: gateway h:1"),
    ],
)
def test_processes_of_an_unfinished_upgrade_are_found(
    written: int, running: list[ProcessFormats], verdict: str, found: str
) -> None:
    finding = processes_finding(DeploymentFormats(WrittenFormat(written, "0.1.0"), running))

    assert (finding.verdict, finding.found) == (verdict, found)
    assert bool(finding.fix) == (verdict != "ok")


def test_strict_counts_warnings_and_quiet_hides_the_rest(redis_server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The server of the tests has no append-only file."""
    arguments = ("doctor", "--redis", redis_server, "--timeout", "30", "--quiet")
    assert (run(*arguments), run(*arguments, "--strict")) == (0, 1)

    printed = capsys.readouterr().out
    assert "\nwarn  persistence " in printed and "-> set appendonly yes" in printed
    assert not any(line.startswith("ok") for line in printed.splitlines())
    assert re.search(r"^\d+ ok, \d+ warnings, 0 failures", printed, re.MULTILINE)
