"""The links under mails by which one ends them: where they lead, and the keys that sign them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gregor.config.settings import Settings
from gregor.core.notify.unsubscribe_token import derive_key, make_token

PATH: Final = "/v1/unsubscribe/"
"""Where ingest answers them."""


@dataclass(frozen=True, slots=True)
class UnsubscribeLinks:
    """Makes the links of one deployment. `public_url`: where the outside reaches ingest."""

    public_url: str
    key: bytes

    def link(self, uid: str, categories: Iterable[str]) -> str:
        """The link that ends mails of these categories to a user."""
        return self.public_url.rstrip("/") + PATH + make_token(self.key, uid, categories)


def link_secrets(settings: Settings) -> list[str]:
    """The secrets of LINK_SECRET."""
    listed = settings.link_secret.get_secret_value().split(",") if settings.link_secret is not None else []
    return [secret.strip() for secret in listed if secret.strip()]


def link_keys(settings: Settings) -> tuple[bytes, ...]:
    """The keys whose links are known; the first signs. Those of LINK_SECRET, and of TOKEN_SECRET, which signs alone."""
    secrets = link_secrets(settings)
    if settings.token_secret is not None:
        secrets.append(settings.token_secret.get_secret_value())
    return tuple(derive_key(secret) for secret in secrets)


def unsubscribe_links(settings: Settings) -> UnsubscribeLinks | None:
    """How links are made; None where the settings say neither where they lead nor who signs them."""
    keys = link_keys(settings)
    return UnsubscribeLinks(settings.public_url, keys[0]) if settings.public_url is not None and keys else None
