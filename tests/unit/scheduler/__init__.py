"""The scheduler over a memory store and a manual clock."""
