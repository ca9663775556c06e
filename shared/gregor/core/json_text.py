"""JSON text: a strict decoder, and the canonical encoding of RFC 8785.

Rejected are repeated keys, lone surrogates, deep nesting, and numbers beyond I-JSON: two readers could read them
differently, and their digests would differ (semantics.md, "Times" and L10).
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache
from itertools import islice
from math import isfinite
from operator import methodcaller
from typing import Any, Final

import msgspec

from .errors import FieldError, Problem
from .limits import Limits

MAX_INTEGER: Final = (1 << 53) - 1
"""The largest integer that every reader keeps exactly (RFC 7493)."""

MIN_INTEGER: Final = -MAX_INTEGER
"""The smallest such integer."""

OUT_OF_RANGE_DETAIL: Final = (
    "Integers must lie within ±(2^53−1), and numbers must be finite as doubles; send others as strings."
)
"""The error text for a number that is out of range."""

MAX_POINTERS: Final = 20
"""Numbers out of range that one answer names. A text can have many, each with a long pointer."""

MAX_EXACT_BYTES: Final = 32_768
"""Longest text in which the place of an error is looked for, at up to 0.9 µs a byte. A longer text gets the error
without a pointer: the search would stop the event loop for a fifth of a second."""

_MANY_MEMBERS: Final = 256
"""From this size on, an object or array is checked first for integers alone."""

_SPACED_KEY_END: Final = re.compile(rb'"[ \t\n\r]+:')
# Matches from a supplementary character (4 bytes in UTF-8) to the end of its string. The group contains a colon if the
# string is a key. The quantifiers are possessive and the matches do not overlap, so the time is linear.
_SUPPLEMENTARY: Final = re.compile(rb'[\xf0-\xff][^"\\]*+(?:\\.[^"\\]*+)*+"(:?)')
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")

_CONTAINERS: Final = frozenset({dict, list, tuple})
_utf_16_units: Final = methodcaller("encode", "utf-16-be")

_SAFE_DIGITS: Final = 16
_MANY_DIGITS: Final = re.compile(rb"[0-9]{16}")
_MANY_DIGITS_OF_TEXT: Final = re.compile("[0-9]{16}")
_LARGE_EXPONENT: Final = re.compile(rb"[eE][+]?[0-9]{3}|[0-9]{200}")

MAX_BOUNDED: Final = 1_000
"""The largest array that is split with a bound on the work."""

_TRUNCATED: Final = "Input data was truncated"
_NO_DOUBLE: Final = "Number out of range"

# msgspec needs 20 to 40 µs for a number such as 1e300, so 256 KB of them would stop the event loop for up to 0.8 s.
# Therefore each decoder of a text that a client wrote must have this hook.
_decode: Final = msgspec.json.Decoder(float_hook=float).decode
_encode: Final = msgspec.json.Encoder(order="sorted").encode
_encode_in_order: Final = msgspec.json.Encoder(order=None).encode
_elements: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


class OutOfRange:
    """Stand-in for a number that is out of range."""


OUT_OF_RANGE: Final = OutOfRange()


# ---- reading


def decode_json(raw: bytes, limits: Limits, *, has_stand_ins: bool = False) -> Any:
    """Return the value of a JSON text.

    Raises ``Problem``: ``malformed_json``, or ``number_out_of_range`` with a pointer (above ``MAX_EXACT_BYTES`` without
    one).

    At most ``limits.nesting`` brackets may be open at once. ``has_stand_ins``: return ``OUT_OF_RANGE`` for a number
    that is out of range, if the caller reports it together with other errors.
    """
    try:
        value = _decode(raw)
    except msgspec.ValidationError as error:  # a number that msgspec cannot read
        if len(raw) > MAX_EXACT_BYTES and str(error).startswith(_NO_DOUBLE):
            raise Problem("number_out_of_range", f"The document: {OUT_OF_RANGE_DETAIL}") from None
        return _decode_exactly(raw, limits, has_stand_ins)
    except msgspec.DecodeError as error:
        # msgspec reports a lone surrogate as truncated, too. A number before the error may be out of range.
        if (str(error) == _TRUNCATED and raw.strip()) or _LARGE_EXPONENT.search(raw):
            return _decode_exactly(raw, limits, has_stand_ins)
        raise Problem("malformed_json", _decoder_error(raw, str(error))) from None
    except UnicodeDecodeError as error:
        raise Problem("malformed_json", f"The text is not valid UTF-8: {error.reason}.") from None
    except RecursionError:
        raise _too_deep(limits) from None
    keys, _ = _scan(value, limits)
    if _has_unique_keys(raw, keys):
        return value
    return _decode_exactly(raw, limits, has_stand_ins, is_scanned=keys >= 0)


def decode_published(text: str | bytes) -> Any:
    """Return the value of a JSON text that Gregor wrote. The value can be encoded and sent again.

    RFC 8785 writes a double such as ``1e20`` with all its digits. ``decode_json`` refuses it in this form, because most
    integers of this size lose digits in a double. Therefore such a number becomes a ``float`` here. Raises ValueError
    if the text is malformed, or if an integer is too large for a double.
    """
    digits = _MANY_DIGITS if isinstance(text, bytes) else _MANY_DIGITS_OF_TEXT
    # A hook is called for each integer, hence only if one may be too large.
    return json.loads(text, parse_int=_published_integer if digits.search(text) else None)  # type: ignore[arg-type]


def split_array(raw: bytes, most: int) -> list[bytes] | None:
    """Return the elements of a JSON array, not decoded; ``None`` if there are more than ``most``.

    If ``most`` is at most ``MAX_BOUNDED``, parsing stops at the first element above it. Raises
    ``msgspec.ValidationError`` if the text is not an array, and ``msgspec.DecodeError`` if it is malformed.
    """
    # Splitting 1 MiB of tiny elements takes 0.1 s. The bounded decoder costs time for each of its ``most`` fields.
    if most > MAX_BOUNDED:
        elements = _elements(raw)
        return None if len(elements) > most else list(map(bytes, elements))
    try:
        found = _array_of(most)(raw)
    except msgspec.ValidationError:
        if raw.lstrip(b" \t\n\r").startswith(b"["):
            return None
        raise
    return [element for element in map(bytes, msgspec.structs.astuple(found)) if element]


@cache
def _array_of(most: int) -> Callable[[bytes], msgspec.Struct]:
    fields = [(f"element_{number}", msgspec.Raw, msgspec.Raw()) for number in range(most)]
    kind = msgspec.defstruct("BoundedArray", fields, array_like=True, forbid_unknown_fields=True)
    return msgspec.json.Decoder(kind).decode


# ---- writing


def canonical_fast(raw: bytes, value: Any, limits: Limits, *, extra_keys: int, brackets: int) -> bytes | None:
    """Return the canonical JSON of a value that was decoded from ``raw``; None if the text needs ``decode_json``.

    ``extra_keys``: keys in the text that are not in the value. ``brackets``: brackets that are open around the value.
    Raises ``malformed_json`` if it is nested too deeply. General twin: ``decode_json`` with ``canonical_json``.
    Benchmark: ``tests/bench/ingest.py``. Equality: ``tests/unit/core/test_parse_fast.py``. It can go if it saves less
    than 5 %.
    """
    keys, has_doubles = _scan(value, limits, brackets)
    if keys < 0 or not _has_unique_keys(raw, extra_keys + keys):
        return None
    return _encode_value(value, has_doubles)


def canonical_json(value: Any) -> bytes:
    """Return the canonical JSON (RFC 8785) of a decoded value.

    Raises ``ValueError`` for a lone surrogate, NaN or infinity.
    """
    return _encode_value(value, _has_doubles(value))


def _encode_value(value: Any, has_doubles: bool) -> bytes:
    written = _with_canonical_numbers(value) if has_doubles else value
    text = _encode(written)
    # RFC 8785 sorts keys by UTF-16 unit, the encoder by code point. Only supplementary characters make a difference.
    if text.isascii() or not any(found[1] for found in _SUPPLEMENTARY.finditer(text)):
        return text
    copy = written if has_doubles else _with_canonical_numbers(value)
    _sort_keys(copy)
    return _encode_in_order(copy)


# ---- JSON pointers


def pointer_to(path: Iterable[str | int]) -> str:
    """Return the JSON pointer (RFC 6901) of a path of keys and indexes; the empty path is the whole document."""
    return "".join(f"/{escape_pointer(str(step))}" for step in path)


def escape_pointer(key: str) -> str:
    """Return a key as one token of a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1") if "~" in key or "/" in key else key


