"""The job that rewrites stored values: it finds every key, also after a crash, and then records the oldest format."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gregor.jobs.rewrite import REWRITE, RewriteSteps
from gregor.jobs.runner import JobStep
from gregor.redis.commands import Script
from gregor.store.formats import ProcessFormats
from gregor.store.jobs import Job
from gregor.store.redis.deployment import RedisDeployment
from gregor.store.redis.rewriting import RedisRewriting
from tests.unit.store.redis_setup import RedisSetup

pytestmark = pytest.mark.redis

COUNT = 1_200
"""More than two pages."""
REWRITER = Script("""
if redis.call('HGET', KEYS[1], '.h') ~= 'H' then return 0 end
redis.call('HSET', KEYS[1], '.h', '2')
return 1
""")


async def stored_users(setup: RedisSetup) -> RewriteSteps:
    """Store users of format 1 in a deployment that writes format 2. Returns the steps of the job."""
    await setup.connection.call("HSET", setup.keys.formats, "written", 2, "release", "0.2.0", "oldest", 1)
    await setup.connection.load((REWRITER,))
    for number in range(COUNT):
        await setup.connection.call("HSET", setup.keys.of_user(f"u{number}").state, ".h", "H")
    deployment = RedisDeployment(setup.connection, setup.keys)
    return RewriteSteps(deployment, RedisRewriting(setup.connection, setup.keys, {"h": REWRITER}))


def job_at(cursor: Any) -> Job:
    return Job(id="rewrite-2", kind=REWRITE, params={"format": 2}, number=1, created_us=0, changed_us=0, cursor=cursor)


async def heads(setup: RedisSetup) -> set[bytes]:
    calls = [setup.connection.call("HGET", setup.keys.of_user(f"u{n}").state, ".h") for n in range(COUNT)]
    return {await call for call in calls}


async def oldest(setup: RedisSetup) -> bytes:
    found: bytes = await setup.connection.call("HGET", setup.keys.formats, "oldest")
    return found


async def run(steps: RewriteSteps, cursor: Any = None) -> JobStep:
    """Run the job from a cursor to its end. Each cursor passes through JSON, as in the store."""
    for _ in range(1_000):
        step = await steps.step(job_at(cursor))
        if step.is_last:
            return step
        cursor = msgspec.json.decode(msgspec.json.encode(step.cursor))
    raise AssertionError("the job does not end")


async def test_all_values_are_rewritten(real_setup: RedisSetup) -> None:
    steps = await stored_users(real_setup)

    await run(steps)

    assert await heads(real_setup) == {b"2"}
    assert await oldest(real_setup) == b"2"


@pytest.mark.parametrize("changed", ["server_id", "left"])
async def test_cursor_of_another_server_is_not_used(real_setup: RedisSetup, changed: str) -> None:
    """After a restart or a failover, the cursor of SCAN belongs to another hash table: keys would be missed."""
    steps = await stored_users(real_setup)
    position = (await steps.step(job_at(None))).cursor
    begin = await last_page(real_setup)
    foreign: dict[str, Any] = {"server_id": "other"} if changed == "server_id" else {"left": ["gone:1"]}

    await run(steps, {**position, "cursor": begin, **foreign})

    assert await heads(real_setup) == {b"2"}


async def last_page(setup: RedisSetup) -> str:
    """Return the cursor of the last page of a search, and rewrite its keys: the page has no findings."""
    begin, cursor = b"0", b""
    while cursor != b"0":
        begin = cursor or b"0"
        cursor, found = await setup.connection.call("SCAN", begin, "MATCH", f"{setup.keys.namespace}:*", "COUNT", 500)
    for key in found:
        if setup.keys.kind_of(key.decode()) == "h":
            await setup.connection.call("HSET", key, ".h", "2")
    return begin.decode()


async def test_job_ends_after_a_pass_without_findings(real_setup: RedisSetup) -> None:
    """A value that was written in the old format behind the search is found by the next pass."""
    steps = await stored_users(real_setup)
    cursor: Any = None
    while cursor is None or cursor["left"] != []:
        cursor = (await steps.step(job_at(cursor))).cursor
    await real_setup.connection.call("HSET", real_setup.keys.of_user("u7").state, ".h", "H")

    await run(steps, cursor)

    assert await heads(real_setup) == {b"2"}


async def test_job_waits_for_processes_that_write_the_old_format(real_setup: RedisSetup) -> None:
    steps = await stored_users(real_setup)
    seconds, _ = await real_setup.connection.call("TIME")
    late = ProcessFormats("h:1", "gateway", "0.2.0", (1, 2), 1)
    key = real_setup.keys.processes
    await real_setup.connection.call("ZADD", key, (int(seconds) + 60) * 1_000_000, late.encode())

    step = await steps.step(job_at(None))

    assert step.waits_for == "1 processes do not write format 2 yet"
    assert await oldest(real_setup) == b"1"
    await real_setup.connection.call("DEL", key)
    await run(steps, step.cursor)
    assert await heads(real_setup) == {b"2"}


async def test_release_without_new_layouts_has_nothing_to_do(real_setup: RedisSetup) -> None:
    await stored_users(real_setup)
    deployment = RedisDeployment(real_setup.connection, real_setup.keys)

    step = await RewriteSteps(deployment, RedisRewriting(real_setup.connection, real_setup.keys)).step(job_at(None))

    assert step.is_last
    assert await oldest(real_setup) == b"2"
