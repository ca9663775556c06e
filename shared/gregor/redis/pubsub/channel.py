"""One subscription, from the inside: its receivers, its confirmation, its holes. Both feeds are made of these."""

from __future__ import annotations

import asyncio
import logging

from .contract import Receiver

_log = logging.getLogger(__name__)


class PubSubChannel:
    """One subscription: who hears it, and who waits for its confirmation."""

    __slots__ = ("_fresh", "confirmed", "name", "receivers", "sharded", "waiting")

    def __init__(self, name: bytes, sharded: bool) -> None:
        self.name = name
        self.sharded = sharded
        self.confirmed = False
        # Replaced, never changed: a receiver may unsubscribe while it receives.
        self.receivers: tuple[Receiver, ...] = ()
        self.waiting: list[tuple[Receiver, asyncio.Future[None]]] = []
        # Those that never had it: for them there was no hole. One that had it and asks once more is none of them.
        self._fresh: tuple[Receiver, ...] = ()

    def add(self, receiver: Receiver) -> asyncio.Future[None]:
        """The future of its confirmation."""
        if not any(known is receiver for known in self.receivers):
            self.receivers = (*self.receivers, receiver)
            if not self.confirmed:
                self._fresh = (*self._fresh, receiver)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.confirmed:
            future.set_result(None)
        else:
            self.waiting.append((receiver, future))
        return future

    def remove(self, receiver: Receiver) -> None:
        """Forget a receiver; who waits for its confirmation is told that there will be none."""
        self.receivers = tuple(known for known in self.receivers if known is not receiver)
        self._fresh = tuple(known for known in self._fresh if known is not receiver)
        for known, future in self.waiting:
            if known is receiver:
                future.cancel()
        self.waiting = [(known, future) for known, future in self.waiting if known is not receiver]

    def confirm(self) -> None:
        """The subscription stands. Who had it before learns of the hole; who waited for it had none."""
        self.confirmed = True
        waiting, self.waiting = self.waiting, []
        had_it, self._fresh = self.had_it, ()
        for _, future in waiting:
            if not future.done():
                future.set_result(None)
        for receiver in had_it:
            self._tell_gap(receiver)

    @property
    def had_it(self) -> tuple[Receiver, ...]:
        """The receivers for whom the subscription stood before."""
        return tuple(each for each in self.receivers if not any(fresh is each for fresh in self._fresh))

    def fail(self, error: Exception) -> None:
        """There will be no subscription."""
        for _, future in self.waiting:
            if not future.done():
                future.set_exception(error)
        self.waiting = []

    def deliver(self, payload: bytes) -> None:
        """Give a publication to all receivers; one that raises harms no other."""
        for receiver in self.receivers:
            try:
                receiver.receive(payload)
            except Exception:
                _log.exception("a receiver of a channel failed")

    def gap(self) -> None:
        """Tell all receivers of a hole."""
        for receiver in self.receivers:
            self._tell_gap(receiver)

    def _tell_gap(self, receiver: Receiver) -> None:
        try:
            receiver.gap()
        except Exception:
            _log.exception("a receiver failed to hear of a gap")
