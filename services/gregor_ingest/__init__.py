"""Ingest: the HTTP API for messages, reads, devices, notifications and administration."""
