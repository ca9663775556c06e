"""Owners of push tokens in Redis: one key for each token, in a slot other than that of the registration.

So a registration and the owner of its token are written by separate commands, and requests run concurrently. Each
request writes the registration first, then the owner, and then compares both. The last one to write an owner therefore
leaves a token whose owner has it registered, or a token without an owner. A process that ends in between may leave
an owner without a registration, never two owners. Senders check the owner before each push.

A removal uses the reverse order: it deletes the owner, which names the user, before it removes the token from the
registration. If the removal is interrupted, a repeat finds the token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gregor.redis.commands import RedisCommands, Script
from gregor.redis.connection import Argument
from gregor.store.contract.devices import Registration
from gregor.store.redis import scripts
from gregor.store.redis.errors import result_of
from gregor.store.redis.keys import Keys

from .device_codec import StoredRegistration, decode_registration, encode_registration, push_token, registration_part


class RedisPushTokens:
    """Gives push tokens to devices that have stored a registration, and takes them away."""

    def __init__(self, connection: RedisCommands, keys: Keys, *, allow_oom: bool = True) -> None:
        self._connection = connection
        self._keys = keys
        flags = "allow-oom" if allow_oom else ""
        self._replace_registration = scripts.load("devices/lease_codec", "devices/replace_registration", flags=flags)
        self._release_token = scripts.load("devices/release_push_token", flags=flags)

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part, for ``RedisStore.prepare``."""
        return (self._replace_registration, self._release_token)

    async def owns(self, uid: str, device: str, registration: Registration) -> bool:
        """See ``Devices.owns_push_token``."""
        token = push_token(registration.push)
        return token is not None and await self._is_owner(token, _owner_name(uid, device))

    async def claim(self, uid: str, device: str, registration: Registration) -> None:
        """Make a device the owner of the push token of its registration, which is stored already.

        Another device that has the token loses it.
        """
        token, owner = push_token(registration.push), _owner_name(uid, device)
        if token is None:
            return
        former = await self._call("SET", self._keys.push(token), owner, "GET")
        if former is not None and former != owner:
            former_uid, _, former_device = former.decode().partition("\0")
            stored = await self._stored(former_uid, former_device)
            if stored is not None and push_token(stored.push) == token:
                await self.follow_owner(former_uid, former_device, stored.registration)
        await self.release(uid, device, registration)

    async def release(self, uid: str, device: str, registration: Registration, *, is_released: bool = False) -> None:
        """Give up the push token of a registration, unless the device has it registered.

        ``is_released``: the token was given up already. It is then given back if the device has registered it.
        """
        token, owner = push_token(registration.push), _owner_name(uid, device)
        while token is not None:  # it is repeated only if another request changed the registration in between
            stored = await self._stored(uid, device)
            if stored is not None and push_token(stored.push) == token:
                if not is_released:
                    return
                # Another request registered the token before it was released here.
                await self._call("SET", self._keys.push(token), owner, "NX")
                await self.follow_owner(uid, device, stored.registration)
                is_released = False
            elif stored is not None and stored.push is None and stored.push_since_us == registration.push_since_us > 0:
                # Another device took the token, perhaps before this one took it back.
                await self.follow_owner(uid, device, registration)
                return
            elif await self._delete_owner(token, owner):
                is_released = True
            else:
                return

    async def remove(self, uid: str, device: str, registration: Registration) -> bool:
        """Remove the push token from a registration if it is unchanged. Returns whether it was.

        Repeatable: the registration keeps the token until its owner is deleted.
        """
        token, expected = push_token(registration.push), encode_registration(registration)
        raw = await self._call("HGET", self._keys.of_user(uid).devices, device)
        if token is None or raw is None or encode_registration(decode_registration(raw).registration) != expected:
            return False
        # The owner is deleted first, because only the registration leads to it.
        is_released = await self._delete_owner(token, _owner_name(uid, device))
        without_push = encode_registration(Registration(registration.platform, None, registration.locale))
        # Another release may have written the same registration in another form.
        is_removed = await self._replace(uid, device, registration_part(raw), without_push)
        await self.release(uid, device, registration, is_released=is_released)
        return is_removed

    async def follow_owner(self, uid: str, device: str, registration: Registration) -> None:
        """Remove a push token from its registration if another device owns it, and restore it if it came back.

        The time of the token stays in the registration. It distinguishes a token that was taken from one that was given
        up.
        """
        token, owner = push_token(registration.push) or "", _owner_name(uid, device)
        with_push = encode_registration(registration)
        without_push = encode_registration(replace(registration, push=None))
        while True:  # until the owner does not change any more
            is_owner = await self._is_owner(token, owner)
            change = (without_push, with_push) if is_owner else (with_push, without_push)
            if not await self._replace(uid, device, *change):
                if is_owner:  # the registration has the token, or it was changed or deleted meanwhile
                    await self.release(uid, device, registration)
                return
            if is_owner and await self._is_revoked(uid, device, registration):
                # The revocation has found a registration without the token.
                await self.remove(uid, device, registration)
                return

    async def _is_revoked(self, uid: str, device: str, registration: Registration) -> bool:
        moments = await self._call("HMGET", self._keys.of_user(uid).revoked, device, "")
        return any(registration.is_push_revoked(int(moment)) for moment in moments if moment is not None)

    async def _replace(self, uid: str, device: str, expected: bytes, encoded: bytes) -> bool:
        """Compare-and-set: write a registration if the stored one equals ``expected``. Returns success."""
        keys = (self._keys.of_user(uid).devices,)
        return bool(await self._run(self._replace_registration, keys, (device, expected, encoded)))

    async def _stored(self, uid: str, device: str) -> StoredRegistration | None:
        raw = await self._call("HGET", self._keys.of_user(uid).devices, device)
        return None if raw is None else decode_registration(raw)

    async def _delete_owner(self, token: str, owner: bytes) -> bool:
        """Delete the owner of a token if it is this one. Returns whether it was."""
        return bool(await self._run(self._release_token, (self._keys.push(token),), (owner,)))

    async def _is_owner(self, token: str, owner: bytes) -> bool:
        return bool(await self._call("GET", self._keys.push(token)) == owner)

    async def _call(self, *command: Argument) -> Any:
        return await result_of(self._connection.call(*command))

    async def _run(self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument]) -> Any:
        return await result_of(self._connection.evalsha(script, keys, arguments))


def _owner_name(uid: str, device: str) -> bytes:
    return f"{uid}\0{device}".encode()
