"""Pacing of handshakes: a storm of reconnects must not delay the frames of the devices that are connected.

A connection takes 1 ms of CPU until its first sync object. Without a limit, the requests and hellos of 4,000 devices
that arrive together are answered in one iteration of the event loop, and all other devices wait for more than a second
(docs/performance.md, benchmark `storm`). Requests of streams and polls take turns too.
"""

from __future__ import annotations

from typing import Final

from gregor.cooperative import Pacer

STEPS_A_TURN: Final = 8
"""Steps in one iteration of the event loop: with the work that follows from them, it takes about 8 ms."""


class HandshakePacer(Pacer):
    """Runs the steps of handshakes in the order of their arrival, some in each iteration of the event loop."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("handshake", STEPS_A_TURN)
