"""Settings that are unsafe in production have a warning, without credentials."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gregor.cli.doctor.settings_findings import risk_findings
from gregor.config.risky_settings import risky_settings
from gregor.config.settings import Settings, load_settings

JWKS = {"token_jwks": "https://idp/k"}


@pytest.mark.parametrize(
    ("given", "risky"),
    [
        ({}, []),
        (JWKS, ["GREGOR_TOKEN_JWKS"]),
        (JWKS | {"token_aud": "a"}, ["GREGOR_TOKEN_JWKS"]),
        (JWKS | {"token_aud": "a", "token_iss": "b"}, []),
        ({"apns_url": "http://proxy.example", "fcm_url": "http://127.0.0.1:1"}, ["GREGOR_APNS_URL"]),
        ({"fcm_url": "http://proxy.example", "apns_url": "http://[::1]:2"}, ["GREGOR_FCM_URL"]),
        ({"fcm_url": "https://proxy.example"}, []),
        ({"smtp_url": "smtp://user:pass@relay.example?tls=none"}, ["GREGOR_SMTP_URL"]),
        ({"smtp_url": "smtp://user:pass@localhost?tls=none"}, []),
        ({"smtp_url": "smtp://user:pass@relay.example"}, []),
        ({"smtp_url": "smtp://relay.example?tls=none"}, ["GREGOR_SMTP_URL"]),
        ({"redis_url": "redis://:pass@cache.example"}, ["GREGOR_REDIS_URL"]),
        ({"redis_url": "redis+sentinel://:pass@127.0.0.1,other/gregor"}, ["GREGOR_REDIS_URL"]),
        ({"redis_url": "redis://cache.example", "queue_url": "redis://u:pass@10.0.0.1"}, ["GREGOR_QUEUE_URL"]),
        ({"redis_url": "redis://:pass@127.0.0.2", "queue_url": "rediss://:pass@cache.example"}, []),
        ({"redis_url": "unix://:pass@/run/redis.sock"}, []),
        ({"clock_offset_s": 5, "webhook_loopback": True}, ["GREGOR_CLOCK_OFFSET, GREGOR_WEBHOOK_LOOPBACK"]),
        (
            {"delivery_console": True, "allow_weak_secrets": True},
            ["GREGOR_DELIVERY_CONSOLE, GREGOR_ALLOW_WEAK_SECRETS"],
        ),
    ],
)
def test_doctor_warns_of_settings_unsafe_in_production(given: dict[str, Any], risky: list[str]) -> None:
    settings = Settings.model_validate(given)
    warnings = [each for each in risk_findings(settings, {}) if each.verdict != "ok"]

    assert [each.variable for each in risky_settings(settings, {})] == risky
    assert {each.verdict for each in warnings} == ({"warn"} if risky else set())
    assert all(name in str(warnings) for name in risky)
    assert "pass@" not in str(warnings)


@pytest.mark.parametrize(
    ("mode", "content", "is_risky"),
    [
        (0o644, "token_secret = 'x'", True),
        (0o640, "token_secret = 'x'", False),
        (0o644, "redis_url = 'redis://:pass@127.0.0.1'", True),
        (0o644, "redis_url = 'redis://127.0.0.1'", False),
        (0o644, "token_secret_file = '/run/secrets/token'", False),
    ],
)
def test_readable_file_with_secrets_has_a_warning(mode: int, content: str, is_risky: bool, tmp_path: Path) -> None:
    path = tmp_path / "gregor.toml"
    path.write_text(content)
    path.chmod(mode)

    found = risky_settings(Settings(), {"GREGOR_CONFIG": str(path)})

    assert [each.variable for each in found] == (["GREGOR_CONFIG"] if is_risky else [])


def test_service_logs_risky_settings_at_start() -> None:
    """It finds no Redis here, and ends."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GREGOR_")}
    environ |= {"GREGOR_REDIS_URL": "redis://127.0.0.1:1/0", "GREGOR_QUEUE_URL": "redis://:canary@cache.invalid"}
    load_settings(environ)

    command = [sys.executable, "-m", "gregor_scheduler"]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)

    assert '"setting": "GREGOR_QUEUE_URL"' in ended.stderr and "setting.risky" in ended.stderr
    assert "canary" not in ended.stderr
