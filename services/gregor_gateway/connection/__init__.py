"""One connection: its session's effects, tasks, send queue, and the interface to its transport."""
