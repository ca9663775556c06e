"""`python -m tests.support.moody_house JOB`: the four providers with their moods, in a process; and who leads it.

The job is JSON: `directory`, `browsers` (how many subscriptions), `seed`. It says where the providers are, reads a line
of moods at a time (`{"apns": "hanging"}`), and at the end of its input writes all that came to `seen.json`.
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
from tests.support.moods import DOWN, Mood
from tests.support.moody import MoodyApns, MoodyFcm, MoodySmtp, MoodyWebPush, Seen, cut

CHANNELS = ("apns", "fcm", "webpush", "email")


@dataclass
class MoodyProviders:
    """Those of another process. `settings`: as `Cluster` takes them; `browsers`: push tokens of Web Push."""

    process: subprocess.Popen[str]
    directory: Path
    settings: dict[str, str]
    browsers: list[dict[str, Any]]
    moods: dict[str, str] = field(default_factory=dict)

    def be(self, **moods: str) -> None:
        """Change moods, by channel."""
        self.moods |= moods
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(moods) + "\n")
        self.process.stdin.flush()

    def seen(self) -> list[Seen]:
        """All that came, in order for each provider. They end with it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)
        lines = json.loads((self.directory / "seen.json").read_text())
        return [Seen(**{**line, "items": tuple(line["items"]), "withdraw": tuple(line["withdraw"])}) for line in lines]


@contextmanager
def running(directory: Path, browsers: int = 0, seed: int = 0) -> Iterator[MoodyProviders]:
    """The providers, all well, until the end of the block."""
    directory.mkdir(parents=True, exist_ok=True)
    job = json.dumps({"directory": str(directory), "browsers": browsers, "seed": seed})
    command = [sys.executable, "-m", "tests.support.moody_house", job]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, preexec_fn=end_with_parent()
    )
    with process:
        assert process.stdin is not None and process.stdout is not None
        said = json.loads(process.stdout.readline())
        settings = {name.removeprefix("GREGOR_"): value for name, value in said["settings"].items()}
        settings["PUBLIC_URL"] = "https://gregor.example"
        try:
            yield MoodyProviders(process, directory, settings, said["browsers"])
        finally:
            if not process.stdin.closed:
                process.stdin.close()


class House:
    """The four of them, in their own process."""

    def __init__(self, directory: Path, seed: int) -> None:
        authority = CertificateAuthority(directory)
        self.moods = {channel: Mood(channel, seed) for channel in CHANNELS}
        keys = {KEY_ID: write_key(directory / "apns.p8")}
        self.apns = MoodyApns(authority, self.moods["apns"], keys=keys, team_id=TEAM_ID)
        self.fcm = MoodyFcm(self.moods["fcm"])
        self.webpush = MoodyWebPush(authority, self.moods["webpush"])
        self.smtp = MoodySmtp(self.moods["email"])
        self._ports: dict[str, int] = {}
        self._cuts: list[Seen] = []

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

    async def be(self, moods: dict[str, str]) -> None:
        for channel, word in moods.items():
            was, self.moods[channel].word = self.moods[channel].word, word
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

    def seen(self) -> list[Seen]:
        self.smtp.look()
        return [*self._cuts, *self.apns.seen, *self.fcm.seen, *self.webpush.seen, *self.smtp.seen]


async def serve(directory: Path, browsers: int, seed: int) -> None:
    """Until standard input ends."""
    house = House(directory, seed)
    await house.start()
    house.fcm.credentials_file(directory / "fcm.json")
    write_key(directory / "vapid.pem")
    public = VapidKey.read(directory / "vapid.pem", SUBJECT).public_key
    subscriptions = [house.webpush.subscribe(f"u{n}", public) for n in range(browsers)]
    settings = Fakes(directory, house.apns, house.fcm, house.webpush, house.smtp).settings()
    print(json.dumps({"settings": settings, "browsers": subscriptions}), flush=True)
    looking = asyncio.create_task(_keep_looking(house.smtp))
    while line := await asyncio.to_thread(sys.stdin.readline):
        await house.be(json.loads(line))
    looking.cancel()
    (directory / "seen.json").write_text(json.dumps([asdict(each) for each in house.seen()]))


async def _keep_looking(relay: MoodySmtp) -> None:
    while True:
        relay.look()
        await asyncio.sleep(0.02)


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    uvloop.run(serve(Path(job["directory"]), job["browsers"], job["seed"]))
