"""Client-side caching: reads whose later changes the server reports (``CLIENT TRACKING``), instead of polls.

A process that reads a key through a ``KeyTracker`` needs no further read until the tracker reports the key as stale.
The reports come on the connection of the reads, in order, so a heartbeat on it proves that none is missing. A lost
connection makes all its keys stale. ``docs/decisions/0018-tracked-reads.md`` has the reasons and the measurements.
"""

from .contract import KeyTracker, SlowReply, StaleListener
from .tracked_read import TrackedRead
from .trackers import ClusterKeyTracker, ServerKeyTracker

__all__ = ["ClusterKeyTracker", "KeyTracker", "ServerKeyTracker", "SlowReply", "StaleListener", "TrackedRead"]
