"""`python -m tests.support.flaky_provider_process JOB`: the four flaky providers in a process, and its client.

The job is JSON: `directory`, `browsers` (number of subscriptions), `seed`. The process prints its settings, reads one
line per change of modes (`{"apns": "hanging"}`), and at the end of its input writes all records to `seen.json`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from gregor.auth.vapid import VapidKey
from gregor.dev.fakes.__main__ import KEY_ID, SUBJECT, TEAM_ID, Fakes
from gregor.dev.fakes.apns import FakeApns
from gregor.dev.fakes.http1 import Http1Server
from gregor.dev.fakes.keys import write_key
from gregor.dev.fakes.smtp import FakeSmtp
from gregor.dev.fakes.tls import CertificateAuthority
from gregor.dev.processes import end_with_parent
from tests.support.cluster import ROOT
from tests.support.failure_modes import DOWN, FailureMode
from tests.support.flaky_providers import FlakyApns, FlakyFcm, FlakySmtp, FlakyWebPush, ProviderRecord, cut

CHANNELS = ("apns", "fcm", "webpush", "email")


@dataclass
class FlakyProviders:
    """Client of the process. `settings`: for `Cluster`. `browsers`: Web Push subscriptions."""

    process: subprocess.Popen[str]
    directory: Path
    settings: dict[str, str]
    browsers: list[dict[str, Any]]
    modes: dict[str, str] = field(default_factory=dict)

    def set_modes(self, **modes: str) -> None:
        """Change the modes, by channel."""
        self.modes |= modes
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(modes) + "\n")
        self.process.stdin.flush()

    def seen(self) -> list[ProviderRecord]:
        """Stop the providers and return their records, in order for each."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)
        lines = json.loads((self.directory / "seen.json").read_text())
        return [
            ProviderRecord(**{**line, "items": tuple(line["items"]), "withdraw": tuple(line["withdraw"])})
            for line in lines
        ]


@contextmanager
def running(directory: Path, browsers: int = 0, seed: int = 0) -> Iterator[FlakyProviders]:
    """Run the providers, all healthy, until the end of the block."""
    directory.mkdir(parents=True, exist_ok=True)
    job = json.dumps({"directory": str(directory), "browsers": browsers, "seed": seed})
    command = [sys.executable, "-m", "tests.support.flaky_provider_process", job]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, preexec_fn=end_with_parent()
    )
    with process:
        assert process.stdin is not None and process.stdout is not None
        said = json.loads(process.stdout.readline())
        settings = {name.removeprefix("GREGOR_"): value for name, value in said["settings"].items()}
        settings["PUBLIC_URL"] = "https://gregor.example"
        try:
            yield FlakyProviders(process, directory, settings, said["browsers"])
        finally:
            if not process.stdin.closed:
                process.stdin.close()


class FlakyProviderHost:
    """The four providers, within their process."""

    def __init__(self, directory: Path, seed: int) -> None:
        authority = CertificateAuthority(directory)
        self.modes = {channel: FailureMode(channel, seed) for channel in CHANNELS}
        keys = {KEY_ID: write_key(directory / "apns.p8")}
        self.apns = FlakyApns(authority, self.modes["apns"], keys=keys, team_id=TEAM_ID)
        self.fcm = FlakyFcm(self.modes["fcm"])
        self.webpush = FlakyWebPush(authority, self.modes["webpush"])
        self.smtp = FlakySmtp(self.modes["email"])
        self._ports: dict[str, int] = {}
        self._cuts: list[ProviderRecord] = []

    async def start(self) -> None:
        for each in (self.apns, self.fcm, self.webpush, self.smtp):
            await each.start()
        assert self.webpush._server is not None and self.apns._server is not None
        self._ports = {
            "apns": self.apns._server.sockets[0].getsockname()[1],
            "fcm": self.fcm.server.port,
            "webpush": self.webpush._server.port,
            "email": self.smtp.port,
        }

    async def set_modes(self, modes: dict[str, str]) -> None:
        for channel, word in modes.items():
            was, self.modes[channel].word = self.modes[channel].word, word
            server = self._server(channel)
            if word == DOWN != was:
                self._cuts.append(cut(channel))
                await server.close()
            elif was == DOWN != word:
                await server.start(self._ports[channel])

    def _server(self, channel: str) -> FakeApns | Http1Server | FakeSmtp:
        if channel == "webpush":
            assert self.webpush._server is not None
            return self.webpush._server
        return self.apns if channel == "apns" else self.fcm.server if channel == "fcm" else self.smtp

    def seen(self) -> list[ProviderRecord]:
        self.smtp.collect()
        return [*self._cuts, *self.apns.seen, *self.fcm.seen, *self.webpush.seen, *self.smtp.seen]


async def serve(directory: Path, browsers: int, seed: int) -> None:
    """Run until standard input is closed."""
    host = FlakyProviderHost(directory, seed)
    await host.start()
    host.fcm.credentials_file(directory / "fcm.json")
    write_key(directory / "vapid.pem")
    public = VapidKey.read(directory / "vapid.pem", SUBJECT).public_key
    subscriptions = [host.webpush.subscribe(f"u{n}", public) for n in range(browsers)]
    settings = Fakes(directory, host.apns, host.fcm, host.webpush, host.smtp).settings()
    print(json.dumps({"settings": settings, "browsers": subscriptions}), flush=True)
    collecting = asyncio.create_task(_keep_collecting(host.smtp))
    while line := await asyncio.to_thread(sys.stdin.readline):
        await host.set_modes(json.loads(line))
    collecting.cancel()
    (directory / "seen.json").write_text(json.dumps([asdict(each) for each in host.seen()]))


async def _keep_collecting(relay: FlakySmtp) -> None:
    while True:
        relay.collect()
        await asyncio.sleep(0.02)


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    uvloop.run(serve(Path(job["directory"]), job["browsers"], job["seed"]))
