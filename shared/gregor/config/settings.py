"""The settings of all processes: `GREGOR_…` variables or a TOML file, read at start into a frozen object.

The names are part of the contract (reference/settings.md lists them; a test compares). The variable of a field is its
name in capitals after `GREGOR_`, without the suffix `_s` of a duration: `retention_s` is `GREGOR_RETENTION`. Durations
are seconds, or a number with a unit (`30d`, `12h`, `90s`). The TOML file has the same names in lower case without
`GREGOR_`. A variable overrides the file.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from gregor.core import times
from gregor.core.limits import SECOND_US, Limits
from gregor.net.connection_limits import ConnectionLimits
from gregor.redis.url import RedisUrl

from .secret_files import SECRET_FIELDS, given_twice, merge_sources, read_secret_file, secret_lines
from .values import (
    DEFAULT_PARTITIONS,
    HostEntries,
    NetworkEntries,
    OriginEntries,
    PartitionCount,
    Rates,
    TimeOfDay,
    fix_for,
    url_like,
)

PREFIX = "GREGOR_"
_MAX_URL_LENGTH = 8_192
NOT_SETTINGS = frozenset({"GREGOR_CONFIG", "GREGOR_URL", "GREGOR_KEY", "GREGOR_KEY_FILE"})
"""Variables that are not settings: the TOML file, and the address and key for the command line."""
SENSITIVE = frozenset({"token_secret", "smtp_url", "link_secret"})
"""Fields whose value never appears in a message, because it may contain a password."""
SETTINGS_OF_THE_CONTRACT = tuple(
    PREFIX + name
    for name in (
        *("REDIS_URL", "QUEUE_URL", "NAMESPACE", "TOKEN_SECRET", "TOKEN_JWKS", "TOKEN_AUD", "TOKEN_ISS", "ORIGINS"),
        *("ADMIN_PORT", "RETENTION", "CLOCK_OFFSET", "PUBLIC_URL", "WEBPUSH_HOSTS", "CATEGORIES"),
        *("SMTP_URL", "MAIL_FROM"),
    )
)
"""Published names: they are never renamed or removed (docs/protocol.md)."""
_QUEUE_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
_CLUSTER_SCHEMES = ("redis+cluster", "rediss+cluster")
_TLS_FILES = ("ssl_ca_certs=", "ssl_certfile=", "ssl_keyfile=")
_QUEUE_MISSING = (
    "GREGOR_QUEUE_URL is required if GREGOR_REDIS_URL is a cluster: name a single Redis (redis://…) or Sentinels "
    "(redis+sentinel://…) for queues and streams"
)
WEBPUSH_SERVICES = (
    "fcm.googleapis.com",
    "updates.push.services.mozilla.com",
    "*.push.apple.com",
    "*.notify.windows.com",
)


class SettingsError(ValueError):
    """Invalid settings, in one line with variable, value and fix; ``problems`` has them one by one."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


def parse_duration(value: object) -> float:
    """Return the seconds of `30d`, `12h`, `90s` or a number, each also negative. Raises ValueError for other values."""
    text = "" if isinstance(value, bool) else str(value).strip()
    us = times.parse_duration(text.removeprefix("-"))
    if us is None or text.startswith("-+"):
        raise ValueError("not a duration; write 30d, 12h, 90s, or seconds")
    return (-us if text.startswith("-") else us) / SECOND_US


def _redis_url(value: object) -> object:
    """Return the URL. Raises ``ValueError`` if it cannot be parsed, or if its TLS files cannot be loaded."""
    url = str(value)
    scheme = url.partition("://")[0]
    if scheme not in (*_QUEUE_SCHEMES, *_CLUSTER_SCHEMES):
        raise ValueError(
            "not a Redis URL; write redis://host:6379/0, rediss://…, unix:///path, redis+sentinel://…, "
            "rediss+sentinel://…, redis+cluster://… or rediss+cluster://…"
        )
    # Parsed here and not on first use: a service and `gregor config check` then name the setting.
    try:
        RedisUrl.parse(url)
    except OSError as error:
        files = [option for option in urlsplit(url).query.split("&") if option.startswith(_TLS_FILES)]
        reason = error.strerror or str(error)
        raise ValueError(f"a TLS file cannot be loaded: {reason}; check {' and '.join(files)}") from None
    return value


