"""Cache of service keys. A key is used without a new read for 0.2 s, and for longer while Redis cannot be read."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

import structlog

from gregor.auth.access_problem import AccessProblem
from gregor.clock import Clock
from gregor.config.settings import Settings
from gregor.core.errors import Problem
from gregor.metrics.process import Metrics
from gregor.store import service_keys
from gregor.store.contract.access import ServiceKey
from gregor.store.contract.store import Store, Unavailable

from .actor import Actor

_log = structlog.get_logger(__name__)

KEY_REFRESH_S: Final = 0.1
"""Age after which a key in use is read again in the background."""
KEY_CACHE_TTL_S: Final = 0.2
"""How long a key is cached. A busy backend costs ten reads a second, and a deleted key works 0.2 s longer."""
KEY_CACHE_SIZE: Final = 1_000
KEY_PATIENCE_S: Final = 0.02
"""How long a call of a known key waits for a slow Redis. Later calls do not wait until the read has ended."""
KEY_RETRY_S: Final = 0.5
"""After a read failed, calls of known keys do not read again for this time."""
KEY_USE_INTERVAL_S: Final = 60.0
"""How often a process records the use of one key: ``last_used`` costs a busy backend one write a minute."""


class UnconfirmedKey(Unavailable):
    """A service key cannot be read, and this process has not confirmed it recently, or not since its start."""

    def problem(self) -> Problem:
        """Return the error for the client: not 401, because the key may be valid."""
        detail = (
            "The service key cannot be checked: its Redis server is unreachable, and this process has not confirmed "
            "the key recently. Try again. Device tokens are accepted meanwhile."
        )
        return Problem("unavailable", detail, retry_after_s=1.0)


class KnownKey(NamedTuple):
    """A service key, and the actor that it authenticates. ``read_s``: monotonic time at which its last read began."""

    read_s: float
    key: ServiceKey
    actor: Actor


@dataclass(slots=True)
class KeyRead:
    """A read of a service key for calls with its known ``tokens``. ``is_slow``: a call did not wait for its end."""

    task: asyncio.Task[ServiceKey | None]
    began_s: float
    is_slow: bool = False
    tokens: set[str] = field(default_factory=set)


class KeyCache:
    """The service keys of this process, by the whole token: this also saves hashing the secret of each request.

    All calls with one key share its reads. A key in use is read again in the background.
    """

    def __init__(self, store: Store, clock: Clock, metrics: Metrics, settings: Settings) -> None:
        self._store = store
        self._clock = clock
        self._keys: dict[str, KnownKey] = {}
        self._reads: dict[str, KeyRead] = {}
        self._uses: dict[str, float] = {}
        self._grace_s = settings.service_key_grace_s
        self._unconfirmed = metrics.unconfirmed_keys
        self._read_at_s = 0.0
        self._log_at_s = 0.0

    def known(self, token: str) -> KnownKey | None:
        """Return a service key that this process has read within ``GREGOR_SERVICE_KEY_GRACE``.

        A key is checked again only if a request needs its rights. Another process may have deleted it.
        """
        known = self._keys.get(token)
        return known if known is not None and self._clock.monotonic() - known.read_s < self._grace_s else None

    def clear(self) -> None:
        """Forget all keys, after this process changed or deleted one."""
        self._keys.clear()
        self._reads.clear()

    async def authenticate(self, token: str) -> KnownKey:
        """Return a service key by its token.

        Raises ``unauthorised`` if it is invalid, deleted or expired, and ``UnconfirmedKey`` if it cannot be read.
        """
        now_s = self._clock.monotonic()
        known = self._keys.get(token)
        if known is not None and (age_s := now_s - known.read_s) < KEY_CACHE_TTL_S:
            if age_s >= KEY_REFRESH_S:
                self._read(token, known.key.id, now_s, KEY_REFRESH_S)
            return known
        if known is not None and now_s - known.read_s >= self._grace_s:
            known = None
        parsed = service_keys.parse(token)
        read_s = now_s
        try:
            if parsed is None:
                found = None
            elif known is not None:
                found, read_s = await self._reread(token, parsed[0], now_s)
            else:
                found = await self._store.access.key(parsed[0])
        except Unavailable as error:
            if known is None:
                raise UnconfirmedKey(str(error)) from error
            self._check_expiry(known.key)
            self._unconfirmed.inc()
            return known
        if parsed is None or found is None or not service_keys.is_valid(found, parsed[1], self._clock.now_us()):
            self._keys.pop(token, None)
            raise AccessProblem("unauthorised", "The service key is invalid, deleted or expired.", reason="key_invalid")
        if service_keys.is_expired(found, self._clock.now_us()):
            # An expired key must not count as a known one.
            self._keys.pop(token, None)
        self._check_expiry(found)
        # Clearing is cheaper than an LRU list, and rare: a deployment has a few dozen keys.
        if len(self._keys) >= KEY_CACHE_SIZE:
            self.clear()
        return self._remember(token, found, service_keys.mark_of(parsed[1]), read_s)

    def _remember(self, token: str, key: ServiceKey, mark: str | None, read_s: float) -> KnownKey:
        known = self._keys[token] = KnownKey(read_s, key, Actor(key=key, secret_mark=mark))
        return known

    async def _reread(self, token: str, key_id: str, now_s: float) -> tuple[ServiceKey | None, float]:
        """Return a known key, and when its read began. Raises ``Unavailable`` if Redis is slow or unreachable.

        All calls share one read. If a shard hangs, only the calls of the first 20 ms wait for its keys.
        """
        # Before, every call of every user waited 0.5 s (measured).
        read = self._read(token, key_id, now_s, KEY_CACHE_TTL_S)
        if read is None:
            raise Unavailable("service keys could not be read a moment ago")
        if not read.is_slow and not read.task.done():
            await asyncio.wait((read.task,), timeout=KEY_PATIENCE_S)
        if not read.task.done():
            read.is_slow = True
            self._log_unreachable("Redis is slow", now_s)
            raise Unavailable("service keys cannot be read: Redis is slow")
        try:
            return read.task.result(), read.began_s
        except Unavailable as error:
            self._log_unreachable(str(error), now_s)
            raise Unavailable(f"service keys cannot be read: {error}") from None

    def _read(self, token: str, key_id: str, now_s: float, max_age_s: float) -> KeyRead | None:
        """Return the read of a key if it is younger than ``max_age_s``, else start one; None soon after a failure."""
        read = self._reads.get(key_id)
        if read is None or (read.task.done() and now_s - read.began_s >= max_age_s):
            if now_s < self._read_at_s:
                return None
            read = KeyRead(asyncio.ensure_future(self._store_key(key_id)), now_s)
            read.task.add_done_callback(partial(self._end_read, read))
            self._reads[key_id] = read
        read.tokens.add(token)
        return read

    async def _store_key(self, key_id: str) -> ServiceKey | None:
        return await self._store.access.key(key_id)

    def _end_read(self, read: KeyRead, task: asyncio.Task[ServiceKey | None]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._read_at_s = self._clock.monotonic() + KEY_RETRY_S
            return
        # Perhaps no call has waited for the result. If it were lost, a deleted key would work while Redis is slow.
        found, now_us = task.result(), self._clock.now_us()
        for token in read.tokens & self._keys.keys():
            mark = self._keys[token].actor.secret_mark
            if found is not None and service_keys.is_mark_valid(found, mark, now_us):
                self._remember(token, found, mark, read.began_s)
            else:
                del self._keys[token]

    def _log_unreachable(self, reason: str, now_s: float) -> None:
        if now_s >= self._log_at_s:
            self._log_at_s = now_s + KEY_USE_INTERVAL_S
            _log.warning("service_keys.unreachable", reason=reason, known_keys_work_for_s=self._grace_s)

    def _check_expiry(self, key: ServiceKey) -> None:
        if service_keys.is_expired(key, self._clock.now_us()):
            detail = "The service key has expired (its field expires). Create a new one."
            raise AccessProblem("unauthorised", detail, reason="key_expired")

    async def record_use(self, key: ServiceKey) -> None:
        """Store the current time as the last use of a key, at most once a minute."""
        now_s = self._clock.monotonic()
        last_s = self._uses.get(key.id)
        if last_s is None or now_s - last_s >= KEY_USE_INTERVAL_S:
            self._uses[key.id] = now_s
            # A full store must not refuse a dismissal, which frees memory.
            with suppress(Unavailable, Problem):
                await self._store.access.record_key_use(key.id, self._clock.now_us())
