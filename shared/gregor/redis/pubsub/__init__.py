"""Publish/subscribe: one subscription connection for a process, and routing of messages to receivers in memory.

Channels are sharded (``SSUBSCRIBE``), with one connection to the primary of a standalone or Sentinel deployment.
Delivery is not guaranteed, but losses are detected (semantics.md L12): after every interruption of a subscription,
``gap`` of each receiver is called once the subscription is confirmed again. A heartbeat finds interruptions that no
error reports, such as a network that drops packets: the process publishes a probe to itself, on the path of all
announcements. In a cluster, each primary has its own subscriber and probe, and channels follow their slot.
"""

from .cluster import ClusterPubSub
from .contract import PubSub, PubSubStatus, Receiver
from .memory import MemoryPubSub
from .subscriber import RedisPubSub

__all__ = ["ClusterPubSub", "MemoryPubSub", "PubSub", "PubSubStatus", "Receiver", "RedisPubSub"]
