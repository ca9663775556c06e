"""The store without a server: the complete twin of the Redis store, and the oracle of the tests."""

from .deliveries import MemoryDeliveries
from .queue import MemoryQueue
from .store import MemoryStore

__all__ = ["MemoryDeliveries", "MemoryQueue", "MemoryStore"]
