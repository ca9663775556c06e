"""A fake of FCM HTTP v1 and of Google's token endpoint: as strict as Google, with scripted failures.

`credentials_file` writes a service account that only this fake knows. The fake checks the signature of each assertion,
the access token of each message and the schema of the message, before it consults a script.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

import jwt
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from .http1 import FakeRequest, FakeResponse, Http1Server, ServerFault

PROJECT: Final = "gregor-fake"
EMAIL: Final = "gregor@gregor-fake.iam.gserviceaccount.com"
SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
# The audience that google-auth signs for, whatever the address of the token endpoint is.
AUDIENCE: Final = "https://oauth2.googleapis.com/token"
MAX_BYTES: Final = 4_096
FCM_ERROR: Final = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
ERROR_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"
JSON: Final = {"content-type": "application/json; charset=UTF-8"}
_RESERVED: Final = ("google", "gcm.")


# --- responses ---


def error(
    status: int, name: str, code: str | None = None, headers: dict[str, str] | None = None, **reason: Any
) -> FakeResponse:
    """Return an error response of Google: HTTP status, its canonical name, and FCM's `errorCode`, if any."""
    details: list[dict[str, Any]] = [{"@type": FCM_ERROR, "errorCode": code}] if code else []
    details += [{"@type": ERROR_INFO, **reason}] if reason else []
    document = {"error": {"code": status, "message": f"{name} (fake)", "status": name, "details": details}}
    return FakeResponse(status, json.dumps(document).encode(), {**JSON, **(headers or {})})


def unregistered() -> FakeResponse:
    """Return the response for a dead token."""
    return error(404, "NOT_FOUND", "UNREGISTERED")


def quota_exceeded(retry_after: str | None = None) -> FakeResponse:
    """Return the response for too many messages. `retry_after`: seconds or an HTTP date."""
    return error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", {"retry-after": retry_after} if retry_after else None)


def unavailable(retry_after: str | None = None) -> FakeResponse:
    """Return the response of an overloaded server."""
    return error(503, "UNAVAILABLE", "UNAVAILABLE", {"retry-after": retry_after} if retry_after else None)


