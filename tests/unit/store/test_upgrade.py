"""Finishing an upgrade: a format is written only if every running process reads it, also in a race with a start."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gregor.core.errors import Problem
from gregor.store import formats
from gregor.store.formats import ProcessFormats, WrittenFormat, refusal
from gregor.store.redis.deployment import RedisDeployment
from tests.unit.store.redis_setup import RedisSetup

OLD = ProcessFormats("h:1:old", "gateway", "0.1.0", (1, 1), 1)

pytestmark = pytest.mark.redis


@pytest.fixture(autouse=True)
def next_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """The release under test reads format 2, too."""
    monkeypatch.setattr(formats, "READS", (1, 2))
    monkeypatch.setattr(formats, "FORMAT", 2)


class Interleaved:
    """Commands that run ``step`` after the write of a finish's mark, before the finish continues."""

    def __init__(self, connection: Any, step: Callable[[], Awaitable[object]]) -> None:
        self._connection = connection
        self._step = step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def call(self, *args: Any) -> asyncio.Future[Any]:
        reply = self._connection.call(*args)
        return asyncio.ensure_future(self._after(reply)) if args[0] == "HSET" and args[2] == "finishing" else reply

    async def _after(self, reply: Awaitable[Any]) -> Any:
        result = await reply
        await self._step()
        return result


async def started(setup: RedisSetup, service: str = "ingest") -> RedisDeployment:
    """Return a registered process of the next release, in a deployment that writes format 1."""
    await setup.connection.call("HSET", setup.keys.formats, "written", 1, "release", "0.1.0", "oldest", 1)
    deployment = RedisDeployment(setup.connection, setup.keys)
    await setup.connection.load(deployment.all_scripts)
    await deployment.agree(service)
    return deployment


async def register(setup: RedisSetup, process: ProcessFormats) -> None:
    seconds, _ = await setup.connection.call("TIME")
    await setup.connection.call("ZADD", setup.keys.processes, (int(seconds) + 60) * 1_000_000, process.encode())


async def stored(setup: RedisSetup) -> dict[bytes, bytes]:
    reply = await setup.connection.call("HGETALL", setup.keys.formats)
    return dict(zip(reply[::2], reply[1::2], strict=True))


# ---- the start


def test_release_that_misses_the_oldest_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would meet values that it cannot read, since they are rewritten only over time."""
    monkeypatch.setattr(formats, "READS", (2, 3))

    text = refusal(WrittenFormat(2, "0.2.0", oldest=1)) or ""

    assert "values of format 1 may still be stored" in text and "start gregor 0.2.0 again" in text
    assert "rewrite-2" in text
    assert refusal(WrittenFormat(2, "0.2.0", oldest=2)) is None


# ---- finishing


async def test_finish_changes_the_written_format_once(real_setup: RedisSetup) -> None:
    deployment = await started(real_setup)
    assert (await deployment.formats()).state == "possible"

    for _ in range(2):
        assert (await deployment.finish_upgrade()).state == "finished"

    written = await deployment.written_format()
    assert written is not None and (written.number, written.oldest, written.finishing) == (2, 1, 0)
    assert [each.writes for each in await deployment.processes()] == [2]
    await deployment.close()
    assert await deployment.processes() == []


async def test_finish_is_refused_while_a_process_blocks(real_setup: RedisSetup) -> None:
    deployment = await started(real_setup)
    await register(real_setup, OLD)
    before = await stored(real_setup)

    with pytest.raises(Problem, match=r"gateway h:1:old \(gregor 0\.1\.0\)") as raised:
        await deployment.finish_upgrade()

    assert raised.value.code == "upgrade_blocked"
    assert await stored(real_setup) == before


async def test_process_that_starts_during_a_finish_blocks_it(real_setup: RedisSetup) -> None:
    """It registered before the finish read the processes a second time."""
    await started(real_setup)
    before = await stored(real_setup)
    commands: Any = Interleaved(real_setup.connection, lambda: register(real_setup, OLD))

    with pytest.raises(Problem, match="h:1:old"):
        await RedisDeployment(commands, real_setup.keys).finish_upgrade()

    assert await stored(real_setup) == before


async def test_older_release_does_not_start_during_a_finish(
    real_setup: RedisSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It registered after the finish read the processes, and therefore sees the mark."""
    await started(real_setup)
    await real_setup.connection.call("HSET", real_setup.keys.formats, "finishing", "2 abc")
    monkeypatch.setattr(formats, "READS", (1, 1))

    with pytest.raises(ValueError, match="has format 2"):
        await RedisDeployment(real_setup.connection, real_setup.keys).agree("gateway")

    assert len(await (RedisDeployment(real_setup.connection, real_setup.keys)).processes()) == 1


async def test_two_finishes_at_once_do_not_mix(real_setup: RedisSetup) -> None:
    """The mark of the first is replaced, so it must not decide by what it read."""
    deployment = await started(real_setup)
    commands: Any = Interleaved(real_setup.connection, deployment.finish_upgrade)

    with pytest.raises(Problem, match="Another request finishes"):
        await RedisDeployment(commands, real_setup.keys).finish_upgrade()

    assert (await stored(real_setup))[b"written"] == b"2"


async def test_finish_of_a_process_that_died_is_completed(real_setup: RedisSetup) -> None:
    deployment = await started(real_setup)
    await real_setup.connection.call("HSET", real_setup.keys.formats, "finishing", "2 abc")

    await deployment.finish_upgrade()

    assert (await stored(real_setup))[b"written"] == b"2"
    assert b"finishing" not in await stored(real_setup)


# ---- following the written format


async def test_process_follows_the_written_format(real_setup: RedisSetup) -> None:
    deployment = await started(real_setup)
    await real_setup.connection.call("HSET", real_setup.keys.formats, "written", 2)

    await deployment._follow_written()

    assert deployment.written == 2 and deployment.own is not None and deployment.own.writes == 2
    assert await deployment.processes() == [deployment.own]


async def test_finish_lost_by_a_failover_is_repeated(real_setup: RedisSetup) -> None:
    """Values of format 2 are stored already: an older release must not start and meet them."""
    deployment = await started(real_setup)
    await deployment.finish_upgrade()
    await real_setup.connection.call("HSET", real_setup.keys.formats, "written", 1, "release", "0.1.0")

    await deployment._follow_written()

    assert (await stored(real_setup))[b"written"] == b"2"


async def test_process_that_missed_the_finish_must_end(real_setup: RedisSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hung for longer than its registration, so the finish did not see it."""
    deployment = await started(real_setup)
    await deployment.finish_upgrade()
    monkeypatch.setattr(formats, "READS", (1, 1))

    with pytest.raises(ValueError, match="has format 2"):
        await deployment._follow_written()
