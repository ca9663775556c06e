"""The commands of `gregor`, one module for each group."""
