"""Providers that are none: they speak the protocols of APNs and Web Push, keep what came, and fail as told.

For `gregor dev --fake-providers` and for the tests. Nothing that serves users imports this room.
"""
