"""Fake providers: they speak the real protocols on loopback, record what they received, and fail on demand.

`gregor dev --fake-providers` starts them, and the tests of the channels use them.
"""
