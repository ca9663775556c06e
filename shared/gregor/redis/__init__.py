"""Our pipelining Redis client: one connection for the commands of a process, and one for its subscriptions.

In a cluster, each primary has both connections. ``clients`` is the entry: it returns the client, the pub/sub and the
key tracker for a URL.
"""