@dataclass(slots=True)
class FakeFcm:
    """The server. `script`: called for each valid message; None accepts it. `answers`: used first, one per message."""

    script: Callable[[dict[str, Any]], FakeResponse | ServerFault | None] = lambda _message: None
    token_script: Callable[[], FakeResponse | ServerFault | None] = lambda: None
    per_minute: int | None = None
    token_lifetime_s: int = 3_599
    answers: deque[FakeResponse | ServerFault] = field(default_factory=deque)
    requests: list[dict[str, Any]] = field(default_factory=list)
    accepted: list[dict[str, Any]] = field(default_factory=list)
    token_fetches: int = 0
    keeps: bool = True
    count: int = 0
    _good: set[str] = field(default_factory=set)
    _minute: tuple[int, int] = (0, 0)
    _key: rsa.RSAPrivateKey | None = None
    _server: Http1Server | None = None

    async def start(self, port: int = 0) -> None:
        """Listen on loopback; port 0 takes a free one."""
        self._key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
        self._server = Http1Server(self._handle)
        await self._server.start(port)

    async def close(self) -> None:
        """Stop listening."""
        await self.server.close()

    @property
    def server(self) -> Http1Server:
        """The HTTP server."""
        if self._server is None:
            raise RuntimeError("the fake is not started")
        return self._server

    @property
    def url(self) -> str:
        """Value for GREGOR_FCM_URL."""
        return self.server.url

    def credentials_file(self, path: Path, **other: Any) -> Path:
        """Write the service account to `path`, as Google's console exports it; `other` overrides fields."""
        if self._key is None:
            raise RuntimeError("the fake is not started")
        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        account: dict[str, Any] = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "fake",
            "private_key": pem.decode(),
            "client_email": EMAIL,
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }
        path.write_text(json.dumps({**account, **other}), "utf-8")
        return path

    def revoke_tokens(self) -> None:
        """Invalidate all access tokens."""
        self._good.clear()

    def shown(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return the notifications on screens: the last one of each (token, tag)."""
        return {
            (message["token"], message["android"]["notification"]["tag"]): message
            for message in self.accepted
            if "notification" in message
        }

    # --- requests ---

    def _handle(self, request: FakeRequest) -> FakeResponse | ServerFault:
        if request.method == "POST" and request.target == "/token":
            return self._issue_token(request)
        if request.method == "POST" and request.target.endswith("/messages:send"):
            return self._receive_message(request)
        return FakeResponse(404, b"<html>Not Found</html>", {"content-type": "text/html"})

    def _issue_token(self, request: FakeRequest) -> FakeResponse | ServerFault:
        self.token_fetches += 1
        scripted = self.token_script()
        if scripted is not None:
            return scripted
        assertion = parse_qs(request.body.decode()).get("assertion", [""])[0]
        try:
            claims = jwt.decode(assertion, self._key.public_key(), ["RS256"], audience=AUDIENCE)  # type: ignore[union-attr]
        except jwt.InvalidTokenError as refusal:
            document = {"error": "invalid_grant", "error_description": f"Invalid JWT: {refusal}"}
            return FakeResponse(400, json.dumps(document).encode(), JSON)
        if claims.get("scope") != SCOPE or claims["exp"] - claims["iat"] > 3_600:
            return FakeResponse(400, b'{"error":"invalid_scope"}', JSON)
        token = f"ya29.fake-{self.token_fetches}"
        self._good.add(token)
        grant = {"access_token": token, "expires_in": self.token_lifetime_s, "token_type": "Bearer"}
        return FakeResponse(200, json.dumps(grant).encode(), JSON)

    def _receive_message(self, request: FakeRequest) -> FakeResponse | ServerFault:
        self.count += 1
        if request.headers.get("authorization", "").removeprefix("Bearer ") not in self._good:
            return error(401, "UNAUTHENTICATED", reason="ACCESS_TOKEN_EXPIRED")
        if request.target != f"/v1/projects/{PROJECT}/messages:send":
            return error(404, "NOT_FOUND")
        document = msgspec.json.decode(request.body)
        message = document.get("message", {})
        if self.keeps:
            self.requests.append(message)
        invalid = invalid_fields(message)
        if invalid:
            violations = [{"field": f"message.{name}"} for name in invalid]
            return error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", fieldViolations=violations)
        scripted = self._scripted(message)
        if scripted is not None:
            return scripted
        if self.keeps and not document.get("validate_only"):
            self.accepted.append(message)
        name = f"projects/{PROJECT}/messages/0:{self.count}"
        return FakeResponse(200, b'{"name":"%s"}' % name.encode(), JSON)

    def _scripted(self, message: dict[str, Any]) -> FakeResponse | ServerFault | None:
        minute = int(time.monotonic() // 60)
        used = self._minute[1] + 1 if self._minute[0] == minute else 1
        self._minute = (minute, used)
        if self.per_minute is not None and used > self.per_minute:
            return quota_exceeded()
        if self.answers:
            return self.answers.popleft()
        return self.script(message)


def invalid_fields(message: dict[str, Any]) -> list[str]:
    """Return the fields that FCM would reject: by type, reserved name, format or size."""
    invalid = [] if isinstance(message.get("token"), str) and message["token"] else ["token"]
    data = message.get("data", {})
    if not all(isinstance(value, str) for value in data.values()):
        invalid.append("data")
    invalid += [f"data.{name}" for name in data if name == "from" or name.startswith(_RESERVED)]
    android = message.get("android", {})
    if android.get("priority", "NORMAL") not in ("NORMAL", "HIGH"):
        invalid.append("android.priority")
    ttl = android.get("ttl", "0s")
    if not (ttl.endswith("s") and ttl[:-1].isdigit() and int(ttl[:-1]) <= 28 * 86_400):
        invalid.append("android.ttl")
    apns = message.get("apns", {})
    if not all(isinstance(value, str) for value in apns.get("headers", {}).values()):
        invalid.append("apns.headers")
    if not isinstance(apns.get("payload", {}).get("aps", {}), dict):
        invalid.append("apns.payload")
    texts = [*data, *data.values(), *message.get("notification", {}).values()]
    if sum(len(text.encode()) for text in texts if isinstance(text, str)) > MAX_BYTES:
        invalid.append("size")
    return invalid
