"""Allowed web origins: the setting ORIGINS and the service's own host (http.md, "Origins")."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

_LONGEST_ORIGIN: Final = 300
"""A host name has at most 253 characters."""
_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class Origins:
    """The allowed origins of a deployment.

    An entry is ``https://app.example``, with a port, or with ``:*`` for any port.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        parts = [entry.rstrip("/").lower() for entry in entries]
        self._hosts = frozenset(entry.removesuffix(":*") for entry in parts if entry.endswith(":*"))
        self._origins = frozenset(_with_port(entry) for entry in parts if not entry.endswith(":*"))

    def allows(self, origin: str, host: str) -> bool:
        """Return whether a request with these ``Origin`` and ``Host`` headers is allowed. ``null`` never is.

        The service's own host is compared without the scheme, because a proxy that terminates TLS does not forward it.
        """
        if self.lists(origin):
            return True
        full = _with_port(origin.lower())
        scheme = origin.partition("://")[0].lower()
        return bool(host and full) and full == _with_port(f"{scheme}://{host.lower()}")

    def lists(self, origin: str) -> bool:
        """Return whether the deployment lists this ``Origin``. The service's own host does not count."""
        full = _with_port(origin.lower())
        return full != "" and (full in self._origins or full.rpartition(":")[0] in self._hosts)


def is_origin_entry(text: str) -> bool:
    """Return whether an entry can match the origin of any page."""
    return bool(_with_port(text.rstrip("/").removesuffix(":*").lower()))


def _with_port(origin: str) -> str:
    """Return ``scheme://host:port``, or an empty string if ``origin`` is not the origin of a page."""
    if len(origin) > _LONGEST_ORIGIN:
        return ""
    try:
        parts = urlsplit(origin)
        port = parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        return ""
    if parts.path or parts.query or parts.fragment or parts.username is not None or not parts.hostname:
        return ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}"