# ---- checks of a decoded value


def _scan(root: Any, limits: Limits, brackets: int = 0) -> tuple[int, bool]:
    """Return the number of keys in all objects (-1: the exact decoder is needed), and whether a number is a float.

    ``brackets``: brackets that are open around the root. It works level by level, without recursion.
    """
    if type(root) is dict and brackets < limits.nesting:
        for value in root.values():
            if type(value) is not str:
                break
        else:
            return len(root), False  # most bodies have strings alone
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
            if len(members) > _MANY_MEMBERS and _are_all_safe_integers(members):
                continue
            for value in members:
                kind = type(value)
                if kind is str:
                    continue
                if kind is dict or kind is list:
                    below.append(value)
                elif kind is float:
                    if value - value != 0:  # infinite: the number was out of range
                        return -1, True
                    has_doubles = True
                elif kind is int and not MIN_INTEGER <= value <= MAX_INTEGER:
                    return -1, True
        level = below
        if level:
            depth += 1
            if depth > limits.nesting:
                raise _too_deep(limits)
    return keys, has_doubles


def _are_all_safe_integers(members: Collection[Any]) -> bool:
    # All in C: a hostile array of 60,000 numbers takes a quarter of the time of the general loop.
    return set(map(type, members)) == {int} and min(members) >= MIN_INTEGER and max(members) <= MAX_INTEGER


