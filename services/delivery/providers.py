"""Which channels there are: each provider that has credentials, and how it is reached."""

from __future__ import annotations

from gregor.clock import Clock
from gregor.core.intents import PUSH_CHANNELS
from gregor.settings import Settings

from .channels.apns import ApnsChannel, ApnsConfig
from .channels.console import ConsoleChannel
from .channels.contract import Channel, Push
from .channels.fcm import FcmChannel
from .channels.webpush import WebPushChannel, WebPushConfig


def push_channels(settings: Settings, clock: Clock) -> dict[str, Channel[Push] | None]:
    """A channel for each provider of pushes, not yet opened; ``None`` where it has no credentials.

    With the setting DELIVERY_CONSOLE a provider without credentials is the console, which prints what would be sent.
    """
    found: dict[str, Channel[Push] | None] = {
        "apns": _apns(settings),
        "fcm": _fcm(settings, clock),
        "webpush": _webpush(settings, clock),
    }
    if settings.delivery_console:
        return {name: found[name] or ConsoleChannel(name) for name in PUSH_CHANNELS}
    return found


def _apns(settings: Settings) -> Channel[Push] | None:
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


def _fcm(settings: Settings, clock: Clock) -> Channel[Push] | None:
    if settings.fcm_credentials_file is None:
        return None
    return FcmChannel(settings.fcm_credentials_file, clock, settings.fcm_url)


def _webpush(settings: Settings, clock: Clock) -> Channel[Push] | None:
    if settings.vapid_key_file is None:
        return None
    config = WebPushConfig(
        settings.vapid_key_file, settings.vapid_subject or "", settings.webpush_hosts, settings.webpush_ca_file
    )
    return WebPushChannel(config, clock)
