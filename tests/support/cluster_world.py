"""A cluster client on a fake cluster, driven step by step, and the laws that hold after every schedule."""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import dataclass
from typing import Any, Final

from gregor.redis.cluster.client import ClusterClient
from gregor.redis.commands import Script
from gregor.redis.connection import pack_script
from gregor.redis.errors import RedisConnectionLost, RedisUnavailable, ReplyError
from tests.support.fake_cluster import ADD, KEPT, PUSH, FakeCluster
from tests.support.manual_loop import ManualLoop
from tests.support.redis_cluster import key_of

SLOTS: Final = tuple(KEPT)
KEYS: Final = {slot: tuple(key_of(slot, prefix) for prefix in "abc") for slot in SLOTS}
SLOWEST_S: Final = 12.0
"""The longest way to an outcome: in flight until dead, repeated, in flight until dead again, and the waiting."""


@dataclass
class Issued:
    """A command that the test issued."""

    slot: int
    token: str
    script: Script
    future: asyncio.Future[Any]

    @property
    def outcome(self) -> str:
        """``ok``, ``lost`` (unknown), ``refused`` (not executed), ``error`` (a reply) or ``open``."""
        if not self.future.done():
            return "open"
        match self.future.exception():
            case None:
                return "ok"
            case RedisConnectionLost():
                return "lost"
            case RedisUnavailable():
                return "refused"
            case ReplyError():
                return "error"
            case other:
                raise AssertionError(f"not an outcome of a command: {other!r}")


class ClusterWorld:
    """The client, the cluster, and everything that was issued."""

    def __init__(self, **options: Any) -> None:
        random.seed(0)  # the jitter of the client: a schedule must be the same each time
        self._options = options
        self.loop = ManualLoop()
        asyncio.set_event_loop(self.loop)
        self.cluster = FakeCluster()
        self.issued: list[Issued] = []
        self._tokens = itertools.count()
        self.client = self.loop.complete(self._open())
        self.settle()

    async def _open(self) -> ClusterClient:
        client = ClusterClient(self.cluster.url, opener=self.cluster.open, **self._options)
        serving = asyncio.ensure_future(self._serve())
        await client.open()
        await client.load([PUSH, ADD])
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        return client

    async def _serve(self) -> None:
        while True:
            self.cluster.run()
            await asyncio.sleep(0.001)

    # ---- what can happen

    def issue(self, slot: int, script: Script, keys: int) -> None:
        """Issue one command with so many keys of the slot."""
        token = str(next(self._tokens))
        names = KEYS[slot][:keys] if keys < 3 else KEYS[slot][::-1][:2]
        call = script, pack_script(script.sha, names, [token])
        self.loop.inside(lambda: self.issued.append(Issued(slot, token, script, self.client.run(call))))

    def issue_many(self, slots: list[int], script: Script) -> None:
        """Issue a batch, as ``run_many``. Each call gets its own outcome."""
        tokens = [str(next(self._tokens)) for _ in slots]
        calls = [
            (script, pack_script(script.sha, KEYS[slot][:1], [token]))
            for slot, token in zip(slots, tokens, strict=True)
        ]
        futures = [self.loop.create_future() for _ in slots]
        self.issued += [Issued(slot, t, script, f) for slot, t, f in zip(slots, tokens, futures, strict=True)]

        async def run() -> None:
            for future, outcome in zip(futures, await self.client.run_many(calls), strict=True):
                if future.done():
                    continue
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

        self.loop.create_task(run())
        self.loop.settle()

    def settle(self) -> None:
        """Let everything that was sent arrive and be answered, without time passing."""
        self.loop.settle()
        busy = [True]
        while busy.pop():
            self.loop.inside(lambda: busy.append(self.cluster.run()))

    def advance(self, seconds: float) -> None:
        """Let time pass while messages do not move."""
        self.loop.advance(seconds)

    def flow(self, seconds: float) -> None:
        """Let time pass while messages move."""
        until = self.loop.now + seconds
        while True:
            self.settle()
            when = self.loop.next_timer()
            if when is None or when > until:
                break
            self.loop.advance(max(0.0, when - self.loop.now))
        self.loop.advance(until - self.loop.now)
        self.settle()

    # ---- the laws

    def check_safety(self) -> None:
        """Check the laws that hold at every moment."""
        by_token = {each.token: each for each in self.issued}
        executions: dict[str, int] = {}
        for execution in self.cluster.log:
            executions[execution.token] = executions.get(execution.token, 0) + 1
        for token, command in by_token.items():
            count, outcome = executions.get(token, 0), command.outcome
            if outcome == "ok":
                assert count >= 1, f"{command} was acknowledged without execution"
            # A repeated call may be refused although its first execution succeeded, and only the reply was lost.
            if outcome == "refused" or (outcome == "error" and command.script is PUSH):
                assert count == 0, f"{command} was reported as not executed"
            if command.script is PUSH:
                assert count <= 1, f"{command} was executed {count} times, and is not repeatable"
        acknowledged = {token for token, command in by_token.items() if command.outcome == "ok"}
        # The client cannot know that a call was refused if the connection broke; it repeats the call, and a later one
        # on the same connection may have been executed first.
        acknowledged -= self.cluster.without_script | self.cluster.refused_unseen
        for slot in SLOTS:
            order = [
                int(each.token)
                for each in self.cluster.log
                if each.slot == slot and each.has_effect and each.survived and each.token in acknowledged
            ]
            assert order == sorted(order), f"acknowledged commands of slot {slot} took effect in the order {order}"

    def check_liveness(self) -> None:
        """End every fault. Then each command has an outcome in bounded time, and each slot works."""
        self.loop.inside(self.cluster.repair)
        self.flow(SLOWEST_S)
        hanging = [each for each in self.issued if each.outcome == "open"]
        assert not hanging, f"no outcome: {hanging}"
        start = len(self.issued)
        for slot in SLOTS:
            self.issue(slot, PUSH, 2)
        self.flow(2.0)
        stuck = [each for each in self.issued[start:] if each.outcome != "ok"]
        assert not stuck, f"slots are stuck: {[(each, each.future) for each in stuck]}"
        self.flow(1.5)
        assert self.client.waiting == 0
        self.check_safety()

    def close(self) -> None:
        """Close the client. Nothing may hang, and no task may be left."""
        self.loop.complete(self.client.close())
        self.loop.settle()
        assert all(each.future.done() for each in self.issued)
        for each in self.issued:
            each.future.exception()
        tasks = asyncio.all_tasks(self.loop)
        assert not tasks, f"tasks were left: {tasks}"
        asyncio.set_event_loop(None)
        self.loop.close()
