"""Push to browsers: Web Push (RFC 8030), encrypted for the browser alone, signed with our VAPID key."""

import asyncio
import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpcore

from gregor.auth.vapid import VapidKey
from gregor.clock import Clock, SystemClock
from gregor.config.settings import WEBPUSH_SERVICES
from gregor.net.ssrf_guard import AddressNotPublic, AllowedHosts, Destination, GuardedBackend, connect_failure
from gregor_delivery.channels.contract import PushMessage
from gregor_delivery.channels.http_pool import HttpExchange, HttpPool
from gregor_delivery.channels.push_payload import webpush_payload
from gregor_delivery.channels.tls import trusting
from gregor_delivery.channels.verdict import (
    Misconfigured,
    RecipientGone,
    Refused,
    Retry,
    Sent,
    Unknown,
    Verdict,
    parse_retry_after,
)

from .encryption import SubscriptionKeys, encrypt

LONGEST_TTL_S: Final = 28 * 86_400
_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")
_TAKEN: Final = frozenset({200, 201, 202, 204})


@dataclass(frozen=True, slots=True)
class WebPushConfig:
    """`hosts` as the setting WEBPUSH_HOSTS; `ca_file` trusts a fake's authority in place of the system's."""

    key_file: Path
    subject: str
    hosts: tuple[str, ...] = WEBPUSH_SERVICES
    ca_file: Path | None = None
    most_connections: int = 100


@dataclass(frozen=True, slots=True)
class _Target:
    place: Destination
    url: str
    keys: SubscriptionKeys

    @property
    def origin(self) -> str:
        port = "" if self.place.port == 443 else f":{self.place.port}"
        return f"https://{self.place.host}{port}"


class WebPushChannel:
    """The channel `webpush` (contract.Channel of Push). Each send has a connection for itself while it lasts."""

    name: Final = "webpush"

    def __init__(self, config: WebPushConfig, clock: Clock, signing_clock: Clock | None = None) -> None:
        """`clock`: the house's, for what is left of a push's time; `signing_clock`: the system's, for other hosts."""
        self._config, self._clock, self._signing_clock = config, clock, signing_clock or SystemClock()
        self._hosts = AllowedHosts(config.hosts)
        self._key: VapidKey | None = None
        self._pool: HttpPool | None = None
        self._trusting: set[str] = set()

    async def open(self) -> None:
        """Raises ValueError where the key cannot be used. Touches no network."""
        self._key = VapidKey.read(self._config.key_file, self._config.subject, self._signing_clock)
        try:
            tls = trusting(self._config.ca_file)
        except OSError as error:
            raise ValueError(f"{self._config.ca_file} holds no certificates that can be read") from error
        backend = GuardedBackend(self._hosts.private_destinations())
        self._pool = HttpPool(self._config.most_connections, tls, backend)

    async def send(self, message: PushMessage, deadline_s: float) -> Verdict:
        """One push, handed over once."""
        if self._pool is None:
            raise RuntimeError("the channel is not open")
        target = self._target(message.token)
        if isinstance(target, Refused):
            return target
        try:
            body = encrypt(webpush_payload(message), target.keys)
        except (TypeError, ValueError) as error:
            return Refused(None, f"no payload can be made: {type(error).__name__}")
        exchange = HttpExchange()
        detail = ""
        try:
            async with asyncio.timeout(deadline_s):
                await self._pool.post(target.url, self._headers(message, target), body, exchange)
        except AddressNotPublic:
            return Refused(None, "the endpoint has no public address")
        except (OSError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            detail = connect_failure(error)
        if exchange.status is not None:
            return self._verdict(exchange.status, exchange.retry_after, target)
        return Unknown(detail) if exchange.is_handed_over else Retry(None, None, f"cannot connect: {detail}")

    async def close(self) -> None:
        """Let what is in flight end, then close the connections."""
        if self._pool is not None:
            await self._pool.close()

    async def check(self) -> str | None:
        """Whether the key can be used; a service cannot be asked without a subscription."""
        try:
            if self._key is None:
                await self.open()
        except ValueError as error:
            return str(error)
        return None

    def _target(self, token: Mapping[str, Any] | str) -> _Target | Refused:
        """Endpoint and keys of a registration, judged again: the list of hosts may have changed since."""
        try:
            if isinstance(token, str):
                raise ValueError("not a subscription")
            url, keys = str(token["endpoint"]), token["keys"]
            subscription = SubscriptionKeys.read(str(keys["p256dh"]), str(keys["auth"]))
        except (KeyError, TypeError, ValueError):
            return Refused(None, "not a Web Push subscription")
        place = self._hosts.destination_of(url)
        return _Target(place, url, subscription) if place else Refused(None, "the endpoint is of no allowed host")

    def _headers(self, push: PushMessage, target: _Target) -> list[tuple[str, str]]:
        if self._key is None:
            raise RuntimeError("send before open")
        return [
            ("Host", target.origin.removeprefix("https://")),
            ("Authorization", self._key.authorization(target.origin)),
            ("Content-Encoding", "aes128gcm"),
            ("Content-Type", "application/octet-stream"),
            ("TTL", str(self._ttl_s(push))),
            ("Urgency", "high" if push.urgent else "low" if push.kind == "background" else "normal"),
            ("Topic", topic_of(push.collapse_id)),
        ]

    def _ttl_s(self, push: PushMessage) -> int:
        if push.expires_us is None:
            return LONGEST_TTL_S
        return max(0, min((push.expires_us - self._clock.now_us()) // 1_000_000, LONGEST_TTL_S))

    def _verdict(self, status: int, retry_after: str | None, target: _Target) -> Verdict:
        """What an answer means (RFC 8030 §5, §7.3).

        A service that took our key before and turns one subscription away with 401 or 403 says that this one was made
        for another key: a device can cause that, so it must not stop the provider for all.
        """
        said = str(status)
        if status in _TAKEN:
            self._trusting.add(target.origin)
            return Sent(said)
        if status in (404, 410):
            return RecipientGone(said, "the subscription is gone")
        if status in (401, 403):
            if target.origin in self._trusting:
                return Refused(said, "the subscription was made for another key")
            return Misconfigured(said, f"{target.place.host} refuses the VAPID key")
        if status == 429 or status >= 500:
            return Retry(parse_retry_after(retry_after, self._signing_clock.now_us()), said, "asked to wait")
        return Refused(said, "too large" if status == 413 else f"answered {status}")


def topic_of(collapse_id: str) -> str:
    """The collapse id where it is a `Topic` (at most 32 characters of base64url), else a hash of it that is one."""
    if _TOPIC.fullmatch(collapse_id):
        return collapse_id
    return base64.urlsafe_b64encode(hashlib.sha256(collapse_id.encode()).digest())[:32].decode()
