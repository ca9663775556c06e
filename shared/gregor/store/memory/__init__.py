"""The store without a server: the complete twin of the Redis store, and the oracle of the tests."""

from .store import MemoryStore

__all__ = ["MemoryStore"]
