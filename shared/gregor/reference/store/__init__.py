"""Executable specification: never runs in production. The store in memory: same results as the Redis store."""

from .deliveries import MemoryQueueWriter
from .queue import MemoryQueueReader
from .store import MemoryStore

__all__ = ["MemoryQueueReader", "MemoryQueueWriter", "MemoryStore"]
