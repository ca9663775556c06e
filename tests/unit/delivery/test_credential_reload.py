"""Credentials of providers are replaced while delivery runs, if they can be used."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gregor.config.live_settings import LiveSettings
from gregor.config.settings import load_settings
from gregor.reference.store import MemoryQueueReader
from gregor_delivery.__main__ import use_credentials
from gregor_delivery.channels.registry import CREDENTIALS
from gregor_delivery.worker import Worker
from tests.unit.delivery.harness import DeliveryHarness


class RecordingWorker(Worker):
    """Counts the replaced channels."""

    replaced = 0

    def replace_channel(self, channel: object) -> None:
        self.replaced += 1


def write_key(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


async def test_unusable_credentials_keep_the_channel(harness: DeliveryHarness, tmp_path: Path) -> None:
    path = tmp_path / "key.p8"
    write_key(path)
    environ = {"APNS_KEY_FILE": str(path), "APNS_KEY_ID": "ABC123DEFG", "APNS_TEAM_ID": "DEF123GHIJ"}
    live = LiveSettings(load_settings({f"GREGOR_{name}": value for name, value in environ.items()}))
    worker = RecordingWorker(harness.context, MemoryQueueReader(harness.clock.monotonic))
    live.on_change(CREDENTIALS["apns"], lambda settings: use_credentials(worker, "apns", settings))

    for change, replaced in ((lambda: None, 0), (lambda: path.write_text("no key"), 0), (lambda: write_key(path), 1)):
        change()
        await live.check()
        await live.check()
        assert worker.replaced == replaced
    with pytest.raises(ValueError, match="GREGOR_APNS_KEY_FILE"):
        path.write_text("no key")
        await use_credentials(worker, "apns", live.current)
