"""Gregor from outside: real processes, a real server, and nothing but the protocol."""
