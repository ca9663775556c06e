"""Chaos: histories of simulated and real clusters under failures, checked by ``gregor.history``."""
