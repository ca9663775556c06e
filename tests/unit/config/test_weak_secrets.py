"""Weak secrets are refused, and never printed."""

from __future__ import annotations

import base64
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import SecretStr

from gregor.cli.doctor.finding import Finding
from gregor.cli.doctor.settings_findings import secrets_finding
from gregor.config.secret_strength import MIN_BYTES, MIN_CHARACTERS, weakness_of
from gregor.config.settings import Settings, load_settings
from gregor.config.weak_secrets import WeakSecret, weak_secrets

GOOD = "q8Zr1nK4vX0cTq7mWb2yHs5jLd9fGp3e"
SHORT, REPEATED = "hunter2-hunter2", "changeme" * 3 + "ccccaaaa"


def settings(token_secret: str | None = None, link_secret: str | None = None) -> Settings:
    return Settings(
        token_secret=None if token_secret is None else SecretStr(token_secret),
        link_secret=None if link_secret is None else SecretStr(link_secret),
    )


@given(st.binary(max_size=(MIN_BYTES - 1) // 2))
def test_secret_shorter_than_32_bytes_is_weak(raw: bytes) -> None:
    assert weakness_of(raw.hex().encode()) == "is shorter than 32 bytes"


def test_length_is_measured_in_bytes() -> None:
    two_bytes_each = "".join(map(chr, range(0xC0, 0xD0)))

    assert weakness_of(two_bytes_each.encode()) is None
    assert weakness_of(two_bytes_each[:-1].encode()) == "is shorter than 32 bytes"


@pytest.mark.parametrize(
    "write",
    [bytes, lambda raw: raw.hex().encode(), base64.b64encode, base64.urlsafe_b64encode, base64.b32encode],
    ids=["bytes", "hex", "base64", "base64url", "base32"],
)
def test_32_random_bytes_are_strong_in_any_encoding(write: object) -> None:
    assert callable(write)
    assert [weakness_of(write(os.urandom(32))) for _ in range(1_000)] == [None] * 1_000


@given(st.binary(min_size=9, max_size=MIN_BYTES - 1), st.integers(0, 200))
def test_repeated_text_is_weak(text: bytes, more: int) -> None:
    """`changeme-changeme-changeme-changeme` is as easy to guess as `changeme`."""
    assume(len(set(text)) >= MIN_CHARACTERS)
    length = max(MIN_BYTES, 2 * len(text)) + more
    repeated = (text * math.ceil(length / len(text)))[:length]

    assert weakness_of(repeated) == "repeats a text that is shorter than 32 bytes"


def test_strong_secret_may_be_repeated() -> None:
    """A text of 32 bytes or more is strong by itself, so a secret that repeats it stays valid."""
    strong = os.urandom(MIN_BYTES).hex().encode()

    assert weakness_of(strong * 2) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (settings(), []),
        (settings(GOOD, f"{GOOD}, {GOOD}x"), []),
        (settings(SHORT), [WeakSecret("GREGOR_TOKEN_SECRET", "is shorter than 32 bytes")]),
        (settings(REPEATED), [WeakSecret("GREGOR_TOKEN_SECRET", "has fewer than 8 distinct characters")]),
        (
            settings("changeme-changeme-changeme-changeme"),
            [WeakSecret("GREGOR_TOKEN_SECRET", "repeats a text that is shorter than 32 bytes")],
        ),
        (settings(f"{GOOD}\nold"), [WeakSecret("GREGOR_TOKEN_SECRET", "is shorter than 32 bytes")]),
        (settings(GOOD, f"{GOOD},old,older"), [WeakSecret("GREGOR_LINK_SECRET", "is shorter than 32 bytes")]),
    ],
)
def test_each_weak_secret_is_named_with_its_reason(given: Settings, expected: list[WeakSecret]) -> None:
    assert weak_secrets(given) == expected


def test_weak_secret_of_a_file_is_named_after_its_setting(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SHORT)
    found = load_settings({"GREGOR_TOKEN_SECRET_FILE": str(tmp_path / "secret")})

    assert [each.variable for each in weak_secrets(found)] == ["GREGOR_TOKEN_SECRET_FILE"]


def test_doctor_reports_weak_secrets_without_showing_them() -> None:
    weak = settings(SHORT, REPEATED)
    found = secrets_finding(weak)

    assert (found.check, found.verdict) == ("secrets", "fail")
    assert "GREGOR_TOKEN_SECRET" in found.found and "GREGOR_LINK_SECRET" in found.found
    assert "openssl rand" in found.fix
    assert SHORT not in str(found) and REPEATED not in str(found)
    assert secrets_finding(weak.model_copy(update={"allow_weak_secrets": True})).verdict == "warn"
    assert secrets_finding(settings(GOOD)) == Finding("secrets", "ok", "none is weak")
    assert secrets_finding(settings()) == Finding("secrets", "ok", "none is set")


@pytest.mark.parametrize(("secret", "allowed"), [(SHORT, ""), (SHORT, "true"), (GOOD, "")])
@pytest.mark.parametrize("service", ["ingest", "gateway", "scheduler", "delivery"])
def test_service_refuses_a_weak_secret(service: str, secret: str, allowed: str) -> None:
    """Without a weak secret the service finds no Redis here, and ends."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GREGOR_")}
    environ |= {"GREGOR_TOKEN_SECRET": secret, "GREGOR_REDIS_URL": "redis://127.0.0.1:1/0"}
    environ["GREGOR_ALLOW_WEAK_SECRETS"] = allowed

    command = [sys.executable, "-m", f"gregor_{service}"]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)

    is_refused = secret == SHORT and not allowed
    assert ended.returncode == 1
    assert ("Redis cannot be used" in ended.stderr) != is_refused
    assert ended.stderr.startswith(f"gregor {service}: GREGOR_TOKEN_SECRET: it is shorter than 32 bytes") == is_refused
    assert ("openssl rand -base64 32" in ended.stderr) == (secret == SHORT)
    assert secret not in ended.stderr + ended.stdout


@pytest.mark.parametrize("service", ["ingest", "gateway", "scheduler", "delivery"])
def test_service_refuses_arguments(service: str) -> None:
    """Otherwise ``--audience devices`` would serve all endpoints."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GREGOR_")}
    environ["GREGOR_REDIS_URL"] = "redis://127.0.0.1:1/0"
    command = [sys.executable, "-m", f"gregor_{service}", "--audience", "canary"]

    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)

    example = "GREGOR_INGEST_AUDIENCE=devices" if service == "ingest" else f"GREGOR_{service.upper()}_PORT"
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"python -m gregor_{service} takes no arguments; ")
    assert example in ended.stderr and "canary" not in ended.stderr
