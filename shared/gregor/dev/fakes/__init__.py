"""Providers to play with: they speak the real protocols on loopback, keep what they got, and fail as they are told.

They ship with the product: `gregor dev --fake-providers` starts them, and the tests hold the channels to them.
"""