def _has_unique_keys(raw: bytes, keys: int) -> bool:
    """Return whether the text proves that none of its ``keys`` is repeated. False proves nothing.

    Each key in the text ends with a quote and a colon. If there are not more of them than decoded keys, no key was
    lost.
    """
    return raw.count(b":") == keys or (raw.count(b'":') == keys and _SPACED_KEY_END.search(raw) is None)


def out_of_range_pointers(value: Any) -> list[str]:
    """Return the pointers of the stand-ins in a value, at most the first ``MAX_POINTERS``."""
    return [pointer for pointer, _ in islice(_offenders(value), MAX_POINTERS)]


# ---- the exact decoder


def _decode_exactly(raw: bytes, limits: Limits, has_stand_ins: bool, *, is_scanned: bool = False) -> Any:
    """Decode slowly: report which key is repeated and which number is out of range, and accept the rest.

    ``is_scanned``: whether the depth of the text was already checked.
    """
    try:
        value = json.loads(
            raw.decode(),
            object_pairs_hook=_object,
            # A hook is called for each number: three times the cost of the text, hence only if one may be too large.
            parse_int=_integer if _MANY_DIGITS.search(raw) else None,
            parse_float=_real if _LARGE_EXPONENT.search(raw) else None,
            parse_constant=_constant,
        )
    except RecursionError:
        raise _too_deep(limits) from None
    except UnicodeDecodeError as error:
        raise Problem("malformed_json", f"The text is not valid UTF-8: {error.reason} (byte {error.start}).") from None
    except json.JSONDecodeError as error:
        raise Problem("malformed_json", f"The text is not valid JSON: {error.msg} (character {error.pos}).") from None
    if not is_scanned:
        _scan(value, limits)
    if len(raw) > MAX_EXACT_BYTES:
        _check_long(value)
        return value
    for pointer, leaf in _offenders(value, with_numbers=not has_stand_ins):
        if leaf is not OUT_OF_RANGE:
            raise Problem("malformed_json", f"A lone surrogate in the text at {pointer or 'the top'}.")
        words = OUT_OF_RANGE_DETAIL
        raise Problem("number_out_of_range", f"{pointer or 'The document'}: {words}", (FieldError(pointer, words),))
    return value


def _check_long(value: Any) -> None:
    """Raise ``Problem`` for a value that cannot be encoded. The error does not name its place in the text."""
    try:
        _encode(value)
    except TypeError:  # a stand-in
        raise Problem("number_out_of_range", f"The document: {OUT_OF_RANGE_DETAIL}") from None
    except UnicodeEncodeError:
        raise Problem("malformed_json", "A lone surrogate in the text.") from None


def _offenders(root: Any, *, with_numbers: bool = True) -> Iterator[tuple[str, Any]]:
    """Yield the pointer and the value of each stand-in and each text with a lone surrogate, in document order.

    ``with_numbers``: whether stand-ins are yielded. The pointer of a key is that of its object. A pointer is built only
    for what is yielded, so the time is linear.
    """
    steps: list[Any] = []
    members: Iterator[tuple[Any, Any]] = iter(((None, root),))
    open_members: list[Iterator[tuple[Any, Any]]] = []
    while True:
        for step, value in members:
            if type(step) is str and not step.isascii() and _LONE_SURROGATE.search(step):
                yield pointer_to(steps[1:]), step
            kind = type(value)
            if kind is dict or kind is list:
                open_members.append(members)
                steps.append(step)
                members = iter(value.items()) if kind is dict else enumerate(value)
                break
            if (value is OUT_OF_RANGE and with_numbers) or (
                kind is str and not value.isascii() and _LONE_SURROGATE.search(value)
            ):
                yield pointer_to((*steps, step)[1:]), value
        else:
            if not open_members:
                return
            members = open_members.pop()
            steps.pop()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Problem("malformed_json", f"The key {json.dumps(twice[:64])} is repeated in one object.")
    return members


