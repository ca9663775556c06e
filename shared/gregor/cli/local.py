"""Settings and store, opened by a command itself: for commands that must work before any service runs."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from gregor.config.settings import Settings, SettingsError, load_settings, mask_password
from gregor.store.contract.store import Store, Unavailable
from gregor.store.redis.store import open_store

from .errors import CommandError


def service_settings(environ: Mapping[str, str], file: Path | None = None) -> Settings:
    """Return the settings as a service reads them. Raises CommandError if one is invalid."""
    try:
        return load_settings(environ, file)
    except SettingsError as error:
        raise CommandError(str(error)) from error


def redis_error_text(settings: Settings, error: Exception) -> str:
    """Return the reason why the Redis of these settings cannot be used."""
    return f"Redis cannot be used at {mask_password(settings.redis_url)}: {error}"


@asynccontextmanager
async def opened_store(settings: Settings) -> AsyncIterator[Store]:
    """The store of these settings. Raises CommandError if Redis cannot be reached or used."""
    try:
        store = await open_store(
            settings.redis_url,
            settings.limits,
            settings.namespace,
            partitions=settings.partitions,
            token_life_us=round(settings.token_max_age_s * 1_000_000),
        )
        try:
            yield store
        finally:
            await store.close()
    except (Unavailable, ValueError) as error:
        text = redis_error_text(settings, error)
        raise CommandError(f"{text}; name another with GREGOR_REDIS_URL, or with --redis of dev and doctor") from error
