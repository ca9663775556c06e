"""The store, opened by a command itself: for what must be possible before any service runs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gregor.config.settings import Settings, mask_password
from gregor.store.contract.store import Store, Unavailable
from gregor.store.redis.store import open_store

from .errors import Failure

SCOPES = ("ingest", "read", "devices", "deliveries", "categories", "admin")
"""What a service key may be allowed to do (protocol.md, "Who may call")."""


def no_redis(settings: Settings, error: Exception) -> Failure:
    """What to say where the Redis of these settings cannot be used."""
    where = f"Redis cannot be used at {mask_password(settings.redis_url)}: {error}"
    return Failure(f"{where}; GREGOR_REDIS_URL, or the option --redis of dev and doctor, says where it is")


@asynccontextmanager
async def opened_store(settings: Settings) -> AsyncIterator[Store]:
    """The store of these settings; Failure, in plain words, where Redis cannot be reached or is not ours to use."""
    try:
        store = await open_store(
            settings.redis_url,
            settings.limits,
            settings.namespace,
            token_life_us=round(settings.token_max_age_s * 1_000_000),
        )
        try:
            yield store
        finally:
            await store.close()
    except (Unavailable, ValueError) as error:
        raise no_redis(settings, error) from error
