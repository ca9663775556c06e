"""`gregor keys` on the store itself: the way to create the first key of a deployment."""

import asyncio
import json
import os
import re
from pathlib import Path

import msgspec
import pytest

from gregor.cli import main
from gregor.cli.local import opened_store, service_settings
from gregor.store.contract.access import AuditEvent
from gregor.store.contract.store import Unavailable
from gregor.store.redis.access import RedisAccess


@pytest.fixture(autouse=True)
def deployment(
    monkeypatch: pytest.MonkeyPatch, redis_server: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A separate namespace for each test, and no running `gregor dev`."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("GREGOR_REDIS_URL", redis_server)
    monkeypatch.setenv("GREGOR_NAMESPACE", f"keys-{abs(hash(request.node.name)) % 10**9}")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["keys", *arguments])
    assert isinstance(ended.value.code, int)
    written = capsys.readouterr()
    return ended.value.code, written.out or written.err


def test_create_list_rotate_and_delete(capsys: pytest.CaptureFixture[str]) -> None:
    _, made = run(
        capsys, "create", "--scope", "ingest", "--scope", "read", "--prefix", "user.", "--rate", "5", "--json"
    )
    key = json.loads(made)
    assert re.fullmatch(r"gk_[A-Za-z0-9]+_[A-Za-z0-9_-]+", key["key"])
    assert (key["scopes"], key["prefixes"], key["rate"]) == (["ingest", "read"], ["user"], 5)

    _, listed = run(capsys, "list", "--json")
    assert json.loads(listed)["keys"] == [{name: key[name] for name in key if name != "key"}]

    _, rotated = run(capsys, "rotate", key["id"], "--json")
    assert json.loads(rotated)["id"] == key["id"]
    assert json.loads(rotated)["key"] != key["key"]

    assert run(capsys, "delete", key["id"])[0] == 0
    assert run(capsys, "list") == (0, "there are no keys\n")


def test_each_write_has_the_audit_event_of_the_api(capsys: pytest.CaptureFixture[str]) -> None:
    key_id = json.loads(run(capsys, "create", "--scope", "read", "--rate", "5", "--json")[1])["id"]
    run(capsys, "list")
    run(capsys, "rotate", key_id)
    run(capsys, "delete", key_id)
    run(capsys, "delete", key_id)

    events = asyncio.run(audit_trail())

    assert [(each.act, each.target) for each in events] == [
        ("deleteKey", {"key": key_id}),
        ("rotateKey", {"key": key_id}),
        ("createKey", {"created": key_id, "scopes": "read", "rate": "5"}),
    ]
    assert {(each.key, each.outcome, each.client) for each in events} == {("cli", "ok", None)}


async def audit_trail() -> list[AuditEvent]:
    async with opened_store(service_settings(os.environ)) as store:
        return [msgspec.json.decode(raw, type=AuditEvent) for _, raw in await store.access.audit_page(None, 10)]


def test_key_is_shown_although_the_audit_trail_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def append_audit(_access: RedisAccess, _event: bytes) -> None:
        raise Unavailable("full")

    monkeypatch.setattr(RedisAccess, "append_audit", append_audit)
    with pytest.raises(SystemExit) as ended:
        main(["keys", "create", "--scope", "read"])
    written = capsys.readouterr()

    assert (ended.value.code, written.out[:3]) == (0, "gk_")
    assert "the audit trail does not have it" in written.err


def test_list_shows_limits_to_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    async def create() -> None:
        async with opened_store(service_settings(os.environ)) as store:
            await store.access.create_key(["read"], [], systems=[])

    asyncio.run(create())

    assert run(capsys, "list")[1].endswith("no categories, no systems\n")


def test_expired_key_is_not_rotated(capsys: pytest.CaptureFixture[str]) -> None:
    async def create() -> str:
        async with opened_store(service_settings(os.environ)) as store:
            return (await store.access.create_key(["read"], expires_us=1_700_000_000_000_000))[0].id

    status, said = run(capsys, "rotate", asyncio.run(create()))

    assert (status, said) == (1, "gregor: The key expired at 2023-11-14 22:13:20 UTC; create a new key.\n")


@pytest.mark.parametrize("command", ["rotate", "delete"])
def test_unknown_key_is_an_error(capsys: pytest.CaptureFixture[str], command: str) -> None:
    text = "gregor: unknown key abc; `gregor keys list` shows the ids\n"
    assert run(capsys, command, "abc") == (1, text)


@pytest.mark.parametrize("command", ["rotate", "delete"])
def test_secret_of_a_whole_key_is_not_in_the_error(capsys: pytest.CaptureFixture[str], command: str) -> None:
    status, text = run(capsys, command, f"gk_{'a' * 12}_{'S' * 43}")

    assert status == 2
    assert "whole service key" in text
    assert "SSS" not in text


def test_key_in_the_environment_needs_an_ingest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """GREGOR_REDIS_URL is set, so the advice to set it would be of no use."""
    monkeypatch.setenv("GREGOR_KEY", "gk_a_b")

    status, said = run(capsys, "list")

    assert (status, "unset GREGOR_KEY" in said) == (1, True)


def test_unreachable_redis_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GREGOR_REDIS_URL", "redis://:hunter2@127.0.0.1:1/0")

    status, said = run(capsys, "list")

    assert (status, said.count("\n")) == (1, 1)
    assert "Redis cannot be used" in said
    assert "hunter2" not in said