def _queue_url(value: object) -> object:
    """Return the URL of the queue Redis. Raises ``ValueError`` for a cluster."""
    if str(value).partition("://")[0] in _CLUSTER_SCHEMES:
        raise ValueError(
            "queues and streams cannot be in a cluster, because their keys are in several slots; name a single server "
            "(redis://…) or Sentinels (redis+sentinel://…)"
        )
    return _redis_url(value)


def _jwks_place(value: object) -> object:
    """Return an https URL or a path. Over http, an attacker on the network could replace the keys."""
    place = str(value)
    if place.lstrip().startswith("{"):
        raise ValueError("these are keys, not their place; write https://… or the path of a file that contains them")
    if "://" in place and not place.startswith("https://"):
        raise ValueError("keys are fetched over https only; write https://… or the path of a file")
    if place.startswith("https://") and not _is_url(place):
        raise ValueError("not a URL of a key server; write https://idp.example.com/jwks")
    return value


def _is_url(text: str) -> bool:
    """Return whether a URL has a host, a possible port, and no control characters."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    return bool(parts.hostname) and port != 0 and text.isprintable() and len(text) <= _MAX_URL_LENGTH


def _app_url(value: object) -> object:
    """Return the URL. Raises ``ValueError`` if a browser could not open it."""
    if urlsplit(str(value)).scheme not in ("http", "https") or not urlsplit(str(value)).hostname:
        raise ValueError("not the URL of a web app; write https://app.example.com")
    return value


Seconds = Annotated[float, BeforeValidator(parse_duration), Field(ge=0)]
Offset = Annotated[float, BeforeValidator(parse_duration)]
RedisUrlText = Annotated[str, BeforeValidator(_redis_url)]
QueueUrlText = Annotated[str, BeforeValidator(_queue_url)]
JwksPlace = Annotated[str, BeforeValidator(_jwks_place)]
AppUrl = Annotated[str, BeforeValidator(_app_url)]
Count = Annotated[int, Field(ge=1)]
# Stored records have 5, 16 or 24 bits for these numbers: a record above them could not be read back.
ReminderCount = Annotated[int, Field(ge=1, le=31)]
Count16 = Annotated[int, Field(ge=1, le=65_535)]
Count24 = Annotated[int, Field(ge=1, le=16_777_215)]
Rate = Annotated[float, Field(gt=0)]
Port = Annotated[int, Field(ge=1, le=65_535)]

_BOUNDS = Limits()
_CONNECTIONS = ConnectionLimits()


class Settings(BaseModel):
    """All settings with their defaults. The description of a field is its sentence in docs/reference/settings.md."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    # ---- Redis

    redis_url: RedisUrlText = Field(
        "redis://127.0.0.1:6379/0",
        repr=False,
        description="Redis or Valkey of the state: redis://, rediss://, unix://, redis+sentinel://h1,h2/service/db "
        "(rediss+sentinel:// with TLS), or redis+cluster://h1,h2 (rediss+cluster:// with TLS).",
    )
    redis_url_file: Path | None = Field(None, description="File with the value of REDIS_URL.")
    queue_url: QueueUrlText | None = Field(
        None,
        repr=False,
        description="Redis or Valkey of queues and streams. Default: REDIS_URL; required if that is a cluster.",
    )
    queue_url_file: Path | None = Field(None, description="File with the value of QUEUE_URL.")
    namespace: str = Field(
        "gregor",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$",
        description="Prefix of every key and channel in Redis. Deployments on one server need different ones, also in "
        "different databases: these share pub/sub.",
    )
    partitions: PartitionCount = Field(
        DEFAULT_PARTITIONS,
        description="Partitions of the users: 1024, 4096 or 16384 (64 for tests). Fixed at the first start.",
    )
    # ---- device tokens and web origins

    token_secret: SecretStr | None = Field(
        None,
        description="HS256 secret of device tokens; also for tokens without `kid`. Several, one a line: all are valid.",
    )
    token_secret_file: Path | None = Field(None, description="File with the value of TOKEN_SECRET.")
    allow_weak_secrets: bool = Field(
        False, description="Start with secrets that can be guessed (for development). `gregor dev` sets it."
    )
    token_jwks: JwksPlace | None = Field(None, description="Key set (JWKS) of device tokens: an https URL or a file.")
    token_jwks_file: Path | None = Field(None, description="File with the value of TOKEN_JWKS, if its URL is secret.")
    token_aud: str | None = Field(None, description="Required `aud` of device tokens. Not checked by default.")
    token_iss: str | None = Field(None, description="Required `iss` of device tokens. Not checked by default.")
    token_max_age_s: Seconds = Field(30 * 86_400.0, description="Longest remaining time until `exp` of a device token.")
    origins: OriginEntries = Field(
        (),
        description="Allowed web origins, comma-separated. The port may be `*`, as in `http://localhost:*`.",
    )
    # ---- ports

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address that a service listens on; `::` covers all IPv6 and IPv4 addresses.",
    )
    ingest_port: Port = Field(8700, description="Port of ingest.")
    ingest_audience: Literal["all", "devices"] = Field(
        "all", description="Callers of ingest: `all`, or `devices` (only the calls of device tokens)."
    )
    service_key_grace_s: Seconds = Field(
        900.0, description="How long ingest accepts a known service key while Redis cannot be asked for it."
    )
    gateway_port: Port = Field(8701, description="WebSocket port of the gateway.")
    stream_port: Port = Field(8702, description="Port of the gateway for SSE, long poll and posted frames.")
    scheduler_port: Port = Field(8703, description="Port of the scheduler's probes and metrics.")
    delivery_port: Port = Field(8704, description="Port of delivery's probes and metrics.")
    admin_port: Port | None = Field(
        None, description="Separate port of probes and metrics. If it is set, the public ports have neither."
    )
    admin_host: str | None = Field(
        None, min_length=1, description="Address of ADMIN_PORT, which it needs. Default: HOST."
    )
    metrics_public: bool = Field(
        False,
        description="Serve `/metrics` on the public ports to everybody, not only to internal clients without a proxy.",
    )
    api_docs: bool = Field(True, description="Serve `/`, `/docs`, `/openapi.json` and `/asyncapi.json` on ingest.")
    demo: str | None = Field(
        None,
        pattern=r"^wss?://[^,\s]+,https?://[^,\s]+$",
        description="Serve `/demo` on ingest (for development): the URLs of the gateway's two ports, "
        "`ws://host:port,http://host:port`. `gregor dev` sets it.",
    )
    public_url: Annotated[str, url_like("https://gregor.example.com")] | None = Field(
        None, description="Public URL of ingest, the base of links in e-mails."
    )
    # ---- connections before authentication

    trusted_proxies: NetworkEntries = Field(
        (),
        description="Networks of proxies whose `X-Forwarded-For` is trusted, comma-separated: `10.0.0.0/8,fd00::/8`.",
    )
    proxy_protocol: bool = Field(
        False, description="Require PROXY protocol v2 on the WebSocket port, from TRUSTED_PROXIES if that is set."
    )
    proxy_protocol_http: bool = Field(
        False,
        description="Require PROXY protocol v2 on the ports of ingest and of streams, as PROXY_PROTOCOL does.",
    )
    max_connections_process: Count = Field(
        _CONNECTIONS.process, description="Connections of one process, all ports together."
    )
    max_connections_per_address: Count = Field(
        _CONNECTIONS.address,
        description="Connections of one client address (IPv6: /64) to one process.",
    )
    handshake_rate: Rate = Field(
        _CONNECTIONS.handshakes,
        description="New connections a second of one client address to one process. The burst is 5 s of it.",
    )
    anonymous_rate: Rate = Field(
        _CONNECTIONS.anonymous,
        description="Requests a second without a valid token or key, or refused by a rate limit or an overload, from "
        "one client address to one process. The burst is 10 s of it.",
    )
    max_queue_delay_s: Seconds = Field(
        0.25,
        description="Longest wait of a request for the CPU of ingest. If all requests of a second wait longer, ingest "
        "refuses further ones with 503. 0: never refuse.",
    )
    # ---- delivery channels

    webpush_hosts: HostEntries = Field(
        WEBPUSH_SERVICES,
        description="Hosts of Web Push endpoints, comma-separated; `*.` any subdomain, `host:port` also private.",
    )
    webpush_ca_file: Path | None = Field(
        None, description="Trusted certificate authorities for Web Push (for fakes). Default: those of the system."
    )
    apns_key_file: Path | None = Field(
        None, description="Signing key (.p8) for APNs. Requires APNS_KEY_ID and APNS_TEAM_ID."
    )
    apns_cert_file: Path | None = Field(
        None, description="Certificate and private key for APNs in one PEM file, instead of APNS_KEY_FILE."
    )
    apns_key_id: str | None = Field(None, description="Id of the APNs key.")
    apns_team_id: str | None = Field(None, description="Id of the Apple team that owns the APNs key.")
    apns_topic: str | None = Field(None, description="Bundle id of the app, for devices without a topic.")
    apns_url: Annotated[str, url_like("https://apns.example.com")] | None = Field(
        None, description="URL instead of both APNs environments (for fakes and proxies)."
    )
    apns_ca_file: Path | None = Field(
        None, description="Trusted certificate authorities for APNs (for fakes). Default: those of the system."
    )
    fcm_credentials_file: Path | None = Field(None, description="JSON file of the service account for FCM.")
    fcm_url: Annotated[str, url_like("https://fcm.example.com")] | None = Field(
        None, description="URL instead of FCM's host (for fakes and proxies)."
    )
    vapid_key_file: Path | None = Field(
        None,
        description="Private key (P-256) for Web Push: PEM, or its 32 bytes in base64url. Ingest needs only the public "
        "key, as PEM.",
    )
    vapid_subject: str | None = Field(
        None, description="Contact for Web Push services: `mailto:…` or `https://…`. Required with VAPID_KEY_FILE."
    )
    app_url: AppUrl | None = Field(
        None, description="URL of your web app: a click on a Web Push opens it. Safari then needs no service worker."
    )
    smtp_url: SecretStr | None = Field(
        None, description="E-mail relay: `smtp://user:pass@host:port?tls=starttls` (or `implicit`, `none`)."
    )
    smtp_url_file: Path | None = Field(None, description="File with the value of SMTP_URL.")
    smtp_timeout_s: Seconds = Field(
        600.0,
        gt=0,
        description="Timeout of a relay's reply to an e-mail (RFC 5321: 10 minutes). The commands before it get half. "
        "If a worker dies, the e-mails that the relay may have accepted wait for both times.",
    )
    smtp_hostname: str | None = Field(
        None, min_length=1, description="Host name in EHLO. Default: the name of this host."
    )
    mail_from: str | None = Field(
        None, description="Sender of e-mails: `Name <name@example.com>`. Required with SMTP_URL."
    )
    link_secret: SecretStr | None = Field(
        None, description="Secrets of unsubscribe links, comma-separated; the first one signs. Default: TOKEN_SECRET."
    )
    link_secret_file: Path | None = Field(None, description="File with the value of LINK_SECRET, or one secret a line.")
    delivery_console: bool = Field(
        False, description="Print messages for providers without credentials. `gregor dev` sets it."
    )
    delivery_deadline_s: Seconds = Field(
        15.0,
        gt=0,
        description="Timeout of a provider request. If a worker dies, its deliveries wait twice as long, "
        "and 5 to 15 s more.",
    )
    delivery_rates: Rates = Field(
        {},
        description="Rate limits of one process, in messages a second: `apns=500,email=10`. Default: no limit.",
    )
    webhook_loopback: bool = Field(
        False, description="Allow webhooks to this machine, also over http (for development). `gregor dev` sets it."
    )
    categories: str | None = Field(
        None,
        min_length=1,
        description="TOML file of notification types for a deployment without any (see `gregor categories apply`).",
    )
    replicas: Count = Field(
        1, description="Replicas that must have a message with `Gregor-Durability: replicated` before its answer."
    )
    replication_timeout_s: Seconds = Field(
        1.0, gt=0, description="How long such a message waits for the replicas before it is answered with 503."
    )
    retention_s: Seconds = Field(
        _BOUNDS.retention_us / 1e6, gt=0, description="Time for which dismissals and history are kept."
    )
    clock_offset_s: Offset = Field(
        0.0, description="Seconds added to the wall clock of every service and command (for tests)."
    )
    # ---- traces

    trace_url: Annotated[str, url_like("http://127.0.0.1:4318")] | None = Field(
        None,
        description="Collector of traces (OTLP over HTTP): `http://127.0.0.1:4318`. Without it, traces are off.",
    )
    trace_sample: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of new traces that are recorded. The `traceparent` of a backend overrides it.",
    )
    # ---- gateway

    ping_interval_s: Seconds = Field(25.0, gt=0, description="Interval of the gateway's pings to a device, ± 10 %.")
    hello_timeout_s: Seconds = Field(15.0, gt=0, description="Timeout of the first frame, `hello`, on a WebSocket.")
    max_age_s: Seconds = Field(
        6 * 3_600.0,
        gt=0,
        description="Maximum age of a connection, with jitter. The device is then asked to reconnect.",
    )
    compare_interval_s: Seconds = Field(
        30.0, gt=0, description="Interval at which a gateway compares its position of a user with the store."
    )
    queue_bytes: Count = Field(
        1_048_576,
        description="Maximum bytes in the send queue of a connection. Above it, one sync object replaces them.",
    )
    flush_spread_s: Seconds = Field(30.0, description="Time over which the full copies of a flush are spread.")
    pre_drain_seconds: Seconds = Field(
        5.0, description="Time for which a stopping service is not ready but serves, until load balancers notice."
    )
    drain_seconds: Seconds = Field(25.0, description="Maximum time of the drain of a service, after that.")
    # ---- scheduler and delivery queue

    stream_entries: Count = Field(
        1_000_000,
        description="Maximum entries of a delivery stream. Further deliveries wait on the agendas of their users.",
    )
    user_delivery_rate: Rate = Field(
        10.0,
        description="Deliveries a second of one user and channel that a scheduler publishes; bursts of 100 s. "
        "The rest waits on the user's agenda, or in the queue (webhook events), and does not delay other users. "
        "Waiting deliveries that are due together (after quiet hours) are paced in the same way; bursts of 10 s.",
    )
    user_pushes_per_hour: Count = Field(
        1_000,
        gt=0,
        description="Visible pushes an hour, and at once, to all devices of a user. The rest folds into the next push.",
    )
    user_mails_per_hour: Count = Field(
        60, gt=0, description="Mails an hour, and at once, to one user. The rest folds into the next mail."
    )
    lease_s: Seconds = Field(
        15.0,
        gt=0,
        description="Duration of a scheduler's claim of a user. If it dies, the user is due again after this time.",
    )
    collect_rate: Rate = Field(
        200.0, description="Users a second whose old data a scheduler deletes. The rest is spread over minutes."
    )
    audit_at: TimeOfDay | None = Field(
        None,
        description="Time of day in UTC, such as `03:00`, at which a daily audit job starts. Without it, none starts.",
    )
    # ---- limits of messages and users

    max_message_bytes: Count = Field(_BOUNDS.message_bytes, description="Bytes of one message, as JSON.")
    max_body_bytes: Count24 = Field(_BOUNDS.body_bytes, description="Bytes of one item's body, as JSON.")
    max_creations: Count16 = Field(_BOUNDS.creations, description="Creations in one message.")
    max_ids: Count16 = Field(_BOUNDS.ids, description="Ids in one dismissal.")
    max_intervals: Count16 = Field(_BOUNDS.intervals, description="Intervals in one dismissal.")
    max_skip: Count16 = Field(_BOUNDS.skip, description="Ids in the `skip` of one interval.")
    max_reminders: ReminderCount = Field(_BOUNDS.reminders, description="Reminders of one item, at most 31.")
    max_live: Count16 = Field(_BOUNDS.live, description="Live items of a user.")
    max_live_bytes: Count24 = Field(_BOUNDS.live_bytes, description="Bytes of a user's live items, as JSON.")
    max_batch: Count = Field(_BOUNDS.batch, description="Messages in one batch call.")
    max_batch_bytes: Count = Field(_BOUNDS.batch_bytes, description="Bytes of one batch call.")
    max_batch_lines_x_uids: Count = Field(_BOUNDS.batch_fanout, description="Lines of one batch call times their uids.")
    max_device_batch: Count = Field(
        _BOUNDS.device_batch, description="Messages in one batch call of a device token, at most MAX_BATCH."
    )
    max_device_batch_bytes: Count = Field(
        _BOUNDS.device_batch_bytes,
        description="Bytes of one batch call of a device token, at most MAX_BATCH_BYTES.",
    )
    max_devices: Count = Field(_BOUNDS.devices, description="Devices of a user.")
    max_connections: Count = Field(_BOUNDS.connections, description="Connections of a device.")
    max_tickets: Count = Field(
        _BOUNDS.tickets, description="Unused tickets of a device; one more invalidates the oldest."
    )
    max_ticket_bytes: Count = Field(
        _BOUNDS.ticket_bytes,
        description="Bytes of a user's unused tickets; a ticket above them invalidates the oldest.",
    )
    max_tombstones: Count = Field(_BOUNDS.tombstones, description="Remembered dismissals of unknown ids of a user.")
    max_device_dismissals: Count = Field(
        _BOUNDS.device_dismissals,
        description='Dismissals by single devices of a user: of live `"*"` items, and further ones of unknown ids.',
    )
    max_spans: Count16 = Field(_BOUNDS.spans, description="Remembered intervals of a user.")
    max_spans_per_prefix: Count16 = Field(
        _BOUNDS.spans_per_prefix, description="Remembered intervals of a user for one category or prefix."
    )
    max_skipped: Count = Field(
        _BOUNDS.skipped, description="Ids in the `skip` of one message, and of all remembered intervals of a user."
    )
    max_message_ids: Count = Field(_BOUNDS.message_ids, description="Remembered message ids of a user.")
    max_delayed: Count = Field(_BOUNDS.delayed, description="Waiting delayed messages of a user.")
    max_delayed_bytes: Count = Field(
        _BOUNDS.delayed_bytes, description="Bytes of a user's waiting delayed messages, as JSON."
    )
    max_delay_s: Seconds = Field(
        _BOUNDS.delay_us / 1e6,
        description="How far `not_before` of a message may be in the future. Revocations are remembered for 30 days.",
    )
    max_history: Count = Field(_BOUNDS.history, description="Entries of a user's history.")
    history_bodies: Annotated[int, Field(ge=0)] = Field(
        _BOUNDS.history_bodies, description="Newest gone items of a user that keep their body."
    )
    history_body_age_s: Seconds = Field(
        _BOUNDS.history_body_age_us / 1e6, description="Time for which a gone item keeps its body."
    )
    max_delivered: Count = Field(
        _BOUNDS.delivered,
        description="Items of a user whose deliveries are kept; the oldest gone items lose theirs. A webhook event "
        "that waits behind half as many newer items with events becomes a dead letter.",
    )
    external_age_s: Seconds = Field(
        _BOUNDS.external_age_us / 1e6, gt=0, description="Time for which an external message is kept."
    )
    external_count: Count = Field(_BOUNDS.external_count, description="External messages kept for a user.")
    external_bytes: Count = Field(
        _BOUNDS.external_bytes, description="Bytes of the external messages kept for a user, as JSON."
    )
    max_future_s: Seconds = Field(
        _BOUNDS.future_us / 1e6,
        description="How far `created` of an item or `end` of an interval may be in the future.",
    )
    device_rate: Rate = Field(_BOUNDS.device_rate, description="Messages a second of one device token.")
    device_burst: Count = Field(_BOUNDS.device_burst, description="Burst of messages of one device token.")
    user_rate: Rate = Field(_BOUNDS.user_rate, description="Messages a second of all device tokens of one user.")
    user_burst: Count = Field(_BOUNDS.user_burst, description="Burst of messages of all device tokens of one user.")
    device_request_rate: Rate = Field(
        _BOUNDS.device_request_rate,
        description="Other requests of one device token a second; a large read counts as several.",
    )
    device_request_burst: Count = Field(
        _BOUNDS.device_request_burst, description="Burst of these requests; also that of a key with a rate."
    )
    user_request_rate: Rate = Field(
        _BOUNDS.user_request_rate, description="Other requests a second of all device tokens of one user."
    )
    user_request_burst: Count = Field(_BOUNDS.user_request_burst, description="Burst of these requests.")
    resync_rate: Rate = Field(_BOUNDS.resync_rate, description="Calls of `resync` or `history` a second of one device.")
    # ---- logging

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest severity in the log.")
    log_format: Literal["json", "console"] = Field(
        "json", description="Format of the log: `json` for programs, `console` for people."
    )

    @property
    def queue(self) -> str:
        """The URL of the Redis that holds queues and streams."""
        return self.queue_url or self.redis_url

    @property
    def token_secrets(self) -> tuple[str, ...]:
        """The secrets of device tokens. All are valid; the first one signs."""
        return () if self.token_secret is None else secret_lines(self.token_secret.get_secret_value())

    @property
    def link_secrets(self) -> tuple[str, ...]:
        """The secrets of LINK_SECRET."""
        text = "" if self.link_secret is None else self.link_secret.get_secret_value()
        return tuple(stripped for line in secret_lines(text) for each in line.split(",") if (stripped := each.strip()))

    @property
    def admin_address(self) -> str:
        """The address that the admin port listens on."""
        return self.admin_host or self.host

    @property
    def connection_limits(self) -> ConnectionLimits:
        """The limits of connections before authentication."""
        return ConnectionLimits(
            self.max_connections_process, self.max_connections_per_address, self.handshake_rate, self.anonymous_rate
        )

    @cached_property
    def limits(self) -> Limits:
        """The limits in the form of the core. Limits without a setting (`nesting`) keep their default."""
        same_name = {name: getattr(self, name) for name in Limits.__slots__ if name in Settings.model_fields}
        prefixed = {
            name: getattr(self, f"max_{name}") for name in Limits.__slots__ if f"max_{name}" in Settings.model_fields
        }
        return Limits(
            **same_name,
            **prefixed,
            batch_fanout=self.max_batch_lines_x_uids,
            delay_us=_to_us(self.max_delay_s),
            future_us=_to_us(self.max_future_s),
            retention_us=_to_us(self.retention_s),
            history_body_age_us=_to_us(self.history_body_age_s),
            external_age_us=_to_us(self.external_age_s),
        )


