"""The address of a Redis-protocol server, read from a URL. Printed as ``host:port``, never with credentials."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

_DEFAULT_PORTS: Final = {
    "redis": 6379,
    "rediss": 6379,
    "redis+sentinel": 26379,
    "rediss+sentinel": 26379,
    "redis+cluster": 6379,
    "rediss+cluster": 6379,
}
_SENTINEL_OPTIONS: Final = frozenset({"sentinel_username", "sentinel_password"})
TLS_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
"""Options of a URL that name files."""
_TLS_OPTIONS: Final = frozenset({*TLS_FILES, "ssl_cert_reqs", "ssl_check_hostname"})


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A server, the Sentinels that know its address, or nodes of a cluster.

    Attributes:
        hosts: One server, all Sentinels, some nodes of the cluster, or empty if there is a ``path``.
        path: Path of a Unix socket.
        service: Name of the primary in the Sentinels; ``None`` for a plain server.
        is_cluster: Whether ``hosts`` are nodes of a cluster; any of them knows the others.
        username, password: Credentials of the server, or of the primary behind the Sentinels.
        sentinel_username, sentinel_password: Credentials of the Sentinels themselves.
        tls: Context of every connection, to the Sentinels and to the servers; ``None`` without TLS.
    """

    hosts: tuple[tuple[str, int], ...] = ()
    path: str | None = None
    service: str | None = None
    is_cluster: bool = False
    db: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False, compare=False)

    @classmethod
    def parse(cls, url: str) -> RedisUrl:
        """Parse a URL. Raises ``ValueError`` without the URL in its message, because that may contain a password.

        Accepted are ``redis://[user:pass@]host:port/db``, ``rediss://…`` (with the options of redis-py:
        ``ssl_ca_certs`` …), ``unix://[user:pass@]/path?db=0``,
        ``redis+sentinel://[user:pass@]h1:p1,h2:p2/service/db`` and ``rediss+sentinel://…`` (with TLS to the Sentinels
        and the servers). The options ``sentinel_username`` and ``sentinel_password`` log in to the Sentinels. A cluster
        is ``redis+cluster://[user:pass@]h1:p1,h2:p2`` or ``rediss+cluster://…``; it has only database 0.
        """
        try:
            parts = urlsplit(url)
        except ValueError:
            # The message of urlsplit may contain the password: "netloc '…' contains invalid characters".
            raise ValueError("the Redis URL is malformed: check brackets and special characters of its host") from None
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        credentials, _, location = parts.netloc.rpartition("@")
        username, _, password = credentials.partition(":")
        _check_options(parts.scheme, options)
        known = cls(
            username=unquote(username) or None,
            password=unquote(password) or None,
            sentinel_username=options.get("sentinel_username"),
            sentinel_password=options.get("sentinel_password"),
        )
        if parts.scheme == "unix":
            return replace(known, path=unquote(location + parts.path), db=_database(options.get("db", "")))
        if parts.scheme not in _DEFAULT_PORTS:
            raise ValueError(
                "the Redis URL must begin with redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, "
                "redis+cluster:// or rediss+cluster://"
            )
        hosts = tuple(_host(text, _DEFAULT_PORTS[parts.scheme]) for text in location.split(","))
        service, database = _service_and_database(parts)
        is_cluster = parts.scheme.endswith("+cluster")
        if service is None and len(hosts) > 1 and not is_cluster:
            raise ValueError("the Redis URL names several servers; only redis+sentinel:// and redis+cluster:// may")
        db = _database(options.get("db", database))
        if is_cluster and db:
            raise ValueError(f"a Redis Cluster has only database 0: remove database {db} from the Redis URL")
        tls = _tls(options) if parts.scheme.startswith("rediss") else None
        return replace(known, hosts=hosts, service=service, is_cluster=is_cluster, db=db, tls=tls)

    def __str__(self) -> str:
        """Return ``host:port``, the path of the socket, or the hosts of a Sentinel deployment or a cluster."""
        if self.path is not None:
            return self.path
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        if self.is_cluster:
            return f"cluster of {hosts}"
        return hosts if self.service is None else f"{self.service} of sentinels {hosts}"

    def server(self, host: str, port: int) -> RedisUrl:
        """Return the address of a server that the Sentinels or the cluster named, with the servers' credentials."""
        return replace(
            self, hosts=((host, port),), service=None, is_cluster=False, sentinel_username=None, sentinel_password=None
        )

    def sentinels(self) -> tuple[RedisUrl, ...]:
        """Return the address of each Sentinel, with the credentials of the Sentinels."""
        return tuple(
            RedisUrl((host,), username=self.sentinel_username, password=self.sentinel_password, tls=self.tls)
            for host in self.hosts
        )

    async def connect(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Open a connection to the (first) server for the result of ``protocol``. Raises ``OSError``."""
        loop = asyncio.get_running_loop()
        if self.path is not None:
            await loop.create_unix_connection(protocol, self.path)
            return
        host, port = self.hosts[0]
        try:
            await loop.create_connection(protocol, host, port, ssl=self.tls)
        except (OverflowError, ValueError) as error:
            # The address may come from a Sentinel or a cluster. A wrong one must not end a loop that reconnects.
            raise OSError(f"the address is invalid: {error}") from error


def _check_options(scheme: str, options: dict[str, str]) -> None:
    """Raise ``ValueError`` for an option that the scheme does not have, and for a Sentinel user without a password."""
    known = {"db"}
    if scheme.startswith("rediss"):
        known |= _TLS_OPTIONS
    if scheme.endswith("+sentinel"):
        known |= _SENTINEL_OPTIONS
    if unknown := set(options) - known:
        raise ValueError(f"the Redis URL has an unknown option: {min(unknown)}")
    if "sentinel_username" in options and "sentinel_password" not in options:
        raise ValueError("the Redis URL has a sentinel_username without a sentinel_password")


def _service_and_database(parts: SplitResult) -> tuple[str | None, str]:
    """Return service and database from the path of the URL."""
    segments = [unquote(segment) for segment in parts.path.split("/")[1:]]
    if not parts.scheme.endswith("+sentinel"):
        return None, "/".join(segments)
    if not segments or not segments[0]:
        raise ValueError(f"the Redis URL lacks a service name: {parts.scheme}://host:port/<service>/<db>")
    return segments[0], "/".join(segments[1:])


def _host(text: str, default_port: int) -> tuple[str, int]:
    """Parse ``host``, ``host:port`` or ``[v6]:port``. An empty host means localhost."""
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, ""
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError("the Redis URL has no valid port")
    return unquote(host).strip("[]") or "localhost", int(port) if port else default_port


def _database(text: str) -> int:
    if text and not (text.isascii() and text.isdigit()):
        raise ValueError("the Redis URL has no valid database number")
    return int(text or 0)


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    """Return a context that verifies against the system's or the given authorities.

    ``ssl_cert_reqs=none`` verifies nothing.
    """
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    except OSError as error:
        files = ", ".join(sorted(set(options) & set(TLS_FILES)))
        raise ValueError(f"a file of the Redis URL ({files}) cannot be read: {error.strerror or error}") from None
    unverified = options.get("ssl_cert_reqs") == "none"
    if unverified or options.get("ssl_check_hostname", "").lower() in ("false", "no", "0"):
        context.check_hostname = False
    if unverified:
        context.verify_mode = ssl.CERT_NONE
    return context
