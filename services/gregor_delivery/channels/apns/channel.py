"""Push to Apple devices: APNs over HTTP/2, authenticated by provider token or by certificate."""

import asyncio
import ssl
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from hpack import NeverIndexedHeaderTuple

from gregor.auth.push_tokens import is_apns_token, is_apns_topic
from gregor.clock import Clock, SystemClock
from gregor_delivery.channels.contract import PushMessage
from gregor_delivery.channels.push_payload import apns_payload
from gregor_delivery.channels.tls import client_context, limit_overhead
from gregor_delivery.channels.verdict import Misconfigured, Refused, Retry, Unknown, Verdict

from .connection import ApnsConnection
from .exchange import ApnsResponse, Headers, Lost, NotProcessed, Outcome, Untrusted
from .pool import ApnsEndpoint, ApnsPool
from .responses import is_connection_spoiled, is_expired_token, verdict_of
from .token import ProviderToken

PRODUCTION: Final = "https://api.push.apple.com"
SANDBOX: Final = "https://api.sandbox.push.apple.com"
MAX_SENDS: Final = 3
"""How often one push is sent if APNs has certainly not processed it before."""
CHECK_TIMEOUT_S: Final = 10.0
_TEST_PUSH: Final = PushMessage(
    uid="",
    device="",
    token="0" * 64,
    topic=None,
    sandbox=False,
    kind="background",
    title="",
    text="",
    sound=None,
    badge=None,
    collapse_id="gregor-doctor",
    expires_us=0,
    urgent=False,
    data={},
)


@dataclass(frozen=True, slots=True)
class ApnsConfig:
    """Credentials and address: a key (.p8) with its ids, or a certificate with its key in one PEM.

    `url` and `ca_file` replace both environments of Apple and their authorities, for fakes. `topic`: for devices whose
    registration has none.
    """

    key_file: Path | None = None
    cert_file: Path | None = None
    key_id: str | None = None
    team_id: str | None = None
    topic: str | None = None
    url: str | None = None
    ca_file: Path | None = None
    max_connections: int = 4


