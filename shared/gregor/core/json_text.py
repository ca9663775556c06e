"""JSON text in and out: strict on the way in, canonical (RFC 8785) on the way out.

What is refused here (repeated keys, lone surrogates, deep nesting, numbers that are no I-JSON) is refused because two
readers could read it differently, and then no digest would agree (semantics.md, "Times" and L10).
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from math import isfinite
from typing import Any, Final

import msgspec
import rfc8785

from .errors import FieldError, Problem
from .limits import Limits

MAX_INTEGER: Final = (1 << 53) - 1
"""The largest integer that every reader holds exactly (RFC 7493)."""

MIN_INTEGER: Final = -MAX_INTEGER
"""The smallest such integer."""

OUT_OF_RANGE_DETAIL: Final = (
    "Integers must lie within ±(2^53−1), and numbers must be finite as doubles; send others as strings."
)
"""What is said to who sent a number that may not be there."""

_SPACED_KEY_END: Final = re.compile(rb'"[ \t\n\r]+:')
# Only a supplementary character (4 bytes in UTF-8) sorts differently by UTF-16 unit and by code point.
_SUPPLEMENTARY: Final = re.compile(rb"[\xf0-\xff]")
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")

_TRUNCATED: Final = "Input data was truncated"

_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder(order="sorted").encode


class OutOfRange:
    """Stands in a value for a number that may not be there."""


OUT_OF_RANGE: Final = OutOfRange()


def decode_json(raw: bytes, limits: Limits, *, has_stand_ins: bool = False) -> Any:
    """The value of a JSON text, or a ``Problem``: ``malformed_json`` or ``number_out_of_range`` (with its pointer).

    Nesting is counted in open brackets: ``limits.nesting`` of them may be open at once. ``has_stand_ins``: a number
    that is out of range is no refusal, but ``OUT_OF_RANGE`` in the value, for a reader that refuses it where it stands.
    """
    try:
        value = _decode(raw)
    except msgspec.ValidationError:  # a number that is beyond what msgspec reads
        return _decode_exactly(raw, limits, has_stand_ins)
    except msgspec.DecodeError as error:
        if str(error) == _TRUNCATED and raw.strip():  # it says so of half a surrogate pair, too
            return _decode_exactly(raw, limits, has_stand_ins)
        raise Problem("malformed_json", _in_words(raw, str(error))) from None
    except UnicodeDecodeError as error:
        raise Problem("malformed_json", f"The text is not valid UTF-8: {error.reason}.") from None
    except RecursionError:
        raise _too_deep(limits) from None
    return value if _is_proof(raw, _look(value, limits)[0]) else _decode_exactly(raw, limits, has_stand_ins)


def canonical_fast(raw: bytes, value: Any, limits: Limits, *, beside: int, brackets: int) -> bytes | None:
    """The canonical JSON of a value that was read out of ``raw``; ``None`` where its text needs the exact look.

    ``beside``: the keys of the text that are not in it. ``brackets``: how many are open around it. Raises
    ``malformed_json`` where it is nested too deeply.
    """
    keys, has_doubles = _look(value, limits, brackets)
    if keys < 0 or not _is_proof(raw, beside + keys):
        return None
    return _written(value, has_doubles)


def canonical_json(value: Any) -> bytes:
    """The canonical JSON (RFC 8785) of a decoded value. Raises ``ValueError`` for a lone surrogate, NaN or infinity."""
    return _written(value, _has_doubles(value))


def _written(value: Any, has_doubles: bool) -> bytes:
    text = _encode(value)
    if has_doubles or not (text.isascii() or _SUPPLEMENTARY.search(text) is None):
        return rfc8785.dumps(_as_doubles(value))
    return text


def pointer_to(path: Iterable[str | int]) -> str:
    """The JSON pointer (RFC 6901) of a path of keys and indexes; the empty path is the document itself."""
    return "".join(f"/{escape_pointer(str(step))}" for step in path)


def escape_pointer(key: str) -> str:
    """One key as a token of a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1") if "~" in key or "/" in key else key


def _look(root: Any, limits: Limits, brackets: int = 0) -> tuple[int, bool]:
    """How many keys all objects hold together, and whether a number is a float; -1 where one needs the exact look.

    ``brackets``: how many are open around the root. Level by level: no recursion.
    """
    if type(root) is dict and brackets < limits.nesting:
        for value in root.values():
            if type(value) is not str:
                break
        else:
            return len(root), False  # names and texts alone: what most bodies are
    keys, depth, has_doubles = 0, brackets, False
    level: list[Any] = [(root,)]
    while level:
        below: list[Any] = []
        for node in level:
            if type(node) is dict:
                keys += len(node)
                members = node.values()
            else:
                members = node
            for value in members:
                kind = type(value)
                if kind is str:
                    continue
                if kind is dict or kind is list:
                    below.append(value)
                elif kind is float:
                    has_doubles = True
                elif kind is int and not MIN_INTEGER <= value <= MAX_INTEGER:
                    return -1, True
        level = below
        if level:
            depth += 1
            if depth > limits.nesting:
                raise _too_deep(limits)
    return keys, has_doubles


