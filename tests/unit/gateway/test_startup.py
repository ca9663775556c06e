"""Warnings at the start of a gateway process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SECRET = "c2VjcmV0IG9mIHRoaXJ0eS10d28gYnl0ZXMgb2YgcmFuZG9tbmVzcw"


@pytest.mark.parametrize(("secret", "warns"), [("", True), (SECRET, False)])
def test_missing_token_keys_are_warned_about(secret: str, warns: bool) -> None:
    """The process ends because Redis is not there."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GREGOR_")}
    environ |= {"GREGOR_REDIS_URL": "redis://127.0.0.1:1/0"} | ({"GREGOR_TOKEN_SECRET": secret} if secret else {})

    ended = subprocess.run(
        [sys.executable, "-m", "gregor_gateway"], env=environ, capture_output=True, text=True, timeout=60, check=False
    )

    assert ended.returncode == 1
    assert ("GREGOR_TOKEN_SECRET or GREGOR_TOKEN_JWKS" in ended.stdout + ended.stderr) == warns
