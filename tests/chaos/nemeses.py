"""Fault injection of a chaos run (nemeses): which failure, when, and for how long. The seed decides the plan."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from gregor.history.recorder import HistoryRecorder
from tests.chaos.topologies import Topology
from tests.support.cluster import Cluster, Service


@dataclass(frozen=True)
class Attack:
    """One failure of a plan: ``at_s`` after the start, for ``lasts_s``.

    ``target``: a random number. Modulo the number of services, servers or users, it chooses one of them.
    """

    at_s: float
    kind: str
    target: int
    lasts_s: float

    def __str__(self) -> str:
        """Return one line of the plan."""
        return f"{self.at_s:6.1f} s  {self.kind} (target {self.target}, {self.lasts_s:.1f} s)"


SERVICE_KINDS = ("kill-service", "kill-service", "pause-service", "restart-service")


def plan(seed: int, seconds: float, kinds: tuple[str, ...]) -> list[Attack]:
    """Return the attacks of a run: services in turn with ``kinds`` of the topology."""
    dice = random.Random(f"plan {seed}")
    attacks, at_s = [], 2.0
    while at_s < seconds - 3:
        kind = dice.choice((*SERVICE_KINDS, *kinds, *kinds))
        lasts_s = dice.uniform(0.3, 5.0)
        attacks.append(Attack(round(at_s, 1), kind, dice.randrange(100), round(lasts_s, 1)))
        at_s += lasts_s + dice.uniform(0.5, 3.0)
    return attacks


class Nemesis:
    """Performs a plan on a cluster, and records each failure."""

    def __init__(self, cluster: Cluster, topology: Topology, recorder: HistoryRecorder, uids: Sequence[str]) -> None:
        self._cluster = cluster
        self._topology = topology
        self._recorder = recorder
        self._uids = uids
        self._kinds: dict[str, Callable[[Attack], Awaitable[None]]] = {
            "kill-service": self._kill_service,
            "pause-service": self._pause_service,
            "restart-service": self._restart_service,
        }

    async def run(self, attacks: list[Attack]) -> None:
        """Perform the attacks one after the other."""
        start = asyncio.get_running_loop().time()
        for attack in attacks:
            await asyncio.sleep(max(0.0, start + attack.at_s - asyncio.get_running_loop().time()))
            began = self._recorder.now()
            if attack.kind in self._kinds:
                await self._kinds[attack.kind](attack)
                self._recorder.fault(attack.kind, began, self._service(attack).name)
            else:
                failover = await self._topology.attack(attack.kind, attack.target, attack.lasts_s)
                if failover is None:
                    self._recorder.fault(attack.kind, began, attack.kind, window_s=0)
                else:
                    uids = failover.users(self._uids)
                    self._recorder.fault("failover", began, attack.kind, uids=uids, window_s=failover.window_s)

    def _service(self, attack: Attack) -> Service:
        services = self._cluster.services
        return services[attack.target % len(services)]

    async def _kill_service(self, attack: Attack) -> None:
        service = self._service(attack)
        service.kill()
        await asyncio.sleep(attack.lasts_s / 3)
        service.start()
        await asyncio.to_thread(service.wait_ready)

    async def _pause_service(self, attack: Attack) -> None:
        service = self._service(attack)
        service.signal(signal.SIGSTOP)
        await asyncio.sleep(attack.lasts_s)
        service.signal(signal.SIGCONT)

    async def _restart_service(self, attack: Attack) -> None:
        service = self._service(attack)
        service.signal(signal.SIGTERM)
        await asyncio.to_thread(service.wait)
        service.start()
        await asyncio.to_thread(service.wait_ready)
