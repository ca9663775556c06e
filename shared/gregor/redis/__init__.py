"""Our pipelining Redis client: one connection per process and server."""
