"""A device's registration: what may be registered for push, and how it is shown again, without its token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field

from gregor.core.errors import field_problem
from gregor.core.times import format_time
from gregor.net.ssrf_guard import AllowedHosts
from gregor.store.contract.devices import Presence, Registration

from .requests import Language, Platform, RequestModel

MOST_TOKEN = 4_096
"""Characters of a push token or an endpoint; FCM's, the longest, stay under 1,000."""
READ_ONLY = ("online", "foreground", "last_seen")
"""Fields that the server fills; ignored on the way in, so that what was read can be written back."""


class WebPushKeys(RequestModel):
    """The keys of a Web Push subscription, base64url."""

    p256dh: str = Field(min_length=1, max_length=200)
    auth: str = Field(min_length=1, max_length=100)


class WebPushToken(RequestModel):
    """A Web Push subscription as the browser gives it."""

    endpoint: str = Field(min_length=1, max_length=MOST_TOKEN)
    keys: WebPushKeys
    expirationTime: Any = Field(None, exclude=True, description="As browsers add it; ignored.")


class AppPush(RequestModel):
    """Push by Apple or Google."""

    provider: Literal["apns", "fcm"]
    token: str = Field(min_length=1, max_length=MOST_TOKEN)
    topic: str | None = Field(None, min_length=1, max_length=256, description="The app's bundle id (APNs).")
    sandbox: bool = Field(False, description="Whether the token is of APNs' development environment.")


class WebPush(RequestModel):
    """Push by a browser's service. Where the token is the one that was shown, the stored one stays."""

    provider: Literal["webpush"]
    token: WebPushToken
    topic: str | None = Field(None, min_length=1, max_length=256)
    sandbox: bool = False


class DeviceRegistration(RequestModel):
    """A device as it is registered."""

    platform: Platform | None = None
    push: Annotated[AppPush | WebPush, Field(discriminator="provider")] | None = None
    locale: Language | None = None


def to_registration(document: DeviceRegistration, hosts: Sequence[str]) -> Registration:
    """What the store keeps. ``push_endpoint_not_allowed`` where a Web Push endpoint is of no host in ``hosts``."""
    push = document.push
    if isinstance(push, WebPush):
        check_endpoint(push.token.endpoint, hosts)
    kept = push.model_dump(exclude_none=True) if push is not None else None
    return Registration(document.platform, kept, document.locale)


def as_sent(registration: Registration) -> dict[str, Any]:
    """The registration as a client would send it: what a merge patch is applied to."""
    return {"platform": registration.platform, "push": registration.push, "locale": registration.locale}


def shown(registration: Registration, presence: Presence) -> dict[str, Any]:
    """The device as the API shows it: the token cut to its last four characters."""
    push = registration.push
    return {
        "platform": registration.platform,
        "push": None if push is None else {**push, "token": masked(push["token"])},
        "locale": registration.locale,
        "online": presence.online,
        "foreground": presence.foreground,
        "last_seen": None if presence.last_seen_us is None else msgspec.Raw(format_time(presence.last_seen_us)),
    }


def masked(token: Any) -> str:
    """A push token as it may be shown."""
    text = token["endpoint"] if isinstance(token, Mapping) else str(token)
    return "…" + str(text)[-4:]


def restored(document: Any, known: Registration | None) -> Any:
    """The document without read-only fields, and with the stored token where it has the one that was shown."""
    if not isinstance(document, dict):
        return document
    document = {name: value for name, value in document.items() if name not in READ_ONLY}
    push, stored = document.get("push"), known.push if known is not None else None
    if isinstance(push, dict) and isinstance(push.get("token"), str) and push["token"].startswith("…"):
        if stored is None or push["token"] != masked(stored["token"]) or push.get("provider") != stored["provider"]:
            raise field_problem(
                "invalid", "/push/token", "This is a token as it is shown, not one that can be registered."
            )
        return {**document, "push": {**push, "token": stored["token"]}}
    return document


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396: ``patch`` applied to ``target``; null takes a member out."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def check_endpoint(endpoint: str, hosts: Sequence[str]) -> None:
    """Raises ``push_endpoint_not_allowed`` but for https of a place in the list (``outbound.AllowedHosts``)."""
    if AllowedHosts(hosts).destination_of(endpoint) is None:
        detail = "A Web Push endpoint is https, on port 443, of a host in the setting WEBPUSH_HOSTS."
        raise field_problem("push_endpoint_not_allowed", "/push/token/endpoint", detail)