def _to_us(seconds: float) -> int:
    return round(seconds * 1_000_000)


def variable_name(field: str) -> str:
    """Return the variable of a field: `retention_s` → `GREGOR_RETENTION`."""
    return PREFIX + field.removesuffix("_s").upper()


VARIABLES: Mapping[str, str] = {variable_name(field): field for field in Settings.model_fields}
"""All variables with their fields."""


def load_settings(environ: Mapping[str, str], toml_path: Path | str | None = None) -> Settings:
    """Return the settings: `environ` overrides the TOML file, which overrides the defaults.

    The file is `toml_path`, or else the value of `GREGOR_CONFIG`. An empty variable counts as unset. Raises
    SettingsError for unknown names (with the nearest known name), invalid values, and an unreadable file.
    """
    problems: list[str] = []
    path = toml_path or environ.get("GREGOR_CONFIG")
    file = read_toml(Path(path), problems) if path else {}
    variables: dict[str, Any] = {}
    for name, value in environ.items():
        if not name.startswith(PREFIX) or name in NOT_SETTINGS or value == "":
            continue
        if name in VARIABLES:
            variables[VARIABLES[name]] = value
        else:
            problems.append(_unknown(name, VARIABLES))
    given = _with_secret_files(file, variables, problems)
    try:
        settings = Settings.model_validate(given)
        problems.extend(_contradictions(settings))
    except ValidationError as error:
        problems.extend(_bad_values(error, given))
    if problems:
        raise SettingsError(problems)
    return settings


