"""FCM and SMTP fakes for the channel benchmark: they serve until standard input ends, and keep only counters."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import uvloop

from gregor.dev.fakes.fcm import FakeFcm
from gregor.dev.fakes.smtp import FakeSmtp
from gregor.dev.fakes.tls import CertificateAuthority


async def serve(directory: Path) -> None:
    """Print the addresses, then the counters."""
    fcm = FakeFcm(keeps=False)
    relay = FakeSmtp(
        tls=CertificateAuthority(directory).server_context(), user="gregor", password="password", keeps=False
    )
    await fcm.start()
    await relay.start()
    fcm.credentials_file(directory / "account.json")
    print(json.dumps({"fcm": fcm.url, "smtp": relay.url}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    told = {"fcm": fcm.count, "tokens": fcm.token_fetches, "mails": relay.count, "connections": relay.connections}
    print(json.dumps(told))
    await fcm.close()
    await relay.close()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
