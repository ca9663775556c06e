"""The hash slot of a command, from its key. A command without a key has no slot: it is refused, never guessed."""

from __future__ import annotations

from typing import Final

from gregor.redis.connection import Command, argument_bytes

from .slots import slot_of

# The first key is the second word. All of a command's keys must be in one slot, or the server answers CROSSSLOT.
_READS: Final = frozenset(
    (
        *("EXISTS", "TYPE", "TTL", "PTTL", "GET", "MGET", "STRLEN"),
        *("HGET", "HMGET", "HGETALL", "HVALS", "HKEYS", "HLEN", "HSTRLEN", "HEXISTS", "HSCAN"),
        *("LRANGE", "LLEN", "XRANGE", "XREVRANGE", "XLEN"),
        *("ZRANGE", "ZRANGEBYSCORE", "ZRANGEBYLEX", "ZREVRANGE", "ZREVRANGEBYSCORE", "ZREVRANGEBYLEX"),
        *("ZSCORE", "ZMSCORE", "ZCARD", "ZCOUNT", "ZRANK", "ZSCAN"),
    )
)
_WRITES: Final = frozenset(
    (
        *("SET", "SETEX", "PSETEX", "GETDEL", "GETEX", "INCR", "INCRBY", "DECR"),
        *("DEL", "UNLINK", "EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT", "PERSIST"),
        *("HSET", "HSETNX", "HDEL", "HINCRBY", "SADD", "SREM"),
        *("LPUSH", "RPUSH", "LTRIM", "XADD", "XDEL", "XTRIM"),
        *("ZADD", "ZREM", "ZINCRBY", "ZREMRANGEBYSCORE", "ZREMRANGEBYRANK"),
        *("PUBLISH", "SPUBLISH"),
    )
)
_SCRIPTS: Final = frozenset(("EVALSHA", "EVAL", "EVALSHA_RO", "EVAL_RO", "FCALL", "FCALL_RO"))


def slot_of_command(args: Command) -> int:
    """Return the slot of a command. Raises ``ValueError`` if it has no key, or if its key's position is unknown.

    ``PUBLISH`` goes to the owner of the slot of its channel; the cluster passes the message to all nodes.
    """
    name = _name(args)
    if name in _READS or name in _WRITES:
        if len(args) > 1:
            return slot_of(argument_bytes(args[1]))
    elif name in _SCRIPTS and len(args) > 3 and int(args[2]) > 0:
        return slot_of(argument_bytes(args[3]))
    raise ValueError(
        f"{name or 'an empty command'} names no key that the cluster client knows: send it to one of "
        "RedisCommands.nodes, or add it to gregor.redis.cluster.routing"
    )


def is_read(args: Command) -> bool:
    """Return whether a command changes nothing, so that it can be repeated after a lost connection."""
    return _name(args) in _READS


def slot_of_script(packed: bytes) -> int:
    """Return the slot of a packed EVALSHA command, by its first key. Raises ``ValueError`` if it has no keys."""
    # *<n> EVALSHA <sha> <number of keys> <first key> …: each argument is $<size>\r\n<bytes>\r\n
    start = packed.index(b"\r\n") + 2
    for _ in range(2):
        start = _end_of_argument(packed, start)
    end = _end_of_argument(packed, start)
    if packed[packed.index(b"\r\n", start) + 2 : end - 2] == b"0":
        raise ValueError("a script without keys has no slot: pass it the key that decides the node")
    header = packed.index(b"\r\n", end)
    return slot_of(packed[header + 2 : header + 2 + int(packed[end + 1 : header])])


def _end_of_argument(packed: bytes, start: int) -> int:
    header = packed.index(b"\r\n", start)
    return header + 4 + int(packed[start + 1 : header])


def _name(args: Command) -> str:
    return argument_bytes(args[0]).decode("ascii", "replace").upper() if args else ""
