"""One subscription: its receivers, its confirmation, its interruptions. All pub/sub implementations use it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from gregor.redis.errors import ReplyError

from .contract import Receiver

_log = logging.getLogger(__name__)


class PubSubChannel:
    """One channel: the receivers of its messages, and those that wait for the confirmation of the subscription."""

    __slots__ = ("_new_receivers", "_server_id", "confirmed", "name", "receivers", "sharded", "waiters")

    def __init__(self, name: bytes, sharded: bool) -> None:
        self.name = name
        self.sharded = sharded
        self.confirmed = False
        self._server_id: str | None = None
        # Replaced, never modified: a receiver may unsubscribe while it receives.
        self.receivers: tuple[Receiver, ...] = ()
        self.waiters: list[tuple[Receiver, asyncio.Future[None]]] = []
        # Receivers whose first subscription is not confirmed yet: they have missed nothing. A receiver that subscribes
        # again during an interruption is not one of them.
        self._new_receivers: tuple[Receiver, ...] = ()

    def add(self, receiver: Receiver) -> asyncio.Future[None]:
        """Add a receiver. Returns a future that ends when the subscription is confirmed."""
        if not any(known is receiver for known in self.receivers):
            self.receivers = (*self.receivers, receiver)
            if not self.confirmed:
                self._new_receivers = (*self._new_receivers, receiver)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.confirmed:
            future.set_result(None)
        else:
            self.waiters.append((receiver, future))
        return future

    def remove(self, receiver: Receiver) -> None:
        """Remove a receiver, and cancel the future that waits for its confirmation."""
        self.receivers = tuple(known for known in self.receivers if known is not receiver)
        self._new_receivers = tuple(known for known in self._new_receivers if known is not receiver)
        for known, future in self.waiters:
            if known is receiver:
                future.cancel()
        self.waiters = [(known, future) for known, future in self.waiters if known is not receiver]

    def interrupt(self) -> None:
        """Mark the subscription as interrupted. Receivers that were subscribed get ``lost``."""
        if self.confirmed:
            self.confirmed = False
            for receiver in self.receivers:
                _notify(receiver.lost)

    def confirm(self, server_id: str | None = None) -> None:
        """Mark the subscription as confirmed. Receivers that were subscribed before a reconnect get ``gap``; new
        ones missed nothing.

        ``server_id``: the id of the server process (``RedisConnection.server_id``). Two unknown ones are not the same.
        """
        self.confirmed = True
        same_server = server_id is not None and server_id == self._server_id
        self._server_id = server_id
        waiters, self.waiters = self.waiters, []
        interrupted, self._new_receivers = self.interrupted, ()
        for _, future in waiters:
            if not future.done():
                future.set_result(None)
        for receiver in interrupted:
            _notify(partial(receiver.gap, same_server=same_server))

    @property
    def interrupted(self) -> tuple[Receiver, ...]:
        """The receivers that were subscribed before the current interruption."""
        return tuple(each for each in self.receivers if not any(new is each for new in self._new_receivers))

    def fail(self, error: Exception) -> None:
        """Fail all receivers that wait for a confirmation."""
        for _, future in self.waiters:
            if not future.done():
                future.set_exception(error)
        self.waiters = []

    def deliver(self, payload: bytes) -> None:
        """Pass a message to all receivers. An exception of one does not affect the others."""
        for receiver in self.receivers:
            try:
                receiver.receive(payload)
            except Exception:
                _log.exception("pubsub.receiver_failed")

    def gap(self) -> None:
        """Notify all receivers that messages may have been lost, on the same server."""
        for receiver in self.receivers:
            _notify(partial(receiver.gap, same_server=True))


def route(
    replies: Iterable[Any],
    channels: Mapping[bool, Mapping[bytes, PubSubChannel]],
    on_confirmation: Callable[[bytes, bytes], None],
    on_error: Callable[[ReplyError], None],
) -> None:
    """Deliver the messages among the replies of a server to their channels, and pass on the other replies.

    ``channels``: by whether they are sharded, and by name. ``on_confirmation`` gets the kind of the reply and the name.
    """
    sharded, plain = channels[True], channels[False]
    for reply in replies:
        if isinstance(reply, ReplyError):
            on_error(reply)
            continue
        try:
            kind, name, payload = reply
            hash(name)
        except (TypeError, ValueError):
            # Not a reply of pub/sub: like a confirmation without a request, it closes the connection.
            on_confirmation(b"", b"")
            continue
        if kind == b"smessage":
            channel = sharded.get(name)
        elif kind == b"message":
            channel = plain.get(name)
        else:
            on_confirmation(kind, name)
            continue
        # A channel that was unsubscribed, or moved to another node, may still get messages for a moment.
        if channel is not None:
            channel.deliver(payload)


def _notify(notify: Callable[[], None]) -> None:
    """Call a receiver. An exception of one does not affect the others."""
    try:
        notify()
    except Exception:
        _log.exception("pubsub.gap_receiver_failed")
