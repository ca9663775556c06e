"""The registration of a device: its request models, its merge patch, and its response without the push token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from msgspec import UNSET
from pydantic import Field

from gregor.auth.push_tokens import SubscriptionKeys, is_apns_token, is_apns_topic
from gregor.core.errors import field_problem
from gregor.net.ssrf_guard import AllowedHosts
from gregor.store.contract.devices import PresenceStatus, PushRegistrar, Registration

from .fields import Language, Platform, json_time_or_null
from .requests import RequestModel
from .responses import DevicePushResponse, DeviceResponse, PresenceResponse

MAX_TOKEN_CHARACTERS = 4_096
"""Limit of push tokens and endpoints; FCM has the longest tokens, under 1,000 characters."""
READ_ONLY = ("online", "foreground", "last_seen")
"""Fields that the server sets. Requests may contain them, so a client can write back a device that it read."""


class WebPushKeys(RequestModel):
    """The keys of a Web Push subscription, base64url."""

    p256dh: str = Field(min_length=1, max_length=200)
    auth: str = Field(min_length=1, max_length=100)


class WebPushToken(RequestModel):
    """A Web Push subscription, as the browser creates it."""

    endpoint: str = Field(min_length=1, max_length=MAX_TOKEN_CHARACTERS)
    keys: WebPushKeys
    expirationTime: Any = Field(None, exclude=True, description="Ignored; browsers add it.")


class AppPush(RequestModel):
    """Push through Apple (APNs) or Google (FCM)."""

    provider: Literal["apns", "fcm"]
    token: str = Field(min_length=1, max_length=MAX_TOKEN_CHARACTERS)
    topic: str | None = Field(None, min_length=1, max_length=256, description="The app's bundle id (APNs).")
    sandbox: bool = Field(False, description="Whether the token belongs to the development environment of APNs.")


class WebPush(RequestModel):
    """Push through the service of a browser. A masked token keeps the stored one."""

    provider: Literal["webpush"]
    token: WebPushToken
    topic: str | None = Field(None, min_length=1, max_length=256)
    sandbox: bool = False


class DeviceRegistration(RequestModel):
    """The registration of a device."""

    platform: Platform | None = None
    push: Annotated[AppPush | WebPush, Field(discriminator="provider")] | None = None
    locale: Language | None = None


class PushPatch(RequestModel):
    """Changes of the push registration."""

    provider: Literal["apns", "fcm", "webpush"] | None = None
    token: Annotated[str, Field(min_length=1, max_length=MAX_TOKEN_CHARACTERS)] | WebPushToken | None = None
    topic: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    sandbox: bool | None = None


class DevicePatch(RequestModel):
    """A merge patch (RFC 7396) of the registration: null removes a member. The merged result is validated."""

    platform: Platform | None = None
    push: PushPatch | None = None
    locale: Language | None = None


def to_registration(
    document: DeviceRegistration, hosts: Sequence[str], stored: Registration | None = None
) -> Registration:
    """Return the registration to store, unless ``hosts`` lacks the Web Push host, or no push could ever be sent to it.

    Raise ``push_endpoint_not_allowed`` or ``invalid``. ``stored``: its push registration is accepted unchanged.
    """
    push = document.push
    # The endpoint is a URL that this service will call: without a check, a device could aim it at our network (SSRF).
    if isinstance(push, WebPush):
        _check_endpoint(push.token.endpoint, hosts)
    kept = push.model_dump(exclude_none=True) if push is not None else None
    # Earlier releases stored them unchecked: a change of the locale must not fail for that.
    if push is not None and (stored is None or kept != stored.push):
        _check_usable(push)
    return Registration(document.platform, kept, document.locale)


def with_registrar(
    registration: Registration, stored: Registration | None, document: Any, caller: PushRegistrar
) -> Registration:
    """Return the registration with the caller that registered its push token.

    A request without a complete token keeps the stored one, which stays as limited as its own registrar.
    """
    push = document.get("push") if isinstance(document, dict) else None
    token = push.get("token") if isinstance(push, dict) else None
    kept = stored.registrar if stored is not None else None
    is_new = token is not None and not _is_masked(token)
    return replace(registration, registrar=None if registration.push is None else caller if is_new else kept)


def registration_document(registration: Registration) -> dict[str, Any]:
    """Return the registration as a request document, to which a merge patch can be applied."""
    return {"platform": registration.platform, "push": registration.push, "locale": registration.locale}


def device_response(registration: Registration, presence: PresenceStatus) -> DeviceResponse:
    """Return a device as the API shows it: of the push token only the last four characters."""
    push = registration.push
    return DeviceResponse(
        platform=registration.platform,
        push=None if push is None else DevicePushResponse(**{**push, "token": _masked(push["token"])}),
        locale=registration.locale,
        online=presence.online,
        foreground=presence.foreground,
        last_seen=json_time_or_null(presence.last_seen_us),
    )


def presence_response(presence: PresenceStatus | None) -> PresenceResponse:
    """Return the presence of a user as the API shows it. ``None``: the server of the user is unreachable."""
    shown = presence or PresenceStatus()
    return PresenceResponse(
        online=shown.online,
        foreground=shown.foreground,
        last_seen=json_time_or_null(shown.last_seen_us),
        unknown=True if presence is None else UNSET,
    )


def _is_masked(token: Any) -> bool:
    """Return whether a push token is one of a response. No real token starts with an ellipsis."""
    return isinstance(token, str) and token.startswith("…")


def _masked(token: Any) -> str:
    """Return the last four characters of a push token, after an ellipsis."""
    text = token["endpoint"] if isinstance(token, Mapping) else str(token)
    return "…" + str(text)[-4:]


def restore_read_values(document: Any, stored_registration: Registration | None) -> Any:
    """Return the document without read-only fields, and with the stored token in place of a masked one."""
    if not isinstance(document, dict):
        return document
    document = {name: value for name, value in document.items() if name not in READ_ONLY}
    push, stored = document.get("push"), stored_registration.push if stored_registration is not None else None
    if isinstance(push, dict) and _is_masked(push.get("token")):
        if stored is None or push["token"] != _masked(stored["token"]) or push.get("provider") != stored["provider"]:
            raise field_problem(
                "invalid", "/push/token", "This is a masked token of a response. Send the complete token."
            )
        return {**document, "push": {**push, "token": stored["token"]}}
    return document


def _check_usable(push: AppPush | WebPush) -> None:
    """Raise ``invalid`` if delivery could never send to this registration."""
    if isinstance(push, WebPush):
        try:
            SubscriptionKeys.read(push.token.keys.p256dh, push.token.keys.auth)
        except ValueError:
            detail = (
                "The keys must be those of PushSubscription.toJSON(): p256dh a P-256 point of 65 bytes, auth 16 bytes."
            )
            raise field_problem("invalid", "/push/token/keys", detail) from None
    elif push.provider == "apns" and not is_apns_token(push.token):
        detail = (
            "An APNs token is the hexadecimal device token: at most 512 printable ASCII characters, without spaces."
        )
        raise field_problem("invalid", "/push/token", detail)
    elif push.provider == "apns" and push.topic is not None and not is_apns_topic(push.topic):
        detail = "An APNs topic is the app's bundle id: at most 255 printable ASCII characters, without spaces."
        raise field_problem("invalid", "/push/topic", detail)


def _check_endpoint(endpoint: str, hosts: Sequence[str]) -> None:
    """Raise ``push_endpoint_not_allowed`` unless the endpoint is https, with an allowed host and port 443."""
    if AllowedHosts(hosts).destination_of(endpoint) is None:
        detail = (
            "A Web Push endpoint must be https, on port 443 of a host in the setting WEBPUSH_HOSTS, "
            "without a trailing dot."
        )
        raise field_problem("push_endpoint_not_allowed", "/push/token/endpoint", detail)