class ApnsChannel:
    """The channel `apns`."""

    name: Final = "apns"

    def __init__(self, config: ApnsConfig, clock: Clock | None = None) -> None:
        """`clock`: compared by Apple with its own; by default the system's, without GREGOR_CLOCK_OFFSET."""
        self._config = config
        self._clock = clock or SystemClock()
        self._token: ProviderToken | None = None
        self.tls: ssl.SSLContext | None = None
        """Trusted authorities, and our certificate if there is one; None before `open`."""
        self._pools: dict[bool, ApnsPool] = {}
        self._authorities: dict[bool, bytes] = {}

    def connections(self, sandbox: bool) -> tuple[ApnsConnection, ...]:
        """Return the open connections to an environment."""
        return self._pools[sandbox].connections

    async def open(self) -> None:
        """Read the credentials, without network access. Raises ValueError that names the setting to correct."""
        config = self._config
        if (config.key_file is None) == (config.cert_file is None):
            raise ValueError("APNs: set either GREGOR_APNS_KEY_FILE or GREGOR_APNS_CERT_FILE, not both")
        if config.key_file is not None:
            self._token = self._read_key(config.key_file)
        self.tls = self._tls()
        for is_sandbox, default_url in ((False, PRODUCTION), (True, SANDBOX)):
            url = urlsplit(config.url or default_url)
            if url.scheme not in ("https", "http") or not url.hostname:
                raise ValueError("GREGOR_APNS_URL: write https://host:port")
            port = url.port or (443 if url.scheme == "https" else 80)
            endpoint = ApnsEndpoint(url.hostname, port, self.tls if url.scheme == "https" else None)
            self._pools[is_sandbox] = ApnsPool(endpoint, config.max_connections, is_connection_spoiled)
            self._authorities[is_sandbox] = url.netloc.encode()

    async def send(self, message: PushMessage, deadline_s: float) -> Verdict:
        """Send one push; a second time only if APNs has certainly not processed it."""
        try:
            body = apns_payload(message)
        except (TypeError, ValueError) as error:
            return Refused(None, f"the payload cannot be encoded: {type(error).__name__}")
        deadline_at = asyncio.get_running_loop().time() + deadline_s
        pool = self._pools[message.sandbox]
        outcome: Outcome = NotProcessed("not sent")
        for _ in range(MAX_SENDS):
            provider_token = self._token.header() if self._token is not None else b""
            headers = self._headers(message, provider_token)
            if isinstance(headers, Refused):
                return headers
            outcome = await pool.exchange(headers, body, deadline_at)
            if not self._is_resendable(outcome, provider_token):
                break
        return self._verdict(outcome, message)

    async def close(self) -> None:
        """Wait for the pushes in flight, then close all connections."""
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))

    async def check(self) -> str | None:
        """Check the credentials with a push to an unassigned token of the production environment."""
        try:
            if not self._pools:
                await self.open()
        except ValueError as error:
            return str(error)
        if self._config.topic is None:
            return "GREGOR_APNS_TOPIC is not set: devices without a topic in their registration get no push"
        match await self.send(_TEST_PUSH, CHECK_TIMEOUT_S):
            case Misconfigured(_, detail):
                return f"APNs rejects the credentials: {detail}; check key or certificate, its ids, GREGOR_APNS_TOPIC"
            case Retry(_, _, detail) | Unknown(detail):
                return f"APNs cannot be reached: {detail}"
        return None

    # --- settings ---

    def _read_key(self, path: Path) -> ProviderToken:
        if not self._config.key_id or not self._config.team_id:
            raise ValueError("GREGOR_APNS_KEY_FILE needs GREGOR_APNS_KEY_ID and GREGOR_APNS_TEAM_ID")
        try:
            return ProviderToken(path.read_bytes(), self._config.key_id, self._config.team_id, self._clock)
        except OSError as error:
            raise ValueError(f"GREGOR_APNS_KEY_FILE: {path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"GREGOR_APNS_KEY_FILE: {path} is {error}") from error

    def _tls(self) -> ssl.SSLContext:
        ca_file, cert_file = self._config.ca_file, self._config.cert_file
        try:
            tls = limit_overhead(client_context(ca_file))
        except OSError as error:
            raise ValueError(f"GREGOR_APNS_CA_FILE: {ca_file} has no readable certificates") from error
        if cert_file is not None:
            try:
                tls.load_cert_chain(cert_file, password="")
            except OSError as error:
                raise ValueError(
                    f"GREGOR_APNS_CERT_FILE: {cert_file} is not a PEM file with a certificate and its unencrypted key"
                ) from error
        tls.set_alpn_protocols(["h2"])
        return tls

    # --- one push ---

    def _headers(self, push: PushMessage, provider_token: bytes) -> Headers | Refused:
        topic = push.topic or self._config.topic
        if not isinstance(push.token, str) or not is_apns_token(push.token):
            return Refused(None, "not an APNs token")
        if topic is not None and not is_apns_topic(topic):
            return Refused(None, "BadTopic")
        # Headers that differ in each push are never indexed: they would evict the constant ones from the HPACK table.
        headers: list[tuple[bytes, bytes]] = [
            (b":method", b"POST"),
            (b":scheme", b"https"),
            NeverIndexedHeaderTuple(b":path", b"/3/device/" + quote(push.token, safe="").encode()),
            (b":authority", self._authorities[push.sandbox]),
        ]
        if provider_token:
            headers.append((b"authorization", provider_token))
        if topic is not None:
            headers.append((b"apns-topic", topic.encode()))
        headers.append((b"apns-push-type", push.kind.encode()))
        headers.append((b"apns-priority", b"5" if push.kind == "background" else b"10"))
        headers.append(NeverIndexedHeaderTuple(b"apns-id", str(uuid.uuid4()).encode()))
        headers.append(NeverIndexedHeaderTuple(b"apns-collapse-id", push.collapse_id.encode()))
        if push.expires_us is not None:
            expiration = b"%d" % (push.expires_us // 1_000_000)
            headers.append(NeverIndexedHeaderTuple(b"apns-expiration", expiration))
        return headers

    def _is_resendable(self, outcome: Outcome, provider_token: bytes) -> bool:
        if isinstance(outcome, ApnsResponse) and is_expired_token(outcome):
            return self._token is not None and self._token.renew(provider_token)
        return isinstance(outcome, NotProcessed) and outcome.is_resendable

    def _verdict(self, outcome: Outcome, push: PushMessage) -> Verdict:
        match outcome:
            case ApnsResponse():
                return verdict_of(outcome, push, self._clock.now_us())
            case NotProcessed(detail):
                return Retry(None, None, detail)
            case Untrusted(detail):
                return Misconfigured(None, detail)
            case Lost(detail):
                return Unknown(detail)
