"""Following the primary that Redis or Valkey Sentinels name (docs/how-to/sentinel.md).

A process has one watcher for each group of Sentinels. It learns of a new primary in three ways: it subscribes to the
events of every Sentinel, it asks all Sentinels every few seconds, and a client makes it ask when a server refuses
writes. As soon as the primary changes, all connections to the old one are closed, because the old one goes on
accepting writes that will be lost.
"""

from .watcher import PrimaryWatcher, shared_watcher

__all__ = ["PrimaryWatcher", "shared_watcher"]