def _contradictions(settings: Settings) -> Iterator[str]:
    """Yield the problems of settings that are valid alone, but not together."""
    if settings.queue_url is None and RedisUrl.parse(settings.redis_url).is_cluster:
        yield _QUEUE_MISSING
    if settings.admin_host is not None and settings.admin_port is None:
        yield "GREGOR_ADMIN_HOST needs GREGOR_ADMIN_PORT: without it, the public ports have the probes and metrics"
    if settings.gateway_port == settings.stream_port:
        yield f"GREGOR_GATEWAY_PORT and GREGOR_STREAM_PORT are both {settings.gateway_port}: choose two ports"


def reread_secret(settings: Settings, field: str) -> Settings:
    """Return the settings with the current value of a secret that is in a file.

    Raises `SettingsError` if the file or its value cannot be used.
    """
    path = getattr(settings, f"{field}_file")
    try:
        read = Settings.model_validate({field: read_secret_file(field, path)})
    except ValidationError as error:
        raise SettingsError(list(_bad_values(error, {f"{field}_file": path}))) from None
    except ValueError as error:
        raise SettingsError([f"{variable_name(field)}_FILE: {error}"]) from None
    return settings.model_copy(update={field: getattr(read, field)})


def _with_secret_files(file: dict[str, Any], variables: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Return the merged settings, with the values of secrets that are in files."""
    for field in dict.fromkeys(given_twice(file) + given_twice(variables)):
        name = variable_name(field)
        problems.append(f"{name} and {name}_FILE are both set; remove one of them")
    given = merge_sources(file, variables)
    for field in SECRET_FIELDS:
        path = given.get(f"{field}_file")
        if isinstance(path, str) and field not in given:
            try:
                given[field] = read_secret_file(field, Path(path))
            except ValueError as error:
                problems.append(f"{variable_name(field)}_FILE: {error}")
    return given


def read_toml(path: Path, problems: list[str]) -> dict[str, Any]:
    """Return the fields in a TOML file, not validated. Unknown names and errors are added to `problems`."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    # tomllib raises ValueError for very long numbers, and RecursionError for deep nesting.
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        problems.append(f"GREGOR_CONFIG: {path} cannot be read: {reason}")
        return {}
    known = {variable.removeprefix(PREFIX).lower(): field for variable, field in VARIABLES.items()}
    problems.extend(f"{path}: {_unknown(name, known)}" for name in document if name not in known)
    return {known[name]: value for name, value in document.items() if name in known}


def _unknown(name: str, known: Mapping[str, str]) -> str:
    # With the common prefix, every two names would look similar.
    bare = {other.removeprefix(PREFIX): other for other in known}
    near = difflib.get_close_matches(name.removeprefix(PREFIX), bare, n=1)
    return f"{name} is not a setting; " + (
        f"do you mean {bare[near[0]]}?" if near else "docs/reference/settings.md lists them"
    )


def _bad_values(error: ValidationError, given: Mapping[str, Any]) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        field = str(problem["loc"][0])
        if f"{field}_file" in given:
            # The content is not shown: the setting may name a wrong file, such as that of a private key.
            yield f"{variable_name(field)}_FILE: {given[f'{field}_file']}: {fix_for(problem)}"
            continue
        value = str(given[field])
        value = mask_url(field, value) if has_url(field) else value
        shown = "" if field in SENSITIVE else f"{value!r} is refused: "
        yield f"{variable_name(field)}: {shown}{fix_for(problem)}"


def mask_password(url: str) -> str:
    """Return a URL without its password and its query. Credentials end at the last ``@``: a password may have some.

    A text without ``://`` is hidden whole: it may be the password alone.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "…"
    credentials, at, place = rest.rpartition("@")
    username, colon, _ = credentials.partition(":")
    # Without a colon, the credentials are one name, or a token.
    shown = (f"{username}:…" if colon and re.fullmatch(r"[\w.-]*", username) else "…") if at else ""
    return f"{scheme}{separator}{shown}{at}{place.partition('?')[0]}"


def mask_url(field: str, url: str) -> str:
    """Return the URL of a field without its secrets; see ``mask_password``.

    The path of a key set's URL is hidden, too: it may be all that keeps strangers from the keys.
    """
    masked = mask_password(url)
    scheme, separator, place = masked.partition("://")
    host, slash, _ = place.partition("/")
    return f"{scheme}{separator}{host}/…" if field == "token_jwks" and slash else masked


def has_url(field: str) -> bool:
    """Return whether the value of a field is a URL, which may contain credentials."""
    return field.endswith("_url") or field == "token_jwks"


def setting_rows() -> list[tuple[str, str, str]]:
    """Return (variable, default, sentence) of every setting in order: the table of the docs."""
    return [
        (variable, _as_written(field), Settings.model_fields[field].description or "")
        for variable, field in VARIABLES.items()
    ]


def _as_written(field: str) -> str:
    default = Settings.model_fields[field].default
    if isinstance(default, tuple | dict):
        return ",".join(default)
    if field.endswith("_s") and default >= 3_600:
        unit = "d" if default % 86_400 == 0 else "h"
        return f"{default / times.UNIT_S[unit]:g}{unit}"
    return "" if default is None else f"{default:g}" if isinstance(default, float) else str(default)
