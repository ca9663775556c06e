"""Requests that a page in a browser makes: of another site, or of a name that leads to us only for a moment.

With DNS rebinding, the name of an attacker's page resolves to an address of our network, and then the page may read the
answers. Such a request has no ``Origin``, and over plain HTTP no ``Sec-Fetch-Site``. Its ``Host`` gives it away: it is
the name of the attacker, which is registered in the public DNS.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

_FOREIGN_SITES: Final = frozenset({"cross-site", "same-site"})
_PRIVATE_SUFFIXES: Final = (".localhost", ".internal", ".local", ".home.arpa")
"""Names that cannot be registered in the public DNS (RFC 6761, RFC 6762, RFC 8375, ICANN on ``.internal``)."""


def is_of_page(headers: Mapping[str, str]) -> bool:
    """Return whether the headers of a request, with names in lower case, are those of a page of a browser.

    A person may open a URL in a browser by an IP address or a private name: then no page is involved.
    """
    if "origin" in headers or headers.get("sec-fetch-site", "").lower() in _FOREIGN_SITES:
        return True
    # Browsers always send both headers, Prometheus and probes none. A page can replace one, but not remove both.
    is_browser = "accept-language" in headers or "mozilla/" in headers.get("user-agent", "").lower()
    return is_browser and not _is_private(headers.get("host", ""))


def _is_private(host: str) -> bool:
    """Return whether a ``Host`` is an IP address, or a name that no attacker can register."""
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "." not in name or name.endswith(_PRIVATE_SUFFIXES)
    return True
