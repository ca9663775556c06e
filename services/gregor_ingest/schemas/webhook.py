"""A webhook as backends write and read it (docs/how-to/webhooks.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec
from pydantic import Field, field_validator

from gregor.core.errors import field_problem
from gregor.core.ids import Prefixes, normalize_prefixes
from gregor.core.notify.webhook_events import Webhook, WebhookEventType
from gregor.core.notify.webhook_signature import LOOPBACK_HOSTS, MAX_URL_CHARACTERS, webhook_url_error
from gregor.core.times import format_time
from gregor.net.ssrf_guard import is_private_url

from .requests import OneOrMore, RequestModel

TYPES: Final = tuple(kind.value for kind in WebhookEventType)
Url = Annotated[str, Field(min_length=1, max_length=MAX_URL_CHARACTERS)]


class _Wish(RequestModel):
    """What may be said of a webhook when it is made and later."""

    events: list[str] | None = Field(
        None,
        min_length=1,
        max_length=len(TYPES),
        description="Which events; absent: all.",
        json_schema_extra={"items": {"type": "string", "enum": list(TYPES)}},
    )
    category_prefix: OneOrMore | None = Field(None, description="Only categories under these prefixes.")
    name: str | None = Field(None, max_length=200, description="A note for people.")

    @field_validator("events")
    @classmethod
    def _are_types(cls, events: list[str] | None) -> list[str] | None:
        unknown = [event for event in events or () if event not in TYPES]
        if unknown:
            raise ValueError(f"{unknown[0][:64]!r} is no event; there are {', '.join(TYPES)}.")
        return events

    @property
    def kinds(self) -> tuple[str, ...] | None:
        """``events`` in their one form."""
        return None if self.events is None else tuple(sorted(set(self.events)))

    @property
    def prefixes(self) -> Prefixes:
        """``category_prefix`` in its one form."""
        return None if self.category_prefix is None else normalize_prefixes(self.category_prefix)


class NewWebhook(_Wish):
    """A webhook to be made."""

    url: Url = Field(description="Where it is called: https, a public address, no login.")


class WebhookPatch(_Wish):
    """What is to change of a webhook."""

    url: Url | None = Field(None, description="Where it is called from now on.")
    enabled: bool | None = Field(None, description="false: it is called no more; true: again.")


def check_url(url: str, *, is_loopback_allowed: bool) -> None:
    """Raises ``invalid`` for a URL that is never called. Where a name leads is judged at each call."""
    fault = webhook_url_error(url, is_loopback_allowed=is_loopback_allowed)
    if fault is not None:
        raise field_problem("invalid", "/url", fault)
    is_this_machine = urlsplit(url).hostname in LOOPBACK_HOSTS
    if is_private_url(url) and not (is_this_machine and is_loopback_allowed):
        raise field_problem("invalid", "/url", "A webhook's URL leads to a public address.")


def changed(webhook: Webhook, patch: WebhookPatch, now_us: int) -> Webhook:
    """The webhook with what the patch names; ``null`` is what holds where nothing is said."""
    named = patch.model_fields_set
    if "url" in named and patch.url is not None:
        webhook = replace(webhook, url=patch.url)
    if "events" in named:
        webhook = replace(webhook, events=patch.kinds)
    if "category_prefix" in named:
        webhook = replace(webhook, prefixes=patch.prefixes)
    if "name" in named:
        webhook = replace(webhook, name=patch.name)
    if patch.enabled is True:
        webhook = replace(webhook, disabled_us=None, why_disabled=None)
    elif patch.enabled is False and webhook.disabled_us is None:
        webhook = replace(webhook, disabled_us=now_us, why_disabled=None)
    return webhook


def shown(webhook: Webhook) -> Mapping[str, Any]:
    """A webhook as it is shown, without its secrets."""
    return {
        "id": webhook.id,
        "url": webhook.url,
        "events": webhook.events,
        "category_prefix": webhook.prefixes,
        "name": webhook.name,
        "created": msgspec.Raw(format_time(webhook.created_us)),
        "enabled": webhook.disabled_us is None,
        "disabled": None
        if webhook.disabled_us is None
        else {"at": msgspec.Raw(format_time(webhook.disabled_us)), "reason": webhook.why_disabled},
    }


def shown_with_secret(webhook: Webhook) -> Mapping[str, Any]:
    """The same with the newest secret: the only time that it is shown."""
    return {**shown(webhook), "secret": webhook.secrets[0][0]}
