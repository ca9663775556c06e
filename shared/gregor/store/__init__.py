"""The store: its contract, and its implementation in Redis."""
