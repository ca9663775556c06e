"""Webhooks: request models, their validation, and the response."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from gregor.core.errors import field_problem
from gregor.core.ids import Prefixes, normalize_prefixes
from gregor.core.notify.webhook_events import Webhook, WebhookEventType
from gregor.core.notify.webhook_signature import LOOPBACK_HOSTS, MAX_URL_CHARACTERS, webhook_url_error
from gregor.net.ssrf_guard import is_host_name, is_private_url

from .fields import OneOrMore, json_time
from .requests import RequestModel
from .responses import DisabledResponse, NewWebhookResponse, WebhookResponse

TYPES: Final = tuple(kind.value for kind in WebhookEventType)
Url = Annotated[str, Field(min_length=1, max_length=MAX_URL_CHARACTERS)]


class _WebhookFields(RequestModel):
    """Fields of a new webhook and of a patch."""

    events: list[str] | None = Field(
        None,
        min_length=1,
        max_length=len(TYPES),
        description="Types of events; by default all.",
        json_schema_extra={"items": {"type": "string", "enum": list(TYPES)}},
    )
    category_prefix: OneOrMore | None = Field(None, description="Only categories under these prefixes.")
    name: str | None = Field(None, max_length=200, description="A note for people.")

    @field_validator("events")
    @classmethod
    def _check_event_types(cls, events: list[str] | None) -> list[str] | None:
        unknown = [event for event in events or () if event not in TYPES]
        if unknown:
            raise ValueError(f"{unknown[0][:64]!r} is not an event type; use {', '.join(TYPES)}.")
        return events

    @property
    def event_types(self) -> tuple[str, ...] | None:
        """The event types, sorted, without repeats."""
        return None if self.events is None else tuple(sorted(set(self.events)))

    @property
    def category_filter(self) -> Prefixes:
        """The category prefixes, normalized."""
        return None if self.category_prefix is None else normalize_prefixes(self.category_prefix)


class CreateWebhook(_WebhookFields):
    """A webhook to create."""

    url: Url = Field(description="An https URL with a public address and without credentials.")


class WebhookPatch(_WebhookFields):
    """Changes of a webhook."""

    url: Url | None = Field(None, description="The new URL.")
    enabled: bool | None = Field(None, description="false stops calls; true starts them again.")


def check_webhook_url(url: str, *, is_loopback_allowed: bool) -> None:
    """Raise ``invalid`` for a URL that must not be called. Host names are resolved and checked again at each call."""
    fault = webhook_url_error(url, is_loopback_allowed=is_loopback_allowed)
    if fault is not None:
        raise field_problem("invalid", "/url", fault)
    host = (urlsplit(url).hostname or "").removesuffix(".")
    if ":" not in host and not is_host_name(host):  # an IPv6 address has colons
        raise field_problem("invalid", "/url", f"url: {host[:80]!r} is not a valid host name.")
    is_this_machine = urlsplit(url).hostname in LOOPBACK_HOSTS
    if is_private_url(url) and not (is_this_machine and is_loopback_allowed):
        raise field_problem(
            "invalid", "/url", "url: a webhook needs a URL with a public address, not one of a private network."
        )


def apply_webhook_patch(webhook: Webhook, patch: WebhookPatch, now_us: int) -> Webhook:
    """Return the webhook with the members of the patch changed; null sets the default."""
    named = patch.model_fields_set
    if "url" in named and patch.url is not None:
        webhook = replace(webhook, url=patch.url)
    if "events" in named:
        webhook = replace(webhook, events=patch.event_types)
    if "category_prefix" in named:
        webhook = replace(webhook, prefixes=patch.category_filter)
    if "name" in named:
        webhook = replace(webhook, name=patch.name)
    if patch.enabled is True:
        webhook = webhook.enabled(now_us)
    elif patch.enabled is False and webhook.disabled_us is None:
        webhook = replace(webhook, disabled_us=now_us, why_disabled=None)
    return webhook


def webhook_response(webhook: Webhook) -> WebhookResponse:
    """Return a webhook as the API shows it, without its secrets."""
    return WebhookResponse(**_members(webhook))


def new_webhook_response(webhook: Webhook) -> NewWebhookResponse:
    """Return a webhook with its newest secret."""
    return NewWebhookResponse(**_members(webhook), secret=webhook.secrets[0][0])


def _members(webhook: Webhook) -> dict[str, Any]:
    disabled_us = webhook.disabled_us
    return {
        "id": webhook.id,
        "url": webhook.url,
        "events": webhook.events,
        "category_prefix": webhook.prefixes,
        "name": webhook.name,
        "created": json_time(webhook.created_us),
        "enabled": disabled_us is None,
        "disabled": None
        if disabled_us is None
        else DisabledResponse(at=json_time(disabled_us), reason=webhook.why_disabled),
    }
