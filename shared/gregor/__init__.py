"""Gregor keeps one JSON blob of badge-like UX state per user in sync over all the user's devices and the server.

Rooms and who may enter which, held by the import contracts in pyproject.toml:

- `gregor.core` decides. It is pure: no clock, no I/O, no asyncio, no logging; it knows no other room.
- `gregor.store` and `gregor.feed` are the doors to Redis. They use `core`; keys are built in `gregor.store.keys` alone.
- `gregor.client` is what backends (`Producer`) and devices (`Device`) use; it knows `core`, and no server.
- `gregor.embedded` starts a Redis-protocol server of one's own.
- `gregor.clock`, `gregor.settings` and `gregor.telemetry` serve all of the above but `core`.
- `gregor.cli` stands over the library. It starts services as processes of their own and imports none of them.
- `services.*` stand over everything. A service uses relative imports inside itself and never imports another.
"""

__version__ = "0.1.0"
