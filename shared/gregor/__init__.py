"""Gregor keeps one JSON blob of badge-like UX state per user in sync over all devices of the user and the server.

The packages, from the bottom up. Import contracts in pyproject.toml enforce the direction:

- ``core``: pure decisions, without clock, I/O, asyncio or logging.
- ``redis``, ``store``: the Redis client, and everything that is stored in Redis.
- ``auth``, ``net``, ``rendering``, ``registries``, ``config``, ``metrics``, ``tracing``, ``jobs``, ``web``: what all
  services share.
- ``client``: ``Producer`` for backends and ``Device`` for devices; needs only ``core``.
- ``canary``, ``history``, ``conformance``: checks of a deployment, of recorded histories and of clients.
- ``cli``, ``dev``: the command line, and ``gregor dev`` with its embedded Redis and fake providers.
- ``reference``: the executable specification. It runs only in tests.

The services ``gregor_ingest``, ``gregor_gateway``, ``gregor_scheduler`` and ``gregor_delivery`` import this library,
but never each other.
"""

__version__ = "0.1.0"
