"""Jobs in Redis: one hash, from id to JSON document. A document is replaced only if its text has not changed."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

import msgspec

from gregor.redis.commands import RedisCommands, Script
from gregor.redis.errors import RedisUnavailable, ReplyError
from gregor.redis.tracking import KeyTracker, TrackedRead
from gregor.store.documents import decode_document
from gregor.store.jobs import Job, jobs_to_delete
from gregor.store.redis import scripts
from gregor.store.redis.errors import result_of
from gregor.store.redis.keys import Keys

NUMBER_FIELD: Final = b"#"
"""The field with the last job number. It cannot be the id of a job."""
READ_ALL_EVERY: Final = 60
"""Every this many calls, ``open`` reads all jobs. The other calls read only the open ones that this process knows."""
_DECODER: Final = msgspec.json.Decoder(Job)


class RedisJobs:
    """``Jobs`` over Redis."""

    def __init__(self, connection: RedisCommands, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._create = scripts.load("deployment/create_job")
        self._replace = scripts.load("users/replace_field")
        # For ``open``: the open jobs at the last read, and the number of the newest job then.
        self._open_ids: list[str] = []
        self._last_number: bytes | None = None
        self._reads = 0
        self._newest: TrackedRead | None = None

    def track(self, tracker: KeyTracker) -> None:
        """Let ``open`` send no command while no job is open, and none was created."""
        self._newest = TrackedRead(tracker, "HGET", self._keys.jobs, NUMBER_FIELD)

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part, for ``RedisStore.prepare``."""
        return self._create, self._replace

    async def create(self, job_id: str, kind: str, params: dict[str, Any], now_us: int) -> tuple[Job, bool]:
        """See ``Jobs.create``."""
        texts = await self._read_all()
        stored = _readable(texts.values())
        if job_id not in (job.id for job in stored):
            for old in jobs_to_delete(stored, now_us):
                await self._write(old.id, texts[old.id], b"")
        job = Job(id=job_id, kind=kind, params=params, number=0, created_us=now_us, changed_us=now_us)
        unnumbered = {name: value for name, value in msgspec.to_builtins(job).items() if name != "number"}
        arguments = (job_id, now_us, msgspec.json.encode(unnumbered)[1:])
        is_new, raw = await result_of(self._connection.evalsha(self._create, (self._keys.jobs,), arguments))
        return decode_document(_DECODER, raw, "job"), bool(is_new)

    async def get(self, job_id: str) -> Job | None:
        """See ``Jobs.get``."""
        raw = await self._read(job_id)
        return None if raw is None else decode_document(_DECODER, raw, "job")

    async def all(self) -> list[Job]:
        """See ``Jobs.all``."""
        return sorted(_readable((await self._read_all()).values()), key=lambda job: job.number, reverse=True)

    async def open(self) -> list[Job]:
        """See ``Jobs.open``."""
        self._reads += 1
        if not self._open_ids and self._reads % READ_ALL_EVERY and await self._is_unchanged():
            return []
        number, *values = await result_of(
            self._connection.call("HMGET", self._keys.jobs, NUMBER_FIELD, *self._open_ids)
        )
        if number != self._last_number or self._reads % READ_ALL_EVERY == 0:
            values = list((await self._read_all()).values())
        self._last_number = number
        still_open = sorted((job for job in _readable(values) if not job.is_over), key=lambda job: job.number)
        self._open_ids = [job.id for job in still_open]
        return still_open

    async def _is_unchanged(self) -> bool:
        """Return whether the newest job is that of the last read; false if the server does not report changes."""
        if self._newest is None:
            return False
        try:
            number: bytes | None = await self._newest.reply()
        except (RedisUnavailable, ReplyError):
            return False
        return number == self._last_number

    async def replace(self, old: Job, new: Job) -> bool:
        """See ``Jobs.replace``."""
        raw = await self._read(old.id)
        # Compared as JSON: a cursor may have tuples in memory, which are lists when they are read.
        if raw is None or msgspec.json.encode(_DECODER.decode(raw)) != msgspec.json.encode(old):
            return False
        document = msgspec.json.decode(raw) | msgspec.to_builtins(new)
        return await self._write(old.id, raw, msgspec.json.encode(document))

    async def _read(self, job_id: str) -> bytes | None:
        raw: bytes | None = await result_of(self._connection.call("HGET", self._keys.jobs, job_id))
        return raw

    async def _read_all(self) -> dict[str, bytes]:
        """Return the texts of all jobs by id."""
        fields = await result_of(self._connection.call("HGETALL", self._keys.jobs))
        pairs = zip(fields[::2], fields[1::2], strict=True)
        return {name.decode(): raw for name, raw in pairs if name != NUMBER_FIELD}

    async def _write(self, job_id: str, expected: bytes, value: bytes) -> bool:
        call = self._connection.evalsha(self._replace, (self._keys.jobs,), (job_id, expected, value))
        return bool(await result_of(call))


def _readable(texts: Iterable[bytes | None]) -> list[Job]:
    """Return the jobs that this release can read: another one may have other states, or another format."""
    found = []
    for raw in texts:
        if raw is not None:
            with suppress(msgspec.DecodeError):
                found.append(_DECODER.decode(raw))
    return found
