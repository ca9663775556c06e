"""A fake APNs: HTTP/2 over TLS, byte for byte as Apple's, with its rules, and with every failure on demand.

What comes is judged by Apple's rules (headers, payload size, provider token), then answered as the script of its
device token says: the n-th request for a token gets the n-th act, and 200 when the script is at its end.
"""

import asyncio
import ssl
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from .apns_actions import ApnsAction
from .apns_connection import FakeApnsConnection
from .tls import CertificateAuthority

ANY_TOKEN = "*"  # noqa: S105 - the script for every device token that has none of its own
NOBODYS_TOKEN = "0" * 64
MOST_PAYLOAD_BYTES = 4_096
TOKEN_AGE_S = 3_600
PUSH_TYPES = frozenset(
    {"alert", "background", "voip", "complication", "fileprovider", "mdm", "liveactivity", "location"}
)


@dataclass(frozen=True, slots=True)
class ReceivedApnsPush:
    """One request as it came, and whether the device got it."""

    token: str
    headers: dict[str, str]
    payload: Any
    connection: int
    is_delivered: bool
    act: ApnsAction

    @property
    def collapse_id(self) -> str | None:
        """The `apns-collapse-id`."""
        return self.headers.get("apns-collapse-id")


@dataclass(slots=True)
class FakeApns:
    """The server. `keys`: public keys of provider tokens by key id; without any, tokens are not asked for.

    `received`: every request, in order, also those that were refused. `most_streams` and `window_bytes` are its first
    SETTINGS.
    """

    authority: CertificateAuthority
    keys: dict[str, ec.EllipticCurvePublicKey] = field(default_factory=dict)
    team_id: str | None = None
    topics: frozenset[str] | None = None
    most_streams: int = 500
    window_bytes: int = 65_535
    clock_ahead_s: float = 0.0
    keeps_payloads: bool = True
    received: list[ReceivedApnsPush] = field(default_factory=list)
    connections: int = 0
    provider_tokens: set[str] = field(default_factory=set)
    _scripts: dict[str, deque[ApnsAction]] = field(default_factory=lambda: defaultdict(deque))
    _open: set[FakeApnsConnection] = field(default_factory=set)
    _server: asyncio.Server | None = None
    _verified: dict[str, ApnsAction | None] = field(default_factory=dict)

    async def start(self, port: int = 0) -> None:
        """Listen on loopback; `port` 0 takes a free one."""
        tls: ssl.SSLContext = self.authority.server_context("h2", takes_client_certificates=True)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: FakeApnsConnection(self), "127.0.0.1", port, ssl=tls)

    async def close(self) -> None:
        """Cut every connection and stop listening."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._open):
            connection.cut()
        await self._server.wait_closed()
        self._server = None

    @property
    def url(self) -> str:
        """For GREGOR_APNS_URL."""
        assert self._server is not None  # noqa: S101 - a misuse of the fake, not of the product
        return f"https://localhost:{self._server.sockets[0].getsockname()[1]}"

    def script(self, token: str, *acts: ApnsAction) -> None:
        """What the next requests for `token` get, one after the other; `ANY_TOKEN`: those that have no script."""
        self._scripts[token].extend(acts)

    def delivered(self) -> list[ReceivedApnsPush]:
        """What reached a device, in order."""
        return [each for each in self.received if each.is_delivered]

    def visible(self, token: str) -> dict[str, Any]:
        """What the device of `token` shows: of each collapse id the last alert."""
        mine = [each for each in self.delivered() if each.token == token]
        return {each.collapse_id or "": each.payload for each in mine if each.headers.get("apns-push-type") == "alert"}

    def cut_connections(self) -> None:
        """End all connections at once, as a network that fails does."""
        for connection in list(self._open):
            connection.cut()

    def freeze(self) -> None:
        """Read and answer nothing more on the connections that are there, and do not close them: a dead network."""
        for connection in self._open:
            connection.freeze()

    def entered(self, connection: FakeApnsConnection) -> int:
        """A connection came: its number, from 1."""
        self._open.add(connection)
        self.connections += 1
        return self.connections

    def left(self, connection: FakeApnsConnection) -> None:
        """A connection went."""
        self._open.discard(connection)

    def judge(self, headers: dict[str, str], body: bytes, connection: FakeApnsConnection) -> ApnsAction:
        """What to do with a request: what Apple's rules say, else what the script says; and remember it."""
        token = headers.get(":path", "").removeprefix("/3/device/")
        act = self._judge_token(headers, connection) or self._judge_request(headers, body)
        if act is None:
            script = self._scripts.get(token) or self._scripts.get(ANY_TOKEN)
            act = script.popleft() if script else ApnsAction()
        payload = msgspec.json.decode(body) if self.keeps_payloads and body else None
        self.received.append(ReceivedApnsPush(token, headers, payload, connection.number, act.is_delivered, act))
        return act

    def _judge_request(self, headers: dict[str, str], body: bytes) -> ApnsAction | None:
        priority, push_type = headers.get("apns-priority", "10"), headers.get("apns-push-type", "alert")
        topic = headers.get("apns-topic")
        faults = (
            (headers.get(":method") != "POST", 405, "MethodNotAllowed"),
            (not headers.get(":path", "").startswith("/3/device/"), 404, "BadPath"),
            (headers.get(":path") == "/3/device/", 400, "MissingDeviceToken"),
            (headers.get(":path") == "/3/device/" + NOBODYS_TOKEN, 400, "BadDeviceToken"),
            (topic is None, 400, "MissingTopic"),
            (self.topics is not None and topic not in self.topics, 400, "TopicDisallowed"),
            (not body, 400, "PayloadEmpty"),
            (len(body) > MOST_PAYLOAD_BYTES, 413, "PayloadTooLarge"),
            (len(headers.get("apns-collapse-id", "").encode()) > 64, 400, "BadCollapseId"),
            (push_type not in PUSH_TYPES, 400, "InvalidPushType"),
            (priority not in ("1", "5", "10"), 400, "BadPriority"),
            (push_type == "background" and priority == "10", 400, "BadPriority"),
            (not headers.get("apns-expiration", "0").isdigit(), 400, "BadExpirationDate"),
        )
        return next((ApnsAction(status, reason) for is_wrong, status, reason in faults if is_wrong), None)

    def _judge_token(self, headers: dict[str, str], connection: FakeApnsConnection) -> ApnsAction | None:
        if connection.has_client_certificate or not self.keys:
            return None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return ApnsAction(403, "MissingProviderToken")
        self.provider_tokens.add(token)
        now_s = time.time() + self.clock_ahead_s
        if token not in self._verified:
            self._verified[token] = self._verify(token)
        trouble = self._verified[token]
        if trouble is not None:
            return trouble
        issued_s = jwt.decode(token, options={"verify_signature": False})["iat"]
        if issued_s < now_s - TOKEN_AGE_S:
            return ApnsAction(403, "ExpiredProviderToken")
        if issued_s > now_s + 60:
            return ApnsAction(403, "InvalidProviderToken")
        return connection.judge_renewal(token, now_s)

    def _verify(self, token: str) -> ApnsAction | None:
        try:
            key = self.keys[jwt.get_unverified_header(token)["kid"]]
            claims = jwt.decode(
                token, key, algorithms=["ES256"], options={"verify_iat": False, "require": ["iat", "iss"]}
            )
        except (jwt.InvalidTokenError, KeyError):
            return ApnsAction(403, "InvalidProviderToken")
        return None if self.team_id in (None, claims["iss"]) else ApnsAction(403, "InvalidProviderToken")
