"""Hash slots, and the map from slots to the primaries that own them."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

SLOTS: Final = 16_384
"""Number of hash slots of every cluster; a key belongs to slot ``CRC16(hash tag or key) % SLOTS``."""

NodeAddress: TypeAlias = tuple[str, int]
"""Host and port by which the cluster names a node."""

T = TypeVar("T")

_PRIMARY: Final = (b"master", b"primary")
"""The names of the role of a primary in CLUSTER SHARDS."""


def slot_of(key: bytes) -> int:
    """Return the hash slot of a key, by its hash tag if it has one."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            return _slot_of_tag(key[start + 1 : end])
    return crc_hqx(key, 0) % SLOTS


@lru_cache(maxsize=65_536)
def _slot_of_tag(tag: bytes) -> int:
    # Keys of users have one of 1,024 to 16,384 tags, so the cache holds all of them.
    return crc_hqx(tag, 0) % SLOTS


@lru_cache(maxsize=4_096)
def _same(address: NodeAddress) -> NodeAddress:
    """Return one object for equal addresses: comparing two maps is then a comparison of pointers."""
    return address


class SlotMap:
    """The owner of each slot. A new map is made for each answer of the cluster; ``move`` patches one slot."""

    __slots__ = ("_moved", "_ranges", "owners")

    def __init__(self, ranges: Iterable[tuple[int, int, NodeAddress]] = ()) -> None:
        self._ranges = tuple(ranges)
        self._moved: dict[int, NodeAddress] = {}
        self.owners: list[NodeAddress | None] = self.spread(_same)

    def spread(self, value: Callable[[NodeAddress], T]) -> list[T | None]:
        """Return a list with the value of its owner for each slot; ``None`` for a slot without an owner."""
        values: list[T | None] = [None] * SLOTS
        for first, last, address in self._ranges:
            values[first : last + 1] = [value(address)] * (last + 1 - first)
        for slot, address in self._moved.items():
            values[slot] = value(address)
        return values

    @property
    def primaries(self) -> tuple[NodeAddress, ...]:
        """The addresses that own slots, in the order of their first slot."""
        named = sorted([(first, address) for first, _, address in self._ranges] + list(self._moved.items()))
        return tuple(dict.fromkeys(address for _, address in named))

    @property
    def covered(self) -> int:
        """The number of slots with an owner."""
        return SLOTS - self.owners.count(None)

    @property
    def is_complete(self) -> bool:
        """Whether every slot has an owner."""
        return None not in self.owners

    def move(self, slot: int, address: NodeAddress) -> None:
        """Give one slot to another owner, as a MOVED reply says."""
        self._moved[slot] = self.owners[slot] = _same(address)

    def changed_from(self, other: SlotMap) -> set[int]:
        """Return the slots whose owner differs from that in ``other``."""
        if self.owners == other.owners:
            return set()
        return {slot for slot, new, old in zip(range(SLOTS), self.owners, other.owners, strict=True) if new is not old}


# ---- answers of the cluster


def parse_info(reply: Any) -> tuple[bool, int]:
    """Return whether a node sees a working cluster, and the epoch of its configuration, from ``CLUSTER INFO``.

    Raises ``ValueError`` for another shape.
    """
    if not isinstance(reply, bytes):
        raise ValueError(f"not an answer to CLUSTER INFO: {reply!r}")
    fields = dict(line.partition(b":")[::2] for line in reply.split(b"\r\n"))
    return fields.get(b"cluster_state") == b"ok", int(fields.get(b"cluster_current_epoch", b"0"))


def parse_shards(reply: Any, asked: NodeAddress, *, tls: bool) -> SlotMap:
    """Return the map of a reply to ``CLUSTER SHARDS``. Raises ``ValueError`` for another shape or a map without slots.

    ``asked``: the address that answered; the cluster leaves out a host that it does not know, and means this one.
    """
    try:
        ranges = [
            (first, last, address)
            for shard in map(_pairs, reply)
            if (address := _primary_of(shard[b"nodes"], asked, tls)) is not None
            for first, last in _couples(shard[b"slots"])
        ]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"not an answer to CLUSTER SHARDS: {error!r}") from None
    return _complete(ranges)


def parse_slots(reply: Any, asked: NodeAddress) -> SlotMap:
    """Return the map of a reply to ``CLUSTER SLOTS``, as ``parse_shards``."""
    try:
        ranges = [(first, last, (_host(primary[0], asked), int(primary[1]))) for first, last, primary, *_ in reply]
    except (TypeError, IndexError, ValueError, AttributeError) as error:
        raise ValueError(f"not an answer to CLUSTER SLOTS: {error!r}") from None
    return _complete(ranges)


class MemberNode(NamedTuple):
    """A node of a cluster as the others see it. ``slots``: how many slots its shard has."""

    address: NodeAddress
    is_primary: bool
    slots: int


def parse_members(reply: Any, asked: NodeAddress, *, tls: bool) -> list[MemberNode]:
    """Return all nodes of a reply to ``CLUSTER SHARDS``, as ``parse_shards``. Failed ones are among them.

    A failed node that was reset has no address any more, and is left out.
    """
    try:
        return [
            MemberNode(_address(node, asked, tls), node[b"role"] in _PRIMARY, slots)
            for shard in map(_pairs, reply)
            for slots in [sum(last - first + 1 for first, last in _couples(shard[b"slots"]))]
            for node in map(_pairs, shard[b"nodes"])
            if b"port" in node or b"tls-port" in node
        ]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"not an answer to CLUSTER SHARDS: {error!r}") from None


def _complete(ranges: list[tuple[int, int, NodeAddress]]) -> SlotMap:
    if not ranges:
        raise ValueError("the node knows no slots; it is not part of a cluster, or was reset")
    if not all(type(first) is type(last) is int and 0 <= first <= last < SLOTS for first, last, _ in ranges):
        raise ValueError("the node reports slots outside of 0 to 16383")
    return SlotMap(ranges)


def _primary_of(nodes: Sequence[Any], asked: NodeAddress, tls: bool) -> NodeAddress | None:
    """Return the primary of a shard: the first that is not failed, else the failed one."""
    primaries = [node for node in map(_pairs, nodes) if node[b"role"] in _PRIMARY]
    # During a failover a shard lists two primaries: the failed one, and the promoted replica.
    primaries.sort(key=lambda node: node.get(b"health") not in (b"online", None))
    if not primaries:
        return None
    [primary, *_] = primaries
    return _address(primary, asked, tls)


def _address(node: Mapping[bytes, Any], asked: NodeAddress, tls: bool) -> NodeAddress:
    port = node.get(b"tls-port") if tls else None
    return _host(node.get(b"endpoint") or node.get(b"ip"), asked), int(port or node[b"port"])


def _host(named: bytes | None, asked: NodeAddress) -> str:
    return asked[0] if named in (None, b"", b"?") else str(named, "ascii")


def _pairs(flat: Sequence[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _couples(flat: Sequence[int]) -> Iterable[tuple[int, int]]:
    return zip(flat[::2], flat[1::2], strict=True)
