"""The job that sends one external message to many users, partition by partition, at an even pace.

Each user gets the message by a normal commit. Its message id is that of the job, so a step that runs twice sends
nothing twice (semantics.md L2).
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import replace

from gregor.clock import Clock
from gregor.core.ids import BACKEND
from gregor.core.limits import DAY_US, SECOND_US, Limits
from gregor.core.messages.model import Commit, Message, Receipt, Sender
from gregor.core.messages.parse import parse_message
from gregor.core.messages.plan import plan
from gregor.store.contract.store import CommitResult, Store, Unavailable, UnreadableValue
from gregor.store.jobs import Job

from .partition_cursor import UserCursor
from .runner import JobStep
from .user_batch import CountUsers, UserBatch, next_batch

BROADCAST: Final = "broadcast"
"""The kind of this job."""
PARTITIONS_AT_ONCE: Final = 64
USERS_AT_ONCE: Final = 500
"""Users of one step: about 20 ms of Redis, between the commits of others."""
RECENT_US: Final = 300 * SECOND_US
"""A user without a connection counts as online for this time: the device may be reconnecting."""

BroadcastAudience = Literal["online", "all"]
BroadcastOutcome = Literal["sent", "offline", "refused"]


class BroadcastParams(msgspec.Struct, frozen=True):
    """The parameters of the job. ``spread``: seconds from the first to the last user."""

    system: str
    body: Any
    spread: int
    audience: BroadcastAudience

    def message(self, limits: Limits, message_id: str | None = None) -> Message:
        """Return the message that each user gets. Raises ``Problem`` if it is not a valid external message."""
        return replace(parse_message({"system": self.system, "body": self.body}, limits), id=message_id)


class BroadcastCursor(UserCursor):
    """The progress of the job. ``sent``, ``offline``, ``refused``: users so far, by outcome."""

    sent: int = 0
    offline: int = 0
    refused: int = 0


class BroadcastSteps:
    """The steps of the job: commit the message for some users."""

    def __init__(self, store: Store, clock: Clock, limits: Limits, count: CountUsers) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._count = count

    async def step(self, job: Job) -> JobStep:
        """See ``JobSteps.step``."""
        params = msgspec.convert(job.params, BroadcastParams)
        total = self._store.agenda.partition_count
        cursor = BroadcastCursor.load(job.cursor, total)
        partition_s = params.spread / total
        tried = cursor.first(_partitions_at_once(partition_s))
        served = UserBatch()
        try:
            users = await self._store.agenda.known_users(tried)
            batch = next_batch(tried, users, cursor.places, _users_at_once(partition_s, tried, users))
            outcomes = await self._send(job, params, batch.users)
        except Unavailable as error:
            # Another pass tries these partitions again: they may be on one server that is down.
            cursor.postpone(tried, error)
        else:
            failed = {uid: each for uid, each in outcomes.items() if isinstance(each, Unavailable)}
            served = batch.without(failed)
            cursor.complete_batch(tried, users, served)
            if failed:
                cursor.postpone((), next(iter(failed.values())))
            self._count_served([str(outcomes[uid]) for uid in served.users], cursor)
        return cursor.end_step(
            total,
            min_interval_s=served.share * partition_s,
            result={"sent": cursor.sent, "offline": cursor.offline, "refused": cursor.refused},
        )

    async def _send(
        self, job: Job, params: BroadcastParams, users: Sequence[str]
    ) -> Mapping[str, BroadcastOutcome | Unavailable]:
        """Commit the message for those of the users that are in the audience. Returns the outcome of each user."""
        now_us = self._clock.now_us()
        reached = users if params.audience == "all" else await self._online(users, now_us)
        message = params.message(self._limits, f"{BROADCAST}:{job.number}")
        # The number of the job names the epoch of a user without a state; it need not be random.
        seed = job.number.to_bytes(8, "big")[-3:]
        commit = _kept_for_a_day(plan(message, Sender(BACKEND), now_us, seed, self._limits))
        results = await self._store.users.commit_many([(uid, commit) for uid in reached])
        outcomes: dict[str, BroadcastOutcome | Unavailable] = dict.fromkeys(users, "offline")
        return outcomes | {uid: _outcome_of(result) for uid, result in zip(reached, results, strict=True)}

    def _count_served(self, outcomes: Sequence[str], cursor: BroadcastCursor) -> None:
        """Count the outcomes of users that no later step serves."""
        for outcome, number in Counter(outcomes).items():
            setattr(cursor, outcome, getattr(cursor, outcome) + number)
            self._count(BROADCAST, outcome, number)

    async def _online(self, users: Sequence[str], now_us: int) -> list[str]:
        statuses = await self._store.devices.presence(users, now_us)
        return [
            uid
            for uid, status in zip(users, statuses, strict=True)
            if status.last_seen_us is not None and status.last_seen_us >= now_us - RECENT_US
        ]


def _outcome_of(result: CommitResult) -> BroadcastOutcome | Unavailable:
    """Return the outcome of a user, or why the user must be served again."""
    if isinstance(result, Receipt):
        return "sent"
    # A record that this release cannot read is one user's fault (the audit reports it): it must not stop the job.
    return result if isinstance(result, Unavailable) and not isinstance(result, UnreadableValue) else "refused"


def _kept_for_a_day(commit: Commit) -> Commit:
    """Return the commit of a user, whose message id is remembered for a day at least."""
    message_id = commit.message_id
    if message_id is not None:
        # Not only for GREGOR_EXTERNAL_AGE: a step is repeated after the lease, or after a pause of all schedulers.
        message_id = dataclasses.replace(message_id, keep_us=max(message_id.keep_us, commit.now_us + DAY_US))
    return replace(commit, is_for_known=True, message_id=message_id)


def _partitions_at_once(partition_s: float) -> int:
    """Return how many partitions a step may serve, if each must take ``partition_s``: a step lasts a second at most."""
    return PARTITIONS_AT_ONCE if partition_s == 0 else max(1, min(PARTITIONS_AT_ONCE, int(1 / partition_s)))


def _users_at_once(partition_s: float, tried: Sequence[int], users: Mapping[int, Sequence[str]]) -> int:
    """Return how many users a step may serve: of a partition that takes long, the share of a second."""
    if partition_s <= 1:
        return USERS_AT_ONCE
    return max(1, min(USERS_AT_ONCE, math.ceil(len(users.get(tried[0], ())) / partition_s)))
