"""The address for the next connection: its password and TLS files may change while the process runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from gregor.file_version import FileVersion, file_version

from .url import TLS_FILES, RedisUrl

_log = logging.getLogger(__name__)

UrlSource = str | Callable[[], str]
"""A URL (see ``RedisUrl.parse``), or a function that returns the current one."""


class AddressSource:
    """Parses the URL again when it or one of its TLS files has changed.

    Raises ``ValueError`` if the first URL cannot be used.
    """

    def __init__(self, url: UrlSource) -> None:
        self._url = url
        self._text = self._read()
        self._versions = _tls_versions(self._text)
        self._address = RedisUrl.parse(self._text)

    def current(self) -> RedisUrl:
        """Return the address. If a change cannot be used, log the reason and return the old address."""
        text = self._read()
        versions = _tls_versions(text)
        if (text, versions) != (self._text, self._versions):
            self._text, self._versions = text, versions
            try:
                self._address = RedisUrl.parse(text)
            except ValueError as error:
                _log.error("redis.address_refused reason=%s effect=%s", error, "the old address stays in use")
        return self._address

    def _read(self) -> str:
        return self._url if isinstance(self._url, str) else self._url()


def _tls_versions(url: str) -> tuple[FileVersion, ...]:
    """Return the versions of the files of certificates and keys in a URL."""
    if not url.startswith(("rediss://", "rediss+sentinel://", "rediss+cluster://")):
        return ()
    options = parse_qs(urlsplit(url).query)
    return tuple(file_version(options[name][-1]) for name in TLS_FILES if name in options)
