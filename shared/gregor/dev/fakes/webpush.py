"""A fake Web Push service: verifies VAPID, decrypts as a browser does, and fails on demand."""

from __future__ import annotations

import os
import re
import struct
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

import jwt
import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gregor.auth.vapid import base64url, from_base64url

from .http1 import FakeRequest, FakeResponse, Http1Server, ServerFault
from .tls import CertificateAuthority

MAX_BODY_BYTES = 4_096
MAX_CLAIM_S = 24 * 3_600
_VAPID = re.compile(r"vapid t=([\w.-]+), ?k=([\w-]+)")


@dataclass(frozen=True, slots=True)
class FakeBrowser:
    """A browser's subscription with its private key."""

    name: str
    key: ec.EllipticCurvePrivateKey
    secret: bytes
    application_key: str

    @property
    def public(self) -> bytes:
        """The public key that senders encrypt for."""
        return self.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def decrypt(self, body: bytes) -> bytes:
        """Return the plaintext of a message (RFC 8291 §3.4, RFC 8188 §2), by code independent of the sender's."""
        salt, (record_bytes, id_length) = body[:16], struct.unpack(">IB", body[16:21])
        sender, sealed = body[21 : 21 + id_length], body[21 + id_length :]
        if len(sealed) > record_bytes:
            raise ValueError("more than one record")
        shared = self.key.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sender))
        seed = HKDF(SHA256(), 32, self.secret, b"WebPush: info\x00" + self.public + sender).derive(shared)
        key = HKDF(SHA256(), 16, salt, b"Content-Encoding: aes128gcm\x00").derive(seed)
        nonce = HKDF(SHA256(), 12, salt, b"Content-Encoding: nonce\x00").derive(seed)
        padded = AESGCM(key).decrypt(nonce, sealed, None).rstrip(b"\x00")
        if not padded.endswith(b"\x02"):
            raise ValueError("the delimiter of the last record is missing")
        return padded[:-1]


@dataclass(frozen=True, slots=True)
class ReceivedPush:
    """A message that a browser received."""

    browser: str
    headers: dict[str, str]
    message: Any

    @property
    def topic(self) -> str | None:
        """The `Topic` header: a later message with the same one replaces this message."""
        return self.headers.get("topic")


@dataclass(slots=True)
class FakeWebPush:
    """The service. `received`: messages that reached browsers. `requests`: all requests, with response or fault."""

    authority: CertificateAuthority
    received: list[ReceivedPush] = field(default_factory=list)
    requests: list[tuple[FakeRequest, FakeResponse | ServerFault]] = field(default_factory=list)
    _browsers: dict[str, FakeBrowser] = field(default_factory=dict)
    _scripts: dict[str, deque[FakeResponse | ServerFault]] = field(default_factory=lambda: defaultdict(deque))
    _server: Http1Server | None = None

    async def start(self, port: int = 0) -> None:
        """Listen on loopback; port 0 takes a free one."""
        self._server = Http1Server(self._handle, self.authority.server_context("http/1.1"))
        await self._server.start(port)

    async def close(self) -> None:
        """Close every connection and stop listening."""
        if self._server is not None:
            await self._server.close()

    @property
    def host(self) -> str:
        """Host and port, for GREGOR_WEBPUSH_HOSTS."""
        if self._server is None:
            raise RuntimeError("not started")
        return f"localhost:{self._server.port}"

    @property
    def connections(self) -> int:
        """Number of connections so far."""
        return self._server.connections if self._server is not None else 0

    # --- browsers and records ---

    def subscribe(self, name: str, application_key: str) -> dict[str, Any]:
        """Add a browser and return its subscription, in the format of `PushSubscription.toJSON()`."""
        browser = FakeBrowser(name, ec.generate_private_key(ec.SECP256R1()), os.urandom(16), application_key)
        self._browsers[name] = browser
        keys = {"p256dh": base64url(browser.public), "auth": base64url(browser.secret)}
        return {"endpoint": f"https://{self.host}/push/{name}", "keys": keys}

    def unsubscribe(self, name: str) -> None:
        """Remove a subscription: it answers 410 from now on."""
        del self._browsers[name]

    def script(self, name: str, *answers: FakeResponse | ServerFault) -> None:
        """Set the responses to the next valid requests for this browser."""
        self._scripts[name].extend(answers)

    def visible(self, name: str) -> dict[str, Any]:
        """Return the messages on the screen: the last one of each topic."""
        return {each.topic or "": each.message for each in self.received if each.browser == name}

    # --- requests ---

    def _handle(self, request: FakeRequest) -> FakeResponse | ServerFault:
        answer = self._respond(request)
        self.requests.append((request, answer))
        return answer

    def _respond(self, request: FakeRequest) -> FakeResponse | ServerFault:
        browser = self._browsers.get(request.target.removeprefix("/push/"))
        if browser is None:
            return FakeResponse(410)
        if request.method != "POST" or request.headers.get("content-encoding") != "aes128gcm":
            return FakeResponse(400, b"not a message")
        if not request.headers.get("ttl", "").isdigit():
            return FakeResponse(400, b"TTL is missing")
        if not re.fullmatch(r"[\w-]{0,32}", request.headers.get("topic", ""), re.ASCII):
            return FakeResponse(400, b"not a Topic")
        if len(request.body) > MAX_BODY_BYTES:
            return FakeResponse(413)
        if not self._is_vapid_valid(request.headers.get("authorization", ""), browser):
            return FakeResponse(403, b"VAPID")
        script = self._scripts[browser.name]
        answer = script.popleft() if script else FakeResponse(201)
        if answer in (ServerFault.HANG, ServerFault.DROP, ServerFault.HALF) or (
            isinstance(answer, FakeResponse) and answer.status < 300
        ):
            try:
                message = msgspec.json.decode(browser.decrypt(request.body))
            except (InvalidTag, ValueError, msgspec.DecodeError):
                return FakeResponse(400, b"cannot be decrypted")
            self.received.append(ReceivedPush(browser.name, dict(request.headers), message))
        return answer

    def _is_vapid_valid(self, authorization: str, browser: FakeBrowser) -> bool:
        match = _VAPID.fullmatch(authorization)
        if match is None or match[2] != browser.application_key:
            return False
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), from_base64url(match[2]))
        try:
            claims = jwt.decode(match[1], key, algorithms=["ES256"], audience=f"https://{self.host}")
        except jwt.InvalidTokenError:
            return False
        return bool(claims["exp"] <= time.time() + MAX_CLAIM_S) and str(claims["sub"]).startswith(("mailto:", "https:"))
