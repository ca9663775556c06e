"""The simulation: the Python client always ends equal to the server, and planted faults are found."""

from collections.abc import Mapping
from typing import Any

import pytest

from gregor.client.changes import Item
from gregor.client.messages import Message
from gregor.client.mirror import Mirror
from gregor.client.outbox import Completed, Outbox
from gregor.client.synchronizer import Outcome, Synchronizer
from gregor.conformance.simulation import IDS, Divergence, Run
from tests.unit.conformance.adapters import InProcess

SEEDS = 200
FAULT_SEEDS = 120


@pytest.mark.parametrize("first", range(0, SEEDS, 50))
def test_client_ends_equal_to_the_server(first: int) -> None:
    testee = InProcess()
    for seed in range(first, first + 50):
        Run(testee, seed).run()


def test_same_seed_is_the_same_run() -> None:
    def record(seed: int) -> list[str]:
        log: list[str] = []

        class Recording(InProcess):
            def send(self, do: str, **members: Any) -> None:
                log.append(f"{do} {sorted(members)}")
                super().send(do, **members)

        Run(Recording(), seed).run()
        return log

    assert record(7) == record(7) != record(8)


def test_every_difficult_id_is_used() -> None:
    used: set[str] = set()
    for seed in range(40):
        run = Run(InProcess(), seed)
        used.update(run.next_name() for _ in range(10))

    assert used >= set(IDS)


# Planted faults.


class AppliesOldFrames(Mirror):
    """Live frames at or below the position are applied again."""

    @property
    def seq(self) -> int:
        return -1


class NeverCompares(Synchronizer):
    """The digest is never compared."""

    def receive(self, frame: Mapping[str, Any], now_us: int) -> Outcome:
        return super().receive({name: value for name, value in frame.items() if name != "digest"}, now_us)


class ForgetsOnReconnect(Outbox):
    """Unanswered messages are not sent again."""

    def reconnected(self) -> None:
        pass


class ConfirmsTooEarly(Outbox):
    """Every message leaves the outbox when it is sent."""

    def sendable(self, monotonic_us: int) -> list[dict[str, Any]]:
        frames = super().sendable(monotonic_us)
        self._entries.clear()
        return frames


class RepeatsExternals(Outbox):
    """A message has a new id at each attempt."""

    def _prepare(self, message: Message, copy: Mapping[str, Item]) -> Message:
        return dict(message)

    def sendable(self, monotonic_us: int) -> list[dict[str, Any]]:
        return [{**frame, "id": self._new_id()} for frame in super().sendable(monotonic_us)]


class KeepsRefused(Outbox):
    """An entry never leaves."""

    def reached(self, seq: int) -> list[Completed]:
        return []


class IgnoresFull(Mirror):
    """A full copy is added to the old one."""

    def _replace(self, create: Mapping[str, Item]) -> Any:
        return self._patch(create, {})


FAULTS: list[InProcess] = [
    InProcess(mirror=AppliesOldFrames),
    InProcess(synchronizer=NeverCompares),
    InProcess(outbox=ForgetsOnReconnect),
    InProcess(outbox=ConfirmsTooEarly),
    InProcess(outbox=RepeatsExternals),
    InProcess(outbox=KeepsRefused),
    InProcess(mirror=IgnoresFull),
]


@pytest.mark.parametrize("testee", FAULTS, ids=lambda testee: "-".join(each.__name__ for each in testee._classes))
def test_planted_fault_is_found(testee: InProcess) -> None:
    with pytest.raises(Divergence):
        for seed in range(FAULT_SEEDS):
            Run(testee, seed).run()
