"""An audit checks each known user, names the ones with a fault, and ends, whatever its process and its servers do."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any

import structlog
from hypothesis import given
from hypothesis import strategies as st

from gregor.clock import ManualClock
from gregor.core.limits import Limits
from gregor.jobs.audit import AUDIT, NAMED_USERS, SHARE, AuditSteps
from gregor.jobs.runner import LEASE_US, JobRunner
from gregor.reference.store import MemoryStore
from gregor.store.contract.store import Unavailable, UnreadableValue
from gregor.store.jobs import JobState
from tests.support.builders import NOW_US

READ_S = 0.02


class FaultyUsers:
    """Users with planted faults. A read takes ``READ_S``; some reads fail, or their process dies."""

    def __init__(self, clock: ManualClock, faults: dict[str, str], troubles: list[str]) -> None:
        self._clock, self._faults, self._troubles = clock, faults, list(troubles)
        self.read: Counter[str] = Counter()

    async def wrong_digests(self, uid: str) -> list[str]:
        self._clock.advance(READ_S)
        trouble = self._troubles.pop(0) if self._troubles else "none"
        if trouble == "fails":
            raise Unavailable("the server is away")
        if trouble == "dies":
            raise asyncio.CancelledError
        self.read[uid] += 1
        fault = self._faults.get(uid)
        if fault == "unreadable":
            raise UnreadableValue("record", 63)
        return [] if fault is None else ["", "phone"]


@given(
    count=st.integers(0, 150),
    faults=st.dictionaries(st.integers(0, 149), st.sampled_from(["wrong_digest", "unreadable"]), max_size=30),
    troubles=st.lists(st.sampled_from(["none", "fails", "dies"]), max_size=12),
)
def test_audit_reports_each_fault_once(count: int, faults: dict[int, str], troubles: list[str]) -> None:
    async def scenario() -> None:
        store, clock = MemoryStore(Limits()), ManualClock(NOW_US)
        uids = [f"user-{n}" for n in range(count)]
        for uid in uids:
            await store.devices.ensure_device(uid, "phone", NOW_US)
        planted = {f"user-{n}": kind for n, kind in faults.items() if n < count}
        users = FaultyUsers(clock, planted, troubles)
        slept_s = 0.0

        async def sleep(seconds: float) -> None:
            nonlocal slept_s
            slept_s += seconds
            clock.advance(max(seconds, 1e-6))  # the clock counts whole µs

        await store.jobs.create("audit", AUDIT, {}, NOW_US)
        with structlog.testing.capture_logs() as logged:
            for _ in range(len(troubles) + 2):
                steps: Any = AuditSteps(users, store.agenda, clock, lambda kind, outcome, number: None)  # type: ignore[arg-type]
                with suppress(asyncio.CancelledError):
                    await JobRunner(store.jobs, clock, {AUDIT: steps}, sleep=sleep).run("audit")
                clock.advance(LEASE_US / 1e6)

        job = await store.jobs.get("audit")
        assert job is not None and job.state is JobState.DONE, job
        kinds = Counter(planted.values())
        assert job.result == {
            "checked": count,
            "wrong_digest": kinds["wrong_digest"],
            "unreadable": kinds["unreadable"],
        }
        named = [(each["event"], each["uid"]) for each in logged if each["event"].startswith("audit.")]
        assert set(named) <= {(f"audit.{kind}", uid) for uid, kind in planted.items()}
        assert len(set(named)) == min(NAMED_USERS, len(planted))
        if not troubles:
            assert set(users.read) == set(uids) and max(users.read.values(), default=1) == 1
            assert slept_s >= count * READ_S * (1 / SHARE - 1) * 0.99, "the rest of the time is for others"

    asyncio.run(scenario())
