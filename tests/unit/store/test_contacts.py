"""The stored preferences of a user."""

from __future__ import annotations

import msgspec

from gregor.core.notify.contact import MAX_PREFERENCES
from gregor.store.redis.contacts import decode_preferences
from tests.support.python_calls import calls_of


def test_stored_preferences_are_not_parsed_again() -> None:
    """Each read of 1,000 preferences, and each push decision, took 10 ms."""
    stored = msgspec.json.encode({f"c{n}": {"push": True, "email": False} for n in range(MAX_PREFERENCES)})

    assert calls_of(lambda: decode_preferences(stored)) < 20
