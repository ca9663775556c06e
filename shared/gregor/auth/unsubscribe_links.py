"""Unsubscribe links of e-mails: their URL, and the keys that sign them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gregor.config.settings import Settings
from gregor.core.notify.unsubscribe_token import derive_key, make_token

PATH: Final = "/v1/unsubscribe/"
"""The path of the unsubscribe page in ingest."""


@dataclass(slots=True)
class UnsubscribeLinks:
    """Builds the links of a deployment. ``public_url``: the public URL of ingest. ``key`` signs."""

    public_url: str
    key: bytes

    def link(self, uid: str, categories: Iterable[str]) -> str:
        """Return the link that unsubscribes a user from the e-mails of these categories."""
        return self.public_url.rstrip("/") + PATH + make_token(self.key, uid, categories)

    async def use_secrets(self, settings: Settings) -> None:
        """Sign with the first secret of these settings from now on."""
        self.key = link_keys(settings)[0]


def link_keys(settings: Settings) -> tuple[bytes, ...]:
    """Return the keys of valid links; the first one signs. LINK_SECRET comes first, then TOKEN_SECRET."""
    return tuple(derive_key(secret) for secret in (*settings.link_secrets, *settings.token_secrets))


def unsubscribe_links(settings: Settings) -> UnsubscribeLinks | None:
    """Return the link builder; ``None`` if the settings have no public URL or no secret."""
    keys = link_keys(settings)
    return UnsubscribeLinks(settings.public_url, keys[0]) if settings.public_url is not None and keys else None


def mail_links(settings: Settings) -> UnsubscribeLinks | None:
    """Return the link builder for e-mails; ``None`` if neither a relay nor the settings of links are set.

    Raises ValueError, which names the missing setting, if a relay is set but no link can be built.
    """
    links = unsubscribe_links(settings)
    if links is None and settings.smtp_url is not None:
        if settings.public_url is None:
            raise ValueError(
                "GREGOR_PUBLIC_URL: mail needs it for its unsubscribe links; write https://gregor.example.com"
            )
        raise ValueError("GREGOR_LINK_SECRET: mail needs it (or GREGOR_TOKEN_SECRET) to sign its unsubscribe links")
    return links
