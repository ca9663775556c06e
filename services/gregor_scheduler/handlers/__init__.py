"""Handlers of due work. Each is safe to repeat."""
