"""Push to Apple's devices: APNs over HTTP/2, by provider token or by certificate."""

import asyncio
import re
import ssl
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from hpack import NeverIndexedHeaderTuple

from gregor.clock import Clock, SystemClock
from gregor_delivery.channels.contract import PushMessage
from gregor_delivery.channels.push_payload import apns_payload
from gregor_delivery.channels.tls import trusting
from gregor_delivery.channels.verdict import Misconfigured, Refused, Retry, Unknown, Verdict

from .connection import ApnsConnection
from .exchange import ApnsResponse, Headers, Lost, NotProcessed, Outcome, Untrusted
from .pool import ApnsEndpoint, ApnsPool
from .responses import is_expired_token, spoils_connection, verdict_of
from .token import ProviderToken

PRODUCTION: Final = "https://api.push.apple.com"
SANDBOX: Final = "https://api.sandbox.push.apple.com"
MOST_HANDOVERS: Final = 3
"""How often one push is handed over where each time before it was surely not processed."""
CHECK_S: Final = 10.0
_TO_NOBODY: Final = PushMessage(
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
_PLAIN = re.compile(r"[!-~]{1,255}")


@dataclass(frozen=True, slots=True)
class ApnsConfig:
    """Credentials and place: a key (.p8) with its ids, or a certificate with its key in one PEM.

    `url` and `ca_file` replace both environments of Apple and their authorities, for fakes. `topic` is for devices
    that name none.
    """

    key_file: Path | None = None
    cert_file: Path | None = None
    key_id: str | None = None
    team_id: str | None = None
    topic: str | None = None
    url: str | None = None
    ca_file: Path | None = None
    most_connections: int = 4


class ApnsChannel:
    """The channel `apns` (contract.Channel of Push)."""

    name: Final = "apns"

    def __init__(self, config: ApnsConfig, clock: Clock | None = None) -> None:
        """`clock`: what Apple compares with its own time; the system's, without the offset of the house."""
        self._config = config
        self._clock = clock or SystemClock()
        self._token: ProviderToken | None = None
        self.tls: ssl.SSLContext | None = None
        """Whom we trust, and who we are where that is by certificate; None before `open`."""
        self._pools: dict[bool, ApnsPool] = {}
        self._authorities: dict[bool, bytes] = {}

    def connections(self, sandbox: bool) -> tuple[ApnsConnection, ...]:
        """The connections that are open to an environment."""
        return self._pools[sandbox].connections

    async def open(self) -> None:
        """Raises ValueError where the credentials are missing, unreadable, or no such. Touches no network."""
        config = self._config
        if (config.key_file is None) == (config.cert_file is None):
            raise ValueError("APNs takes either GREGOR_APNS_KEY_FILE or GREGOR_APNS_CERT_FILE")
        if config.key_file is not None:
            self._token = self._read_key(config.key_file)
        self.tls = self._tls()
        for is_sandbox, place in ((False, PRODUCTION), (True, SANDBOX)):
            url = urlsplit(config.url or place)
            if url.scheme not in ("https", "http") or not url.hostname:
                raise ValueError("GREGOR_APNS_URL: write https://host:port")
            port = url.port or (443 if url.scheme == "https" else 80)
            address = ApnsEndpoint(url.hostname, port, self.tls if url.scheme == "https" else None)
            self._pools[is_sandbox] = ApnsPool(address, config.most_connections, spoils_connection)
            self._authorities[is_sandbox] = url.netloc.encode()

    async def send(self, message: PushMessage, deadline_s: float) -> Verdict:
        """One push, handed over once; again only where APNs surely did not process it."""
        try:
            body = apns_payload(message)
        except (TypeError, ValueError) as error:
            return Refused(None, f"no payload can be made: {type(error).__name__}")
        deadline_at = asyncio.get_running_loop().time() + deadline_s
        pool = self._pools[message.sandbox]
        outcome: Outcome = NotProcessed("not tried")
        for _ in range(MOST_HANDOVERS):
            provider_token = self._token.header() if self._token is not None else b""
            headers = self._headers(message, provider_token)
            if isinstance(headers, Refused):
                return headers
            outcome = await pool.exchange(headers, body, deadline_at)
            if not self._may_go_again(outcome, provider_token):
                break
        return self._verdict(outcome, message)

    async def close(self) -> None:
        """Let what is in flight end, then close the connections."""
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))

    async def check(self) -> str | None:
        """Whether the production environment takes us: asked with a push to a token that is nobody's."""
        try:
            if not self._pools:
                await self.open()
        except ValueError as error:
            return str(error)
        if self._config.topic is None:
            return "GREGOR_APNS_TOPIC is not set: devices that name no topic get no push"
        match await self.send(_TO_NOBODY, CHECK_S):
            case Misconfigured(_, detail):
                return f"APNs refuses us: {detail}; check the key or certificate, its ids and GREGOR_APNS_TOPIC"
            case Retry(_, _, detail) | Unknown(detail):
                return f"APNs cannot be reached: {detail}"
        return None

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
            tls = trusting(ca_file)
        except OSError as error:
            raise ValueError(f"GREGOR_APNS_CA_FILE: {ca_file} holds no certificates that can be read") from error
        if cert_file is not None:
            try:
                tls.load_cert_chain(cert_file, password="")
            except OSError as error:
                raise ValueError(
                    f"GREGOR_APNS_CERT_FILE: {cert_file} is no PEM with a certificate and its key, unencrypted"
                ) from error
        tls.set_alpn_protocols(["h2"])
        return tls

    def _headers(self, push: PushMessage, provider_token: bytes) -> Headers | Refused:
        topic = push.topic or self._config.topic
        if not isinstance(push.token, str) or not push.token:
            return Refused(None, "not a token of APNs")
        if topic is not None and not _PLAIN.fullmatch(topic):
            return Refused(None, "BadTopic")
        # What is alike in every push is indexed once by HPACK; what is not would only push that out of its table.
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
            until = b"%d" % (push.expires_us // 1_000_000)
            headers.append(NeverIndexedHeaderTuple(b"apns-expiration", until))
        return headers

    def _may_go_again(self, outcome: Outcome, provider_token: bytes) -> bool:
        if isinstance(outcome, ApnsResponse) and is_expired_token(outcome):
            return self._token is not None and self._token.renew(provider_token)
        return isinstance(outcome, NotProcessed) and outcome.is_turned_away

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
