"""Our pipelining Redis client: one connection for the commands of a process, one for its subscriptions."""
