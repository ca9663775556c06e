"""Jobs in Redis: one hash, from id to JSON document. A document is replaced only if it did not change meanwhile."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gregor.core.errors import Problem
from gregor.redis.commands import RedisCommands, Script
from gregor.store.documents import decode_document
from gregor.store.jobs import JOBS_KEPT_US, MAX_JOBS, Job
from gregor.store.redis import scripts
from gregor.store.redis.errors import result_of
from gregor.store.redis.keys import Keys

NUMBER_FIELD: Final = b"#"
"""The field with the last job number. It cannot be the id of a job."""
_DECODER: Final = msgspec.json.Decoder(Job)


class RedisJobs:
    """``Jobs`` over Redis."""

    def __init__(self, connection: RedisCommands, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._number = scripts.load("deployment/next_job_number")
        self._replace = scripts.load("users/replace_field")

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part, for ``RedisStore.prepare``."""
        return self._number, self._replace

    async def create(self, job_id: str, kind: str, params: dict[str, Any], now_us: int) -> tuple[Job, bool]:
        """See ``Jobs.create``."""
        jobs = await self.all()
        for job in jobs:
            if job.id == job_id:
                return job, False
        await self._delete_old(jobs, now_us)
        # If another process stores this id first, the number stays unused: only the order of numbers matters.
        number = int(await result_of(self._connection.evalsha(self._number, (self._keys.jobs,), (now_us,))))
        job = Job(id=job_id, kind=kind, params=params, number=number, created_us=now_us, changed_us=now_us)
        if await self._write(job_id, b"", msgspec.json.encode(job)):
            return job, True
        stored = await self.get(job_id)
        return (job, True) if stored is None else (stored, False)

    async def _delete_old(self, jobs: list[Job], now_us: int) -> None:
        old = [job for job in jobs if job.is_over and job.changed_us <= now_us - JOBS_KEPT_US]
        for job in old:
            await self._write(job.id, msgspec.json.encode(job), b"")
        if len(jobs) - len(old) >= MAX_JOBS:
            raise Problem(
                "too_many",
                f"The limit of {MAX_JOBS} stored jobs is reached. Jobs are deleted two weeks after their end.",
            )

    async def get(self, job_id: str) -> Job | None:
        """See ``Jobs.get``."""
        raw = await result_of(self._connection.call("HGET", self._keys.jobs, job_id))
        return None if raw is None else decode_document(_DECODER, raw, "job")

    async def all(self) -> list[Job]:
        """See ``Jobs.all``."""
        fields = await result_of(self._connection.call("HGETALL", self._keys.jobs))
        names, values = fields[::2], fields[1::2]
        jobs = [
            decode_document(_DECODER, raw, "job")
            for name, raw in zip(names, values, strict=True)
            if name != NUMBER_FIELD
        ]
        return sorted(jobs, key=lambda job: job.number, reverse=True)

    async def replace(self, old: Job, new: Job) -> bool:
        """See ``Jobs.replace``."""
        return await self._write(old.id, msgspec.json.encode(old), msgspec.json.encode(new))

    async def _write(self, job_id: str, expected: bytes, value: bytes) -> bool:
        call = self._connection.evalsha(self._replace, (self._keys.jobs,), (job_id, expected, value))
        return bool(await result_of(call))
