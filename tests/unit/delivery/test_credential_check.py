"""The credential check as a process, as `gregor doctor` runs it, with fake providers."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from gregor.cli.doctor.providers import PROVIDER_FIELDS, provider_finding
from gregor.clock import SystemClock
from gregor.config.settings import VARIABLES, Settings
from gregor.dev.fakes.__main__ import Fakes
from gregor.dev.fakes.http1 import FakeResponse, Http1Server
from gregor.dev.fakes.keys import write_key
from gregor.dev.fakes.tls import CertificateAuthority
from gregor_delivery.channels.registry import channels

KEPT = {name: value for name, value in os.environ.items() if not name.startswith("GREGOR_")}


async def check(**settings: str) -> tuple[int, Any, str]:
    """Return exit status, results by provider, and standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gregor_delivery.credential_check"),
        env=KEPT | settings,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, trouble = await process.communicate()
    found = {each["provider"]: each for each in json.loads(said)} if said else {}
    return process.returncode or 0, found, trouble.decode()


async def with_fakes(directory: Path, **changes: str) -> tuple[int, Any, str]:
    fakes = await Fakes.start(directory)
    try:
        settings = {name: value for name, value in fakes.settings().items() if name in VARIABLES}
        return await check(**settings | changes)
    finally:
        await fakes.close()


async def test_working_providers_are_good(tmp_path: Path) -> None:
    status, found, _ = await with_fakes(tmp_path)

    assert (status, {each["state"] for each in found.values()}) == (0, {"good"})
    assert {"apns", "fcm", "webpush"} <= set(found)


async def test_console_does_not_count_as_credentials() -> None:
    for settings in ({}, {"GREGOR_DELIVERY_CONSOLE": "true"}):
        status, found, _ = await check(**settings)

        assert (status, {each["state"] for each in found.values()}) == (0, {"not set up"})


async def test_wrong_provider_names_its_fix(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_key(other / "key.p8")

    status, found, _ = await with_fakes(
        tmp_path, GREGOR_APNS_KEY_FILE=str(other / "key.p8"), GREGOR_FCM_CREDENTIALS_FILE=str(other / "nothing.json")
    )

    assert status == 0
    states = {name: found[name]["state"] for name in ("apns", "fcm", "webpush")}
    assert states == {"apns": "wrong", "fcm": "wrong", "webpush": "good"}
    assert found["apns"]["fix"].startswith("APNs rejects the credentials: InvalidProviderToken")
    assert "nothing.json cannot be read" in found["fcm"]["fix"]


async def test_unreachable_provider_is_wrong(tmp_path: Path) -> None:
    _, found, _ = await with_fakes(tmp_path, GREGOR_APNS_URL="https://localhost:1", GREGOR_FCM_URL="http://localhost:1")

    assert found["apns"]["fix"].startswith("APNs cannot be reached")
    assert found["fcm"]["fix"].startswith("FCM cannot be reached")


async def test_untrusted_certificate_is_reported(tmp_path: Path) -> None:
    strange = tmp_path / "strange"
    strange.mkdir()
    stranger = Http1Server(lambda _: FakeResponse(200), CertificateAuthority(strange).server_context())
    await stranger.start()

    _, found, _ = await with_fakes(tmp_path, GREGOR_FCM_URL=stranger.url)
    await stranger.close()

    assert found["fcm"]["fix"].startswith("FCM cannot be reached: the certificate is not trusted; check GREGOR_FCM_URL")


async def test_invalid_settings_are_one_line() -> None:
    status, found, trouble = await check(GREGOR_RETENTION="never")

    assert (status, found, trouble.count("\n")) == (1, {}, 1)
    assert "GREGOR_RETENTION" in trouble


def test_doctor_fails_only_for_wrong_providers() -> None:
    states: list[dict[str, str]] = [{"state": "good"}, {"state": "not set up"}, {"state": "wrong", "fix": "fix it"}]
    findings = [provider_finding({"provider": "apns", **state}) for state in states]

    assert [(each.verdict, each.found, each.fix) for each in findings] == [
        ("ok", "good", ""),
        ("ok", "not set up", ""),
        ("fail", "it cannot be used: no push or e-mail leaves", "fix it"),
    ]


async def test_subject_without_a_public_domain_is_wrong(tmp_path: Path) -> None:
    _, found, _ = await with_fakes(tmp_path, GREGOR_VAPID_SUBJECT="mailto:ops@localhost")

    assert found["webpush"]["state"] == "wrong"
    assert "write an address that you read" in found["webpush"]["fix"]


@pytest.mark.parametrize("field", PROVIDER_FIELDS)
def test_setting_of_a_provider_opens_its_channel(field: str) -> None:
    """`gregor doctor` starts this process only if one of these settings is set."""
    settings = Settings.model_validate({field: "smtp://localhost" if field == "smtp_url" else "/nothing"})
    found = channels(settings, SystemClock())
    del found["webhook"]

    assert [name for name, channel in found.items() if channel is not None] == [PROVIDER_FIELDS[field]]
    assert len({PROVIDER_FIELDS[each] for each in PROVIDER_FIELDS}) == len(found)
