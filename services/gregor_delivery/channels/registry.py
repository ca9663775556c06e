"""Creates the channels of the providers that have credentials in the settings."""

from __future__ import annotations

from typing import Any, Final

from gregor.clock import Clock, SystemClock
from gregor.config.settings import Settings
from gregor.core.notify.intents import EMAIL, WEBHOOK

from .apns.channel import ApnsChannel, ApnsConfig
from .console import ConsoleChannel
from .contract import DeliveryChannel, MailMessage, PushMessage
from .fcm.channel import FcmChannel
from .smtp.channel import EmailChannel
from .smtp.mime import parse_address
from .webhook import WebhookChannel
from .webpush.channel import WebPushChannel, WebPushConfig

DEFAULT_MAIL_HOST: Final = "localhost"
"""Domain of Message-IDs if GREGOR_MAIL_FROM is not set."""


CREDENTIALS: Final = {
    "apns": ("apns_key_file", "apns_cert_file", "apns_ca_file"),
    "fcm": ("fcm_credentials_file",),
    EMAIL: ("smtp_url",),
}
"""Settings of each channel whose files may change while a process runs. The key of Web Push is not among them: each
subscription of a browser is bound to it.
"""


def channels(settings: Settings, clock: Clock) -> dict[str, DeliveryChannel[Any] | None]:
    """Return a channel for each provider, not yet opened; `None` if the provider has no credentials.

    With GREGOR_DELIVERY_CONSOLE, providers without credentials get a `ConsoleChannel`.
    """
    found: dict[str, DeliveryChannel[Any] | None] = {
        "apns": _apns(settings),
        "fcm": _fcm(settings, clock),
        "webpush": _webpush(settings, clock),
        EMAIL: _email(settings, clock),
    }
    if settings.delivery_console:
        found = {name: channel or ConsoleChannel(name) for name, channel in found.items()}
    return {**found, WEBHOOK: webhooks(settings)}


def webhooks(settings: Settings) -> WebhookChannel:
    """Return the webhook channel. It dates calls by the system's clock, as receivers do."""
    return WebhookChannel(SystemClock(), is_loopback_allowed=settings.webhook_loopback)


def mail_host(settings: Settings) -> str:
    """Return the domain of Message-IDs: the domain of GREGOR_MAIL_FROM."""
    try:
        return parse_address(settings.mail_from or "").smtp.rpartition("@")[2]
    except ValueError:
        return DEFAULT_MAIL_HOST


def _apns(settings: Settings) -> DeliveryChannel[PushMessage] | None:
    if settings.apns_key_file is None and settings.apns_cert_file is None:
        return None
    return ApnsChannel(
        ApnsConfig(
            key_file=settings.apns_key_file,
            cert_file=settings.apns_cert_file,
            key_id=settings.apns_key_id,
            team_id=settings.apns_team_id,
            topic=settings.apns_topic,
            url=settings.apns_url,
            ca_file=settings.apns_ca_file,
        )
    )


def _fcm(settings: Settings, clock: Clock) -> DeliveryChannel[PushMessage] | None:
    if settings.fcm_credentials_file is None:
        return None
    return FcmChannel(settings.fcm_credentials_file, clock, settings.fcm_url)


def _email(settings: Settings, clock: Clock) -> DeliveryChannel[MailMessage] | None:
    if settings.smtp_url is None:
        return None
    return EmailChannel(
        settings.smtp_url.get_secret_value(), settings.mail_from or "", clock, hostname=settings.smtp_hostname
    )


def _webpush(settings: Settings, clock: Clock) -> DeliveryChannel[PushMessage] | None:
    if settings.vapid_key_file is None:
        return None
    config = WebPushConfig(
        settings.vapid_key_file,
        settings.vapid_subject or "",
        settings.webpush_hosts,
        settings.webpush_ca_file,
        app_url=settings.app_url,
    )
    return WebPushChannel(config, clock)
