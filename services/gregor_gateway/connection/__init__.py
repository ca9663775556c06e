"""One connection: its tasks and its bounded send queue."""
