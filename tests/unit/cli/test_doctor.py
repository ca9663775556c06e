"""The doctor's findings: on real servers, and on what INFO may say."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from gregor.cli import main
from gregor.cli.doctor import eviction_finding, parse_info, persistence_finding, version_finding
from gregor.dev.embedded_redis import EmbeddedServer
from gregor.redis.client import RedisClient
from gregor.store.redis.keys import PARTITIONS, Keys


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def findings(url: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, str]]]:
    status = run("doctor", "--redis", url, "--json")
    return status, {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)}


def test_a_server_with_an_append_only_file_passes_every_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with EmbeddedServer(data=tmp_path / "data") as server:
        status, found = findings(server.url, capsys)

    assert status == 0
    redis = ["version", "eviction", "persistence", "clock", "partitions", "pubsub"]
    assert list(found) == ["secrets", *redis, "apns", "fcm", "webpush", "email"]
    assert {finding["verdict"] for finding in found.values()} == {"ok"}


@pytest.mark.parametrize("fixture", ["redis_server", "valkey_server"])
def test_each_kind_of_server_is_known_and_one_without_persistence_is_warned_of(
    fixture: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = findings(request.getfixturevalue(fixture), capsys)

    assert status == 0
    assert (found["version"]["verdict"], found["pubsub"]["verdict"]) == ("ok", "ok")
    assert found["persistence"]["verdict"] == "warn"
    assert found["persistence"]["mend"] == "set appendonly yes"


def test_a_clock_that_is_set_apart_is_warned_of(
    redis_server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GREGOR_CLOCK_OFFSET", "1h")

    _, found = findings(redis_server, capsys)

    assert found["clock"]["verdict"] == "warn"
    said = re.match(r"server (-\d+\.\d+) s", found["clock"]["found"])
    assert said is not None and -3601 < float(said[1]) < -3599


async def _store_partitions(url: str, namespace: str, count: int) -> None:
    link = RedisClient(url)
    await link.open()
    await link.call("SET", Keys(namespace).partitions, count)
    await link.close()


def test_a_store_of_another_number_of_partitions_fails(
    redis_server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GREGOR_NAMESPACE", "doctor-test")
    asyncio.run(_store_partitions(redis_server, "doctor-test", 64))

    status, found = findings(redis_server, capsys)

    assert status == 1
    assert found["partitions"]["found"] == f"the store has 64, this version {PARTITIONS}"


def test_a_provider_that_is_not_set_up_is_no_fault_and_one_that_is_wrong_fails_with_its_mend(
    redis_server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("GREGOR_FCM_CREDENTIALS_FILE", str(tmp_path / "nothing.json"))

    status, found = findings(redis_server, capsys)

    assert status == 1
    assert (found["apns"]["verdict"], found["apns"]["found"]) == ("ok", "not set up")
    assert (found["fcm"]["verdict"], found["fcm"]["found"]) == ("fail", "does not take us")
    assert "nothing.json cannot be read" in found["fcm"]["mend"]


def test_a_redis_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    status = run("doctor", "--redis", "redis://:hunter2@127.0.0.1:1/0")

    said = capsys.readouterr().err
    assert (status, said.count("\n")) == (1, 1)
    assert "Redis cannot be used" in said
    assert "hunter2" not in said


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
def test_a_server_that_is_too_old_fails(info: str, verdict: str) -> None:
    assert version_finding(parse_info(info.encode())).verdict == verdict


@pytest.mark.parametrize(
    ("policy", "maxmemory", "verdict"),
    [("noeviction", "1000", "ok"), ("allkeys-lru", "0", "warn"), ("allkeys-lru", "1000", "fail")],
)
def test_a_server_that_would_throw_state_away_fails(policy: str, maxmemory: str, verdict: str) -> None:
    assert eviction_finding({"maxmemory_policy": policy, "maxmemory": maxmemory}).verdict == verdict


def test_an_append_only_file_that_cannot_be_written_fails() -> None:
    assert persistence_finding({"aof_enabled": "1", "aof_last_write_status": "err"}).verdict == "fail"
