"""One chaos run: real processes under load and failures; the history is recorded and checked."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gregor.history.checker import HistoryReport, check_file
from gregor.history.recorder import HistoryRecorder
from tests.chaos.load import Load
from tests.chaos.nemeses import Attack, Nemesis, plan
from tests.chaos.recording_devices import TRANSPORTS, RecordingDevice
from tests.chaos.topologies import TOPOLOGIES
from tests.support.cluster import ROOT, Cluster
from tests.support.wait import wait_until

CONVERGES_S = 60
"""Time after the load within which every device must equal the server."""


@dataclass(frozen=True)
class ChaosPlan:
    """The seed, the topology and the size of a run. Users have one or two devices, in turn."""

    seed: int
    topology: str = "standalone"
    seconds: float = 60
    users: int = 40
    rate: float = 60

    def attacks(self, kinds: tuple[str, ...]) -> list[Attack]:
        """Return the failures of this seed."""
        return plan(self.seed, self.seconds, kinds)


@dataclass
class ChaosOutcome:
    """The result of a run. ``report``: of the checker. ``logs``: the ends of the services' logs."""

    report: HistoryReport
    outcomes: dict[str, int] = field(default_factory=dict)
    attacks: list[Attack] = field(default_factory=list)
    wall_s: float = 0.0
    not_equal: list[str] = field(default_factory=list)
    """Devices whose copy did not become equal to the server's."""
    logs: str = ""

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.report.findings or self.not_equal)

    def describe(self, chosen: ChaosPlan, file: Path) -> str:
        """Return the seed, the plan, the findings, and the lines of the history that they name."""
        lines = file.read_bytes().splitlines()
        parts = [f"seed {chosen.seed}, {chosen.topology}, {chosen.seconds:.0f} s; the plan:", *map(str, self.attacks)]
        parts += [f"{each} did not become equal to the server" for each in self.not_equal[:5]]
        for found in self.report.findings[:10]:
            parts.append(str(found))
            parts += [f"    {number}: {lines[number - 1][:400].decode()}" for number in found.lines]
        return "\n".join(parts)


def run_chaos(directory: Path, chosen: ChaosPlan, code: Path = ROOT) -> ChaosOutcome:
    """Run one seed in ``directory``; the history is in ``history.jsonl`` there. ``code``: see ``Cluster``."""
    file = directory / "history.jsonl"
    began = time.monotonic()
    with TOPOLOGIES[chosen.topology](directory / "redis") as topology:
        settings = {**topology.settings, "compare_interval": 5, "log_level": "warning", "lease": 3}
        with (
            Cluster(directory / "c", gateways=2, ingests=2, schedulers=2, code=code, **settings) as cluster,
            HistoryRecorder(file) as recorder,
        ):
            attacks = chosen.attacks(topology.kinds)

            def attack(uids: list[str]) -> Awaitable[None]:
                return Nemesis(cluster, topology, recorder, uids).run(attacks)

            replicated = 0.3 if topology.has_replicas else 0.0
            outcome = asyncio.run(run_load(chosen, cluster, recorder, attack, replicated=replicated))
            outcome.attacks = attacks
            outcome.logs = cluster.said()
    outcome.report = check_file(file, jobs=1)
    outcome.wall_s = time.monotonic() - began
    return outcome


async def run_load(
    chosen: ChaosPlan,
    cluster: Cluster,
    recorder: HistoryRecorder,
    disturb: Callable[[list[str]], Awaitable[None]],
    *,
    replicated: float = 0.0,
) -> ChaosOutcome:
    """Record writers, devices and readers while ``disturb`` runs; then wait until every device equals the server.

    ``disturb`` gets the users. ``replicated``: see ``Load``.
    """
    uids = [f"u{n}" for n in range(chosen.users)]
    devices = _devices(uids, cluster, recorder, chosen.seed)
    load = Load(
        uids,
        cluster.ingest_urls,
        cluster.key,
        devices,
        recorder,
        chosen.seed,
        rate=chosen.rate,
        replicated=replicated,
    )
    for device in devices:
        device.start()
    writing = asyncio.create_task(load.run())
    try:
        await disturb(uids)
        await asyncio.sleep(2)
        load.is_over = True
        await writing
        outcome = ChaosOutcome(HistoryReport(), dict(load.outcomes))
        outcome.not_equal = await _converge(load, devices)
        for uid in uids:
            await wait_until(_reading(load, uid), f"the state of {uid}", 30)
            await load.read_history(uid)
        return outcome
    finally:
        writing.cancel()
        await asyncio.gather(*(device.stop() for device in devices), return_exceptions=True)
        with suppress(asyncio.CancelledError):
            await writing
        await load.close()


def _reading(load: Load, uid: str) -> Callable[[], object]:
    return lambda: load.read_state(uid)


def _devices(uids: list[str], cluster: Cluster, recorder: HistoryRecorder, seed: int) -> list[RecordingDevice]:
    devices: list[RecordingDevice] = []
    for number, uid in enumerate(uids):
        for which in range(1 + number % 2):
            kind = TRANSPORTS[len(devices) % len(TRANSPORTS)]
            urls = cluster.gateway_urls if kind.transport == "websocket" else cluster.stream_urls
            name = f"d{which}"
            token = cluster.token(uid, name)
            devices.append(kind(uid, name, lambda token=token: token, urls, recorder, seed * 1000 + len(devices)))
    return devices


async def _converge(load: Load, devices: list[RecordingDevice]) -> list[str]:
    """Wait until every device has the digest of the server. Returns those that do not."""
    left = list(devices)

    async def are_equal() -> bool:
        nonlocal left
        digests = await asyncio.gather(*(load.digest(device.uid, device.name) for device in left))
        left = [device for device, digest in zip(left, digests, strict=True) if device.mirror.digest != digest]
        return not left

    with suppress(AssertionError):  # the caller reports those that are left
        await wait_until(are_equal, "all devices are equal to the server", CONVERGES_S, step_s=0.5)
    return [f"{device.uid}/{device.name} ({device.transport})" for device in left]


def as_json(outcome: ChaosOutcome) -> str:
    """Return the counts of a run, for a log."""
    return json.dumps({"operations": outcome.report.operations, **outcome.outcomes, **outcome.report.counts})