def _is_proof(raw: bytes, keys: int) -> bool:
    """Whether the text shows that none of the ``keys`` read was written twice; false only means: not at a glance.

    Each key written ends in a quote and a colon, so if there are no more of those than keys read, none was lost.
    """
    return raw.count(b":") == keys or (raw.count(b'":') == keys and _SPACED_KEY_END.search(raw) is None)


def out_of_range_pointers(value: Any) -> list[str]:
    """The pointers of the stand-ins in a value."""
    return [pointer_to(path) for path, leaf in _leaves(value, ()) if leaf is OUT_OF_RANGE]


def _decode_exactly(raw: bytes, limits: Limits, has_stand_ins: bool) -> Any:
    """The slow way: says which key is repeated and which number is out of range, and accepts what is neither."""
    try:
        value = json.loads(
            raw.decode(),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_real,
            parse_constant=_constant,
        )
    except RecursionError:
        raise _too_deep(limits) from None
    except UnicodeDecodeError as error:
        raise Problem("malformed_json", f"The text is not valid UTF-8: {error.reason} (byte {error.start}).") from None
    except json.JSONDecodeError as error:
        raise Problem("malformed_json", f"The text is no JSON: {error.msg} (character {error.pos}).") from None
    _look(value, limits)
    for path, leaf in _leaves(value, ()):
        if isinstance(leaf, str) and _LONE_SURROGATE.search(leaf):
            raise Problem("malformed_json", f"Half of a surrogate pair in the text at {pointer_to(path) or 'the top'}.")
        if leaf is OUT_OF_RANGE and not has_stand_ins:
            pointer, words = pointer_to(path), OUT_OF_RANGE_DETAIL
            raise Problem("number_out_of_range", f"{pointer or 'The document'}: {words}", (FieldError(pointer, words),))
    return value


def _leaves(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every key and every value that is no container, with its path. Recursive: ``value`` is of a checked depth."""
    if isinstance(value, dict):
        for key, member in value.items():
            yield path, key
            yield from _leaves(member, (*path, key))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from _leaves(member, (*path, index))
    else:
        yield path, value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Problem("malformed_json", f"The key {json.dumps(twice[:64])} stands twice in one object.")
    return members


def _integer(digits: str) -> int | OutOfRange:
    if len(digits) > len("-9007199254740991"):
        return OUT_OF_RANGE
    number = int(digits)
    return number if MIN_INTEGER <= number <= MAX_INTEGER else OUT_OF_RANGE


def _real(digits: str) -> float | OutOfRange:
    number = float(digits)
    return number if isfinite(number) else OUT_OF_RANGE


def _constant(word: str) -> Any:
    raise Problem("malformed_json", f"{word} is no JSON.")


def _too_deep(limits: Limits) -> Problem:
    return Problem("malformed_json", f"Arrays and objects are nested over {limits.nesting} levels deep.")


def _in_words(raw: bytes, said: str) -> str:
    """What the decoder said, as a sentence about the text that was sent."""
    if not raw.strip():
        return "The text is empty: JSON was expected."
    if raw.startswith(BOM_UTF8):
        return "The text begins with a byte order mark: send it without."
    return f"The text is no JSON: {said.removeprefix('JSON is malformed: ')}."


def _has_doubles(root: Any) -> bool:
    """Whether a number in the value is a float, or an integer that a double may not hold exactly."""
    level: list[Any] = [[root]]
    for node in level:  # grows while it is walked
        for value in node.values() if type(node) is dict else node:
            kind = type(value)
            if kind is dict or kind is list:
                level.append(value)
            elif kind is float or (kind is int and not MIN_INTEGER <= value <= MAX_INTEGER):
                return True
    return False


def _as_doubles(value: Any) -> Any:
    """``value`` with each integer that no double holds exactly as the nearest double: what RFC 8785 writes for it."""
    if isinstance(value, dict):
        return {key: _as_doubles(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_as_doubles(member) for member in value]
    if isinstance(value, int) and not MIN_INTEGER <= value <= MAX_INTEGER:
        return float(value)
    return value
