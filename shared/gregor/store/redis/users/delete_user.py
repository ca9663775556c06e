"""Deleting a user from Redis; see ``contract.Users.delete_user``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from gregor.redis.commands import RedisCommands, Script
from gregor.store.contract.store import Contended
from gregor.store.deleted_users import DELETED_USERS_KEPT_US, user_id_hash
from gregor.store.redis import scripts
from gregor.store.redis.delivery.dead_letter_steps import DeadLetterRemoval
from gregor.store.redis.devices.device_codec import field_pairs
from gregor.store.redis.errors import result_of, results_of
from gregor.store.redis.keys import Keys

_BATCH_SIZE: Final = 500
"""Items whose deliveries are deleted in one step."""

RemovePushes = Callable[[str, Mapping[str, bytes]], Awaitable[None]]
"""Removes the push tokens of registrations of a user: device → JSON."""

_MAX_ATTEMPTS: Final = 8
"""Attempts to delete a user whose devices register push tokens meanwhile."""


class RedisUserDeletion:
    """Deletes everything stored of a user who is already disconnected."""

    def __init__(
        self, connection: RedisCommands, keys: Keys, remove_pushes: RemovePushes, *, allow_oom: bool = True
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._remove_pushes = remove_pushes
        flags = "allow-oom" if allow_oom else ""
        self._dead_letters = DeadLetterRemoval(connection, flags=flags)
        self._delete_user = scripts.load("users/delete_user", flags=flags)
        self._delete_keys = scripts.load("users/delete_keys", flags=flags)
        self._remember = scripts.load("users/remember_deleted_user", flags=flags)

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part, for ``RedisStore.prepare``."""
        return (*self._dead_letters.all_scripts, self._delete_user, self._delete_keys, self._remember)

    async def delete(self, uid: str, now_us: int) -> None:
        """Delete the state first: without it no delivery is added, so the deliveries found afterwards are all.

        If the user is created again in the meantime, its new timers and deliveries stay.
        """
        await self._delete_state(uid)
        keys, call, evalsha = self._keys.of_user(uid), self._connection.call, self._connection.evalsha
        delivered = [item.decode() for item in await result_of(call("ZRANGE", keys.delivered, 0, -1))]
        for start in range(0, len(delivered), _BATCH_SIZE):
            items = delivered[start : start + _BATCH_SIZE]
            ledgers = (self._keys.deliveries(uid, item) for item in items)
            await result_of(evalsha(self._delete_keys, (keys.delivered, *ledgers), items))
        # A delivery worker may write to these keys until its delivery is deleted, so delete them again.
        await result_of(call("DEL", *keys.beside_deliveries))
        await self._dead_letters.remove([keys.dead], prefix=f"{uid}/")
        tickets = await result_of(call("HKEYS", keys.tickets))
        await results_of([call("DEL", self._keys.ticket(name.decode())) for name in tickets])
        await result_of(call("DEL", keys.tickets))
        # A script, not commands: a full server refuses commands that may grow, but deleting a user frees memory.
        arguments = (
            str(now_us),
            user_id_hash(uid),
            str(now_us - DELETED_USERS_KEPT_US),
            str(DELETED_USERS_KEPT_US // 1_000),
        )
        await result_of(evalsha(self._remember, (self._keys.deleted_users,), arguments))

    async def _delete_state(self, uid: str) -> None:
        """Remove all push tokens, then delete state and registrations in one step.

        The owner of a push token is in another slot, and only the registration leads to it.
        """
        keys = self._keys.of_user(uid)
        others = (key for key in keys.every if key != keys.devices)
        names = (keys.due, keys.devices, *others)
        for _ in range(_MAX_ATTEMPTS):
            found = await result_of(self._connection.evalsha(self._delete_user, names, (uid,)))
            if not found:
                return
            await self._remove_pushes(uid, {device.decode(): raw for device, raw in field_pairs(found)})
        raise Contended("devices of this user register concurrently; try again")

    async def deleted_since(self, since_us: int) -> frozenset[str]:
        """See ``Users.deleted_since``."""
        hashes = await result_of(self._connection.call("ZRANGEBYSCORE", self._keys.deleted_users, since_us, "+inf"))
        return frozenset(each.decode() for each in hashes)
