"""Allowed web origins: listed ones, any port for ``:*``, and the own host of the service."""

import pytest

from gregor.net.origins import Origins

ORIGINS = Origins(["https://app.example", "http://localhost:*", "https://other.example:8443/"])


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example",
        "https://app.example:443",
        "HTTPS://App.Example",
        "http://localhost",
        "http://localhost:80",
        "http://localhost:65535",
        "https://other.example:8443",
    ],
)
def test_listed_origin_is_allowed(origin: str) -> None:
    assert ORIGINS.allows(origin, "gregor.example")


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "https://app.example.evil",
        "https://evil-app.example",
        "http://app.example",
        "https://app.example:8443",
        "https://other.example",
        "https://localhost:3000",
        "http://localhost.evil:3000",
        "http://evil@localhost:3000",
        "https://app.example/path",
        "https://app.example:port",
        "file://app.example",
        "https://",
    ],
)
def test_other_origin_is_refused(origin: str) -> None:
    assert not ORIGINS.allows(origin, "gregor.example")


@pytest.mark.parametrize(
    ("origin", "host", "is_allowed"),
    [
        ("https://gregor.example", "gregor.example", True),
        ("http://127.0.0.1:8700", "127.0.0.1:8700", True),
        ("http://[::1]:8700", "[::1]:8700", True),
        ("http://127.0.0.1:8701", "127.0.0.1:8700", False),
        ("https://gregor.example", "", False),
        ("null", "null", False),
        (f"https://{'x' * 253}:65535", f"{'x' * 253}:65535", True),
        # Responses repeat an allowed origin. nginx treats a server as failed if a head exceeds 4 KB.
        (f"https://{'x' * 4_000}", "x" * 4_000, False),
    ],
)
def test_own_host_is_allowed(origin: str, host: str, is_allowed: bool) -> None:
    assert Origins([]).allows(origin, host) is is_allowed
