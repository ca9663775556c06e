"""FCM and e-mail: messages per second that one core sends to providers in another process, answers included."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from gregor.clock import SystemClock
from gregor_delivery.channels.contract import MailMessage
from gregor_delivery.channels.fcm.channel import FcmChannel
from gregor_delivery.channels.smtp.channel import EmailChannel
from gregor_delivery.channels.verdict import Sent, Verdict
from tests.bench.machine import BESIDE, CORES, UNDER_TEST, cpu_s, pin
from tests.bench.report import Result, percentile, print_result
from tests.support.sample_pushes import push

FCM_TARGET, MAIL_TARGET = 1_000, 300
FCM_IN_FLIGHT, MAIL_IN_FLIGHT = 100, 8
TEXT = "You shared files with bob, and he has joined.\n" * 20


@dataclass(frozen=True, slots=True)
class Run:
    """The measurements of one run. `provider_s`: CPU seconds of the fake."""

    count: int
    wall_s: float
    own_s: float
    provider_s: float
    p99_ms: float

    @property
    def a_core(self) -> float:
        """Messages for each CPU second of ours."""
        return self.count / self.own_s


def run(quick: bool = False) -> list[Result]:
    """Return messages for each CPU second by channel, and the tail latencies."""
    counts = (1_000, 500) if quick else (5_000, 2_000)
    rounds = range(1 if quick else 3)
    os.sched_setaffinity(0, UNDER_TEST)
    try:
        found = [measure(*counts) for _ in rounds]
    finally:
        os.sched_setaffinity(0, CORES)
    results = []
    for place, (name, target, in_flight) in enumerate(
        (("FCM", FCM_TARGET, FCM_IN_FLIGHT), ("e-mail (STARTTLS)", MAIL_TARGET, MAIL_IN_FLIGHT))
    ):
        best = min((pair[place] for pair in found), key=lambda each: each.own_s)
        beside = f"{best.count / best.wall_s:,.0f}/s, the fake {best.count / max(best.provider_s, 0.01):,.0f} a core"
        unit = "messages/CPU-s"
        results += [
            print_result(
                Result(f"channel {name}, a core", best.a_core, unit, f"≥ {target:,}", best.a_core >= target, beside)
            ),
            print_result(Result(f"channel {name}, p99, {in_flight} in flight", best.p99_ms, "ms", "-")),
        ]
    return results


def measure(pushes: int, mails: int) -> tuple[Run, Run]:
    """Run each channel once against fresh fakes. Raises RuntimeError if a message was lost or arrived twice."""
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        command = [sys.executable, "-m", "tests.bench.channels_fakes", place]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as fakes:
            assert fakes.stdout is not None
            pin(fakes.pid, BESIDE)
            urls = json.loads(fakes.stdout.readline())
            fcm = uvloop.run(load_fcm(directory, urls["fcm"], pushes, fakes.pid))
            mail = uvloop.run(load_mail(directory, urls["smtp"], mails, fakes.pid))
            told: dict[str, Any] = json.loads(fakes.communicate()[0])
    if (told["fcm"], told["tokens"], told["mails"]) != (pushes + 1, 1, mails + 1):
        raise RuntimeError(f"{pushes} pushes and {mails} mails came as {told}")
    return fcm, mail


async def load_fcm(directory: Path, url: str, count: int, provider: int) -> Run:
    """Send `count` pushes, each to another token."""
    channel = FcmChannel(directory / "account.json", SystemClock(), url)
    await channel.open()

    async def one(n: int) -> Verdict:
        return await channel.send(push(token=f"t{n}", collapse_id=f"{n:032x}"), 30)

    found = await load(one, count, FCM_IN_FLIGHT, provider)
    await channel.close()
    return found


async def load_mail(directory: Path, url: str, count: int, provider: int) -> Run:
    """Send `count` e-mails of text and HTML, each to another address."""
    context = ssl.create_default_context(cafile=directory / "ca.pem")
    sender = "Gregor <no-reply@gregor.example>"
    channel = EmailChannel(url, sender, SystemClock(), connections=MAIL_IN_FLIGHT, context=context)
    await channel.open()

    async def one(n: int) -> Verdict:
        link = f"https://gregor.example/v1/unsubscribe/{n:0200}"
        html = f"<p>{TEXT}</p>"
        mail = MailMessage(f"u{n}@example.com", "en", "Bob joined", TEXT, html, f"<{n}@gregor.example>", link)
        return await channel.send(mail, 30)

    found = await load(one, count, MAIL_IN_FLIGHT, provider)
    await channel.close()
    return found


async def load(one: Callable[[int], Awaitable[Verdict]], count: int, in_flight: int, provider: int) -> Run:
    """Call `one` for 0 to count, `in_flight` at a time, after one warm-up call.

    Raises RuntimeError if a send failed.
    """
    await one(count)
    left, delays_s = iter(range(count)), []

    async def sender() -> None:
        for n in left:
            begun = time.perf_counter()
            verdict = await one(n)
            delays_s.append(time.perf_counter() - begun)
            if not isinstance(verdict, Sent):
                raise RuntimeError(f"not sent: {verdict}")

    provider_before = cpu_s(provider)
    begun, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(sender() for _ in range(in_flight)))
    wall_s, own_s = time.perf_counter() - begun, time.process_time() - cpu
    provider_s = cpu_s(provider) - provider_before
    return Run(count, wall_s, own_s, provider_s, 1_000 * percentile(sorted(delays_s), 0.99))
