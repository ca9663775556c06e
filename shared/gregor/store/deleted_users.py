"""What is remembered of a user who was forgotten, for a while: no name, but what tells that somebody has that name.

The queues are elsewhere than the state, and hold names, for as long as what is there waits. By this they are swept.
"""

from __future__ import annotations

import hashlib
from typing import Final

from gregor.core.limits import DAY_US

DELETED_USERS_KEPT_US: Final = 2 * DAY_US
"""How long: nothing waits in a queue for so long without being looked at."""


def deleted_user_hash(uid: str) -> str:
    """The trace of a user."""
    return hashlib.sha256(uid.encode()).hexdigest()[:32]
