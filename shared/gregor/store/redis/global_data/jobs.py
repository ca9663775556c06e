"""Jobs in Redis: a hash from id to JSON document, and their order; see ``lua/deployment/create_job.lua``.

A document is replaced only if its text has not changed. No call reads more jobs than its page, or than may be open.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from gregor.redis.commands import RedisCommands, Script
from gregor.redis.errors import RedisUnavailable, ReplyError
from gregor.redis.tracking import KeyTracker, TrackedRead
from gregor.store.documents import decode_document
from gregor.store.jobs import (
    JOBS_KEPT_US,
    MAX_OPEN_JOBS,
    MIN_KEPT_US,
    Job,
    JobPage,
    job_limits,
    too_many_open,
    too_many_stored,
)
from gregor.store.redis import scripts
from gregor.store.redis.errors import result_of
from gregor.store.redis.keys import Keys

_DIGITS: Final = 16
"""Digits of a time or number in the order of the jobs."""
READ_EVERY: Final = 60
"""Every this many calls, ``open`` reads the ids of the open jobs although the server has reported no change."""
_OPEN: Final = ("[o", "(p", "LIMIT", 0, MAX_OPEN_JOBS)
"""The range of the open jobs in the order."""
# The hook: the body of a broadcast is in the parameters of its job (see `gregor.core.json_text`).
_DECODER: Final = msgspec.json.Decoder(Job, float_hook=float)
_MEMBERS: Final = msgspec.json.Decoder(dict[str, Any], float_hook=float)


class RedisJobs:
    """``Jobs`` over Redis."""

    def __init__(self, connection: RedisCommands, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._create = scripts.load("deployment/create_job")
        self._replace = scripts.load("deployment/replace_job")
        self._reads = 0
        self._tracked: TrackedRead | None = None

    def track(self, tracker: KeyTracker) -> None:
        """Let ``open`` read which jobs are open only after a change."""
        self._tracked = TrackedRead(tracker, "ZRANGEBYLEX", self._keys.job_order, *_OPEN)

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part, for ``RedisStore.prepare``."""
        return self._create, self._replace

    async def create(
        self, job_id: str, kind: str, params: dict[str, Any], now_us: int, *, leaves_reserve: bool = False
    ) -> tuple[Job, bool]:
        """See ``Jobs.create``."""
        limits = job_limits(leaves_reserve=leaves_reserve)
        job = Job(id=job_id, kind=kind, params=params, number=0, created_us=now_us, changed_us=now_us)
        unnumbered = {name: value for name, value in msgspec.to_builtins(job).items() if name != "number"}
        is_new, *raw = await self._run(
            self._create,
            job_id,
            now_us,
            msgspec.json.encode(unnumbered)[1:],
            limits.open,
            limits.stored,
            now_us - JOBS_KEPT_US,
            now_us - MIN_KEPT_US,
        )
        if not raw:
            raise too_many_open(limits.open) if is_new == b"open" else too_many_stored(limits.stored)
        return decode_document(_DECODER, raw[0], "job"), bool(is_new)

    async def get(self, job_id: str) -> Job | None:
        """See ``Jobs.get``."""
        raw = await self._read(job_id)
        return None if raw is None else decode_document(_DECODER, raw, "job")

    async def page(self, before: int | None, limit: int) -> JobPage:
        """See ``Jobs.page``."""
        newest = "(o" if before is None else f"(n{before:0{_DIGITS}}"
        # One more than the page, to know if there is a next one.
        members = await self._members("ZREVRANGEBYLEX", newest, "[n", "LIMIT", 0, limit + 1)
        page = members[:limit]
        last = int(page[-1][1 : 1 + _DIGITS]) if len(members) > limit else None
        return JobPage(await self._read_many(page), last)

    async def open(self) -> list[Job]:
        """See ``Jobs.open``."""
        self._reads += 1
        members = await self._open_members() if self._reads % READ_EVERY else None
        if members is None:
            members = await self._members("ZRANGEBYLEX", *_OPEN)
        # The tracked order may be out of date until the server reports a change: some of its jobs may have ended.
        return [job for job in await self._read_many(members) if not job.is_over]

    async def _open_members(self) -> list[bytes] | None:
        """Return the tracked order of the open jobs; ``None`` if the server does not report changes."""
        if self._tracked is None:
            return None
        try:
            members: list[bytes] = await self._tracked.reply()
        except (RedisUnavailable, ReplyError):
            return None
        return members

    async def replace(self, old: Job, new: Job) -> bool:
        """See ``Jobs.replace``."""
        raw = await self._read(old.id)
        # Compared as JSON: a cursor may have tuples in memory, which are lists when they are read.
        if raw is None or msgspec.json.encode(_DECODER.decode(raw)) != msgspec.json.encode(old):
            return False
        document = _MEMBERS.decode(raw) | msgspec.to_builtins(new)
        places = _place(old), _place(new)
        return bool(await self._run(self._replace, old.id, raw, msgspec.json.encode(document), *places))

    async def _run(self, script: Script, *arguments: bytes | str | int) -> Any:
        keys = self._keys.jobs, self._keys.job_order
        return await result_of(self._connection.evalsha(script, keys, arguments))

    async def _read(self, job_id: str) -> bytes | None:
        raw: bytes | None = await result_of(self._connection.call("HGET", self._keys.jobs, job_id))
        return raw

    async def _members(self, command: str, *arguments: str | int) -> list[bytes]:
        """Return members of the order of the jobs: letter, number and id (``lua/deployment/create_job.lua``)."""
        found: list[bytes] = await result_of(self._connection.call(command, self._keys.job_order, *arguments))
        return found

    async def _read_many(self, members: Sequence[bytes]) -> list[Job]:
        """Return the jobs that this release can read: another one may have other states, or another format."""
        if not members:
            return []
        ids = [member[1 + _DIGITS :] for member in members]
        found = []
        for raw in await result_of(self._connection.call("HMGET", self._keys.jobs, *ids)):
            if raw is not None:
                with suppress(msgspec.DecodeError):
                    found.append(_DECODER.decode(raw))
        return found


def _place(job: Job) -> str:
    """Return the member of the order that depends on the state of the job."""
    named = f"{job.number:0{_DIGITS}}{job.id}"
    return f"e{job.changed_us:0{_DIGITS}}{named}" if job.is_over else f"o{named}"
