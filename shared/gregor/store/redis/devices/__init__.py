"""Devices, sessions, presence and acknowledgements in Redis."""
