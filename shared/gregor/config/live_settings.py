"""The settings of a running process: files of secrets are read again when they change."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

import structlog

from gregor.file_version import FileVersion, file_version
from gregor.redis.url import RedisUrl

from .secret_files import SECRET_FIELDS
from .settings import Settings, SettingsError, reread_secret, variable_name
from .weak_secrets import refuse_weak_secrets

log = structlog.get_logger(__name__)

CHECK_INTERVAL_S: Final = 1.0
"""Interval between two checks of the files. A changed file is read when two checks found the same version of it.
Otherwise a file that is written in place could be read half-written.
"""

Apply = Callable[[Settings], Awaitable[None]]


class LiveSettings:
    """Settings whose secrets follow their files. If a changed file is unusable, the old value stays in use."""

    def __init__(self, settings: Settings) -> None:
        self.current = settings
        """The settings with the current secrets. All other settings are those of the start."""
        # Prometheus sees the first refusal as an increase only if the counter existed before.
        self.reloads: Counter[str] = Counter(reloaded=0, refused=0)
        """How many changed files were used (``reloaded``), and how many could not be used (``refused``)."""
        self._listeners: list[tuple[frozenset[str], Apply]] = []
        # No version yet: the file may have changed since the start of the process read it.
        self._applied: dict[str, FileVersion] = {field: None for field in SECRET_FIELDS if self._path(field)}
        self._seen: dict[str, FileVersion] = {}

    def redis_url(self) -> str:
        """Return the current URL of the state Redis."""
        return self.current.redis_url

    def queue_url(self) -> str:
        """Return the current URL of the queue Redis."""
        return self.current.queue

    def on_change(self, fields: Iterable[str], apply: Apply) -> None:
        """Call ``apply`` with the new settings when the file of one of these settings has changed.

        Register before the files are read for the first time. ``apply`` raises ``ValueError`` if it cannot use a file.
        """
        fields = frozenset(fields)
        self._listeners.append((fields, apply))
        for field in fields:
            path = self._path(field)
            if path is not None:
                self._applied.setdefault(field, file_version(path))

    async def watch(self) -> None:
        """Follow the files until the task is cancelled. Returns at once if no setting is in a file."""
        while self._applied:
            await asyncio.sleep(CHECK_INTERVAL_S)
            try:
                await self.check()
            except Exception:  # a failure must not end the rotation of all other secrets
                log.exception("secret.check_failed")

    async def check(self) -> None:
        """Check the files once, and use those that have changed and are completely written."""
        # In a thread: a network file system may block.
        seen = await asyncio.to_thread(self._versions)
        for field, version in seen.items():
            if version != self._applied[field] and version == self._seen.get(field, version):
                self._applied[field] = version
                await self._use(field)
        self._seen = seen

    def _versions(self) -> dict[str, FileVersion]:
        return {field: file_version(path) for field in self._applied if (path := self._path(field)) is not None}

    def _path(self, field: str) -> Path | None:
        found = getattr(self.current, f"{field}_file" if field in SECRET_FIELDS else field)
        return found if isinstance(found, Path) else None

    async def _use(self, field: str) -> None:
        try:
            fresh = self.current
            if field in SECRET_FIELDS:
                fresh = await asyncio.to_thread(self._reread, field)
                if getattr(fresh, field) == getattr(self.current, field):
                    return
            await self._apply(field, fresh)
        except (ValueError, OSError) as error:  # a SettingsError is a ValueError
            self.reloads["refused"] += 1
            log.error("secret.refused", reason=str(error), effect="the old value stays in use")
            return
        self.reloads["reloaded"] += 1
        log.info("secret.reloaded", setting=variable_name(field))

    async def _apply(self, field: str, fresh: Settings) -> None:
        """Make these settings the current ones if all listeners accept them; otherwise apply the old ones again."""
        accepted: list[Apply] = []
        try:
            for fields, apply in self._listeners:
                if field in fields:
                    await apply(fresh)
                    accepted.append(apply)
        except Exception:
            # Only secrets have an old value. A changed file of credentials has one listener, which keeps the old ones.
            for apply in accepted if fresh is not self.current else ():
                await apply(self.current)
            raise
        self.current = fresh

    def _reread(self, field: str) -> Settings:
        fresh = reread_secret(self.current, field)
        refuse_weak_secrets(fresh)
        if field in ("redis_url", "queue_url"):
            before = getattr(self.current, field)
            if before is not None and _server_of(before) != _server_of(getattr(fresh, field)):
                fix = "restart the services to use another server or database"
                raise SettingsError([f"{variable_name(field)}_FILE: only user, password and TLS may change; {fix}"])
        return fresh


def _server_of(url: str) -> tuple[object, ...]:
    address = RedisUrl.parse(url)
    return address.hosts, address.path, address.service, address.db
