"""The provider of the push benchmark: an APNs fake that serves until standard input ends."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import uvloop

from gregor.dev.fakes.apns import FakeApns
from gregor.dev.fakes.keys import write_key
from gregor.dev.fakes.tls import CertificateAuthority


async def serve(directory: Path) -> None:
    """Print the address; keep only the number of requests."""
    public = write_key(directory / "key.p8")
    fake = FakeApns(CertificateAuthority(directory), keys={"KEY1": public}, team_id="TEAM", most_streams=1_000)
    fake.keeps_payloads = False
    await fake.start()
    print(json.dumps({"url": fake.url}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    copies = len({each.headers["apns-id"] for each in fake.received})
    print(json.dumps({"received": len(fake.received), "distinct": copies, "tokens": len(fake.provider_tokens)}))
    await fake.close()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
