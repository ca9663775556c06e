"""Weak secrets are reported, and never printed."""

from __future__ import annotations

import base64
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from gregor.auth.weak_secrets import MIN_BYTES, WeakSecret, weak_secrets, weakness_of
from gregor.cli.doctor import Finding, secrets_finding
from gregor.config.settings import Settings

GOOD = "q8Zr1nK4vX0cTq7mWb2yHs5jLd9fGp3e"
SHORT, REPEATED = "hunter2-hunter2", "changeme" * 3 + "ccccaaaa"


def settings(token_secret: str | None = None, link_secret: str | None = None) -> Settings:
    return Settings(
        token_secret=None if token_secret is None else SecretStr(token_secret),
        link_secret=None if link_secret is None else SecretStr(link_secret),
    )


@given(st.binary(max_size=(MIN_BYTES - 1) // 2))
def test_secret_shorter_than_32_bytes_is_weak(raw: bytes) -> None:
    assert weakness_of(raw.hex()) == "is shorter than 32 bytes"


def test_length_is_measured_in_bytes() -> None:
    two_bytes_each = "".join(map(chr, range(0xC0, 0xD0)))

    assert weakness_of(two_bytes_each) is None
    assert weakness_of(two_bytes_each[:-1]) == "is shorter than 32 bytes"


@pytest.mark.parametrize("write", [bytes.hex, lambda raw: base64.b64encode(raw).decode()], ids=["hex", "base64"])
def test_32_random_bytes_are_strong_in_any_encoding(write: object) -> None:
    assert callable(write)
    assert [weakness_of(write(os.urandom(32))) for _ in range(100)] == [None] * 100


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (settings(), []),
        (settings(GOOD, f"{GOOD}, {GOOD}x"), []),
        (settings(SHORT), [WeakSecret("GREGOR_TOKEN_SECRET", "is shorter than 32 bytes")]),
        (settings(REPEATED), [WeakSecret("GREGOR_TOKEN_SECRET", "has fewer than 8 distinct characters")]),
        (settings(GOOD, f"{GOOD},old,older"), [WeakSecret("GREGOR_LINK_SECRET", "is shorter than 32 bytes")]),
    ],
)
def test_each_weak_secret_is_named_with_its_reason(given: Settings, expected: list[WeakSecret]) -> None:
    assert weak_secrets(given) == expected


def test_doctor_warns_without_showing_secrets() -> None:
    found = secrets_finding(settings(SHORT, REPEATED))

    assert (found.check, found.verdict) == ("secrets", "warn")
    assert "GREGOR_TOKEN_SECRET" in found.found and "GREGOR_LINK_SECRET" in found.found
    assert "openssl rand" in found.fix
    assert SHORT not in str(found) and REPEATED not in str(found)
    assert secrets_finding(settings(GOOD)) == Finding("secrets", "ok", "none is weak")
    assert secrets_finding(settings()) == Finding("secrets", "ok", "none is set")


@pytest.mark.parametrize("secret", [SHORT, GOOD])
def test_service_warns_at_start_without_showing_secrets(secret: str) -> None:
    """It finds no Redis here, and ends."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GREGOR_")}
    environ |= {"GREGOR_TOKEN_SECRET": secret, "GREGOR_REDIS_URL": "redis://127.0.0.1:1/0"}

    ended = subprocess.run(
        [sys.executable, "-m", "gregor_gateway"], env=environ, capture_output=True, text=True, timeout=60, check=False
    )

    assert ended.returncode == 1
    assert ("GREGOR_TOKEN_SECRET" in ended.stderr) == (secret == SHORT)
    assert secret not in ended.stderr + ended.stdout