def _integer(digits: str) -> int | OutOfRange:
    if len(digits) < _SAFE_DIGITS:
        return int(digits)
    if len(digits) > len("-9007199254740991"):
        return OUT_OF_RANGE
    number = int(digits)
    return number if MIN_INTEGER <= number <= MAX_INTEGER else OUT_OF_RANGE


def _published_integer(digits: str) -> int | float:
    number = int(digits)
    try:
        return number if MIN_INTEGER <= number <= MAX_INTEGER else float(number)
    except OverflowError as error:  # 309 digits or more; int refuses more than 4,300 with ValueError
        raise ValueError("a number is too large for a double") from error


def _real(digits: str) -> float | OutOfRange:
    number = float(digits)
    return number if isfinite(number) else OUT_OF_RANGE


def _constant(word: str) -> Any:
    raise Problem("malformed_json", f"{word} is not valid JSON.")


def _too_deep(limits: Limits) -> Problem:
    return Problem("malformed_json", f"Arrays and objects are nested deeper than {limits.nesting} levels.")


def _decoder_error(raw: bytes, message: str) -> str:
    """Return the decoder's message as a sentence about the text."""
    if not raw.strip():
        return "The text is empty: JSON was expected."
    if raw.startswith(BOM_UTF8):
        return "The text begins with a byte order mark. Remove it."
    return f"The text is not valid JSON: {message.removeprefix('JSON is malformed: ')}."


# ---- numbers in canonical JSON


def _has_doubles(root: Any) -> bool:
    """Return whether a number in the value is a float, or an integer that a double may not keep exactly."""
    level: list[Any] = [[root]]
    for node in level:  # grows while it is walked
        for value in node.values() if type(node) is dict else node:
            kind = type(value)
            if kind is dict or kind is list:
                level.append(value)
            elif kind is float or (kind is int and not MIN_INTEGER <= value <= MAX_INTEGER):
                return True
    return False


def _with_canonical_numbers(root: Any) -> Any:
    """Return a copy of ``root`` with each number in the form that makes ``_encode`` write it as RFC 8785 requires."""
    # Without recursion: at some depth, CPython maps a new part of its stack for each call, which takes 7 µs.
    top = [root]
    level: list[Any] = [top]
    for node in level:  # grows while it is walked
        for key, value in node.items() if type(node) is dict else enumerate(node):
            kind = type(value)
            if kind is float or (kind is int and not MIN_INTEGER <= value <= MAX_INTEGER):
                node[key] = _canonical_number(float(value))
            elif kind in _CONTAINERS and value:  # an empty one needs no copy
                node[key] = copy = dict(value) if kind is dict else list(value)
                level.append(copy)
    return top[0]


def _canonical_number(number: float) -> float | msgspec.Raw:
    """Return a double as RFC 8785 writes it. Raises ``ValueError`` for NaN and infinity.

    Python and msgspec write the shortest digits, as RFC 8785 requires. Only the notation differs.
    """
    size = abs(number)
    if size <= MAX_INTEGER and number.is_integer():
        return int(number)
    if 1e-3 <= size < 1e15:
        return number
    if not isfinite(number):
        raise ValueError(f"{number} is not a number of JSON")
    text = repr(number)
    if size < 1e-6:
        return msgspec.Raw(text.replace("e-0", "e-").encode())
    return msgspec.Raw((text if size >= 1e21 else _without_exponent(text)).encode())


def _without_exponent(text: str) -> str:
    """Return the text of a double without the exponent or the `.0` that Python writes and RFC 8785 does not."""
    mantissa, _, exponent = text.partition("e")
    if not exponent:
        return mantissa.removesuffix(".0")
    sign, power = "-" if mantissa[0] == "-" else "", int(exponent)
    whole, _, fraction = mantissa.removeprefix("-").partition(".")
    if power < 0:
        return f"{sign}0.{'0' * (-power - 1)}{whole}{fraction}"
    return sign + whole + fraction.ljust(power, "0")


# ---- order of keys in canonical JSON


def _sort_keys(root: Any) -> None:
    """Sort the keys of each object in ``root`` by their UTF-16 units."""
    level: list[Any] = [root]
    for node in level:  # grows while it is walked
        if type(node) is dict and len(node) > 1:
            keys = sorted(node) if "".join(node).isascii() else sorted(node, key=_utf_16_units)
            for key in keys:
                node[key] = node.pop(key)
        for value in node.values() if type(node) is dict else node:
            if value and type(value) in _CONTAINERS:
                level.append(value)
