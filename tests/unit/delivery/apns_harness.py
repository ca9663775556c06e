"""A channel to APNs and the fake server that it sends to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gregor.clock import Clock
from gregor.dev.fakes.apns import FakeApns
from gregor.dev.fakes.apns_actions import ApnsAction
from gregor.dev.fakes.keys import write_key
from gregor.dev.fakes.tls import CertificateAuthority
from gregor_delivery.channels.apns.channel import ApnsChannel, ApnsConfig
from gregor_delivery.channels.apns.connection import ApnsConnection
from gregor_delivery.channels.contract import PushMessage
from gregor_delivery.channels.verdict import Verdict
from tests.support.sample_pushes import push

TOPIC = "com.example.app"


@dataclass
class ApnsHarness:
    """One channel and its provider."""

    channel: ApnsChannel
    fake: FakeApns
    config: ApnsConfig

    async def send(self, message: PushMessage | None = None, deadline_s: float = 5.0) -> Verdict:
        return await self.channel.send(message or push(), deadline_s)

    async def send_with_action(
        self, act: ApnsAction, message: PushMessage | None = None, deadline_s: float = 5.0
    ) -> Verdict:
        """Send a push that the provider answers with `act`, and return the verdict."""
        message = message or push()
        self.fake.script(str(message.token), act)
        return await self.send(message, deadline_s)

    @property
    def connections(self) -> tuple[ApnsConnection, ...]:
        return self.channel.connections(sandbox=False)

    def copies(self, token: str) -> int:
        """Return the number of requests for a device token."""
        return sum(each.token == token for each in self.fake.received)


@asynccontextmanager
async def apns_harness(
    directory: Path, clock: Clock | None = None, config: dict[str, Any] | None = None, **fake: Any
) -> AsyncIterator[ApnsHarness]:
    """Run a fake APNs that knows our key, and open a channel to it; `fake` and `config` override options."""
    public = write_key(directory / "key.p8")
    server = FakeApns(CertificateAuthority(directory), keys={"KEY1": public}, team_id="TEAM", **fake)
    await server.start()
    settings = ApnsConfig(
        key_file=directory / "key.p8",
        key_id="KEY1",
        team_id="TEAM",
        topic=TOPIC,
        url=server.url,
        ca_file=server.authority.ca_file,
    )
    settings = replace(settings, **(config or {}))
    channel = ApnsChannel(settings, clock)
    await channel.open()
    try:
        yield ApnsHarness(channel, server, settings)
    finally:
        await server.close()
        await channel.close()
