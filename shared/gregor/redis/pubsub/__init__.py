"""What is published, brought to who asked for it: one subscription connection a process, routed in memory.

Sharded channels (``SSUBSCRIBE``), one connection a primary: here the one primary of a standalone or Sentinel set-up.
The feed promises no delivery. It promises to say where it may have failed (semantics.md L12): after every hole in a
subscription each receiver's ``gap`` is called, once the subscription stands again. A hole that nobody reports (a
network that swallows) is found by a probe: a message to itself, on the way that all announcements take.
"""

from .contract import PubSub, PubSubStatus, Receiver
from .memory import MemoryPubSub
from .subscriber import RedisPubSub

__all__ = ["MemoryPubSub", "PubSub", "PubSubStatus", "Receiver", "RedisPubSub"]
