"""Hashes of deleted users' ids, kept for two days so that the delivery queues can be purged without storing the ids.

The queues are on another Redis and contain user ids as long as deliveries wait there.
"""

from __future__ import annotations

import hashlib
from typing import Final

from gregor.core.limits import DAY_US

DELETED_USERS_KEPT_US: Final = 2 * DAY_US
"""Longer than any delivery waits in a queue without being checked."""


def user_id_hash(uid: str) -> str:
    """Return the hash that names a user in logs, in the audit trail, and after the deletion of the user."""
    return hashlib.sha256(uid.encode()).hexdigest()[:32]
