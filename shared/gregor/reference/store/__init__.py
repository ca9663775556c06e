"""The store without a server: the complete twin of the Redis store, and the oracle of the tests."""

from .deliveries import MemoryQueueWriter
from .queue import MemoryQueueReader
from .store import MemoryStore

__all__ = ["MemoryQueueReader", "MemoryQueueWriter", "MemoryStore"]
