"""Messages in: from a decoded JSON document to a ``Message``, every rule checked once (semantics.md "Words", L2, L3).

A field that may be left out may also be null, and a container also ``[]``: these mean the same. What is unknown is
refused, so that a typing error never passes; all faults of a document are told at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from gregor.core.errors import Problem
from gregor.core.ids import EVERY_DEVICE, GREGOR, is_dotted, is_name, normalize_prefix
from gregor.core.json_text import OUT_OF_RANGE_DETAIL, canonical_json, escape_pointer, out_of_range_pointers
from gregor.core.limits import Limits
from gregor.core.times import parse_time, parse_time_or_offset
from gregor.core.validation import ValidationErrors

from .model import ExternalMessage, Interval, Message, NewItem, Offset, Update, UserReset

_MESSAGE: Final = frozenset({"system", "body", "id", "device", "not_before"})
_BODY: Final = frozenset({"create", "dismiss", "flush"})
_ITEM: Final = frozenset({"times", "for_device", "category", "body"})
_TIMES: Final = frozenset({"created", "expires", "remind_at"})
_DISMISS: Final = frozenset({"ids", "intervals"})
_INTERVAL: Final = frozenset({"category", "category_prefix", "begin", "end", "skip"})

_NAME: Final = "A name has 1 to 128 of the characters A-Z a-z 0-9 . _ : @ -, the first a letter or digit."
_DOTTED: Final = "Dotted segments of A-Z a-z 0-9 _ -, each beginning with a letter or digit, 128 characters at most."
_SAYS_NOTHING: Final = "A message must say something: create, dismiss or flush."

_Time = TypeVar("_Time", int, int | Offset)

_EMPTY: Final[dict[str, Any]] = {}
_NONE: Final[list[Any]] = []


def parse_message(document: Any, limits: Limits) -> Message:
    """The message of ``{"system", "body", "id"?, "device"?, "not_before"?}``. Raises ``Problem``, with pointers.

    ``document`` comes from ``decode_json``, and may have stand-ins. What depends on who sends and when is checked by
    ``machine.plan``.
    """
    errors = ValidationErrors()
    if type(document) is not dict:
        errors.add("invalid", "", "A message must be an object.")
        errors.raise_if_any()
    if not _MESSAGE.issuperset(document):
        errors.add_unknown_fields(document, _MESSAGE, "")
    content = _content(document, limits, errors)
    message_id = _optional_name(document.get("id"), "/id", errors)
    device = _optional_name(document.get("device"), "/device", errors)
    not_before_us = _time(document.get("not_before"), "/not_before", parse_time, errors)
    errors.raise_if_any()
    return Message(content, message_id, device, not_before_us)


def _content(
    document: dict[str, Any], limits: Limits, errors: ValidationErrors
) -> Update | ExternalMessage | UserReset:
    system, body = document.get("system"), document.get("body")
    if system == GREGOR:
        return _state_body(body, limits, errors)
    if system is None:
        errors.add("missing_field", "/system", 'A message names its system: "gregor", or one of your own.')
    elif not is_dotted(system):
        errors.add("invalid_id", "/system", _DOTTED)
    elif "body" not in document:
        errors.add("missing_field", "/body", "A message has a body.")
    else:
        return ExternalMessage(system, _canonical(body, "/body", errors))
    return UserReset()


def _state_body(body: Any, limits: Limits, errors: ValidationErrors) -> Update | UserReset:
    """The body of a message of the system ``gregor``."""
    if body is None:
        errors.add("missing_field", "/body", _SAYS_NOTHING)
        return UserReset()
    if type(body) is not dict:
        errors.add("invalid", "/body", "The body of a gregor message must be an object.")
        return UserReset()
    if not _BODY.issuperset(body):
        errors.add_unknown_fields(body, _BODY, "/body")
    if body.get("flush") is not None:
        return _flush(body, errors)
    update = _update(body, limits, errors)
    if not (update.create or update.ids or update.intervals or errors.has_errors):
        errors.add("invalid", "/body", _SAYS_NOTHING)
    return update


def _flush(body: dict[str, Any], errors: ValidationErrors) -> UserReset:
    if body["flush"] is not True:
        errors.add("invalid", "/body/flush", "flush can only be true.")
    for other in ("create", "dismiss"):
        if body.get(other):
            errors.add("invalid", f"/body/{other}", "A flush stands alone in its message.")
    return UserReset()


def _update(body: dict[str, Any], limits: Limits, errors: ValidationErrors) -> Update:
    create = _object(body.get("create"), "/body/create", errors)
    if len(create) > limits.creations:
        errors.add("too_many", "/body/create", f"A message creates at most {limits.creations} items.")
        create = _EMPTY
    items = tuple([_item(item_id, item, limits, errors) for item_id, item in create.items()])
    dismiss = _object(body.get("dismiss"), "/body/dismiss", errors)
    if not dismiss:
        return Update(items)
    if not _DISMISS.issuperset(dismiss):
        errors.add_unknown_fields(dismiss, _DISMISS, "/body/dismiss")
    ids = _names(dismiss.get("ids"), limits.ids, "/body/dismiss/ids", errors)
    for index, item_id in enumerate(ids if create else ()):
        if item_id in create:
            errors.add("contradictory", f"/body/dismiss/ids/{index}", f'The message also creates "{item_id}".')
    at = "/body/dismiss/intervals"
    intervals = _array(dismiss.get("intervals"), limits.intervals, at, errors)
    spans = [_interval(each, f"{at}/{index}", limits, errors) for index, each in enumerate(intervals)]
    return Update(items, tuple(dict.fromkeys(ids)), tuple(spans))


def _item(item_id: str, item: Any, limits: Limits, errors: ValidationErrors) -> NewItem:
    at = "/body/create/" + escape_pointer(item_id)
    if not is_name(item_id):
        errors.add("invalid_id", at, _NAME)
    if type(item) is not dict:
        errors.add("invalid", at, "An item must be an object.")
        item = {"category": "none"}
    if not _ITEM.issuperset(item):
        errors.add_unknown_fields(item, _ITEM, at)
    category, for_device = item.get("category"), item.get("for_device")
    if not is_dotted(category):
        _note_category(category, at + "/category", errors)
    if for_device is not None and for_device != EVERY_DEVICE and not is_name(for_device):
        errors.add("invalid_id", at + "/for_device", f'A device, "*" for each device, or null for all. {_NAME}')
    body = _canonical(item.get("body"), at + "/body", errors)
    if len(body) > limits.body_bytes:
        detail = f"The body has {len(body)} bytes as canonical JSON; at most {limits.body_bytes} are taken."
        errors.add("body_too_large", at + "/body", detail)
    created, expires, remind_at = _times(item.get("times"), at + "/times", limits, errors)
    return NewItem(item_id, category, created, expires, remind_at, for_device, body)


def _canonical(body: Any, at: str, errors: ValidationErrors) -> bytes:
    """A body as canonical JSON; a fault for each number in it that is out of range."""
    try:
        return canonical_json(body)
    except TypeError:  # a stand-in is no JSON
        for pointer in out_of_range_pointers(body):
            errors.add("number_out_of_range", at + pointer, OUT_OF_RANGE_DETAIL)
        return b"null"


_Times = tuple[int | None, int | Offset | None, tuple[int | Offset, ...]]


def _times(times: Any, at: str, limits: Limits, errors: ValidationErrors) -> _Times:
    """``created``, ``expires`` and ``remind_at`` (sorted, without repeats) as sent."""
    if not times:
        _object(times, at, errors)
        return None, None, ()
    times = _object(times, at, errors)
    if not _TIMES.issuperset(times):
        errors.add_unknown_fields(times, _TIMES, at)
    created = _time(times.get("created"), at + "/created", parse_time, errors)
    expires = _time(times.get("expires"), at + "/expires", parse_time_or_offset, errors)
    sent = times.get("remind_at")
    if not sent:
        _array(sent, 0, at + "/remind_at", errors)
        return created, expires, ()
    at += "/remind_at"
    reminders = _array(sent, limits.reminders, at, errors)
    read = [_read(each, f"{at}/{index}", parse_time_or_offset, errors) for index, each in enumerate(reminders)]
    return created, expires, tuple(sorted({each for each in read if each is not None}, key=_by_time))


def _by_time(when: int | Offset) -> tuple[bool, int]:
    return (False, when) if isinstance(when, int) else (True, when.us)


def _interval(interval: Any, at: str, limits: Limits, errors: ValidationErrors) -> Interval:
    if type(interval) is not dict:
        errors.add("invalid", at, "An interval must be an object.")
        return Interval("", True, None, None, frozenset())
    if not _INTERVAL.issuperset(interval):
        errors.add_unknown_fields(interval, _INTERVAL, at)
    category, is_prefix = _interval_category(interval, at, errors)
    begin_us = _time(interval.get("begin"), at + "/begin", parse_time, errors)
    end_us = _time(interval.get("end"), at + "/end", parse_time, errors)
    if begin_us is not None and end_us is not None and begin_us > end_us:
        errors.add("invalid", at + "/begin", "An interval begins no later than it ends.")
    skip = _names(interval.get("skip"), limits.skip, at + "/skip", errors)
    return Interval(category, is_prefix, begin_us, end_us, frozenset(skip))


def _interval_category(interval: dict[str, Any], at: str, errors: ValidationErrors) -> tuple[str, bool]:
    """The category or prefix of an interval, and whether it is a prefix."""
    category, prefix = interval.get("category"), interval.get("category_prefix")
    if prefix is None:
        if not is_dotted(category):
            _note_category(category, at + "/category", errors)
            return "", False
        return str(category), False
    normal = normalize_prefix(prefix)
    if normal is None:
        errors.add("invalid_id", at + "/category_prefix", f'A prefix is a category, or "" for all. {_DOTTED}')
    if category is not None:
        errors.add("invalid", at + "/category_prefix", "An interval has a category or a category_prefix, never both.")
    return normal or "", True


def _note_category(category: Any, at: str, errors: ValidationErrors) -> None:
    if category is None:
        errors.add("missing_field", at, "The category must be named.")
    else:
        errors.add("invalid_id", at, _DOTTED)


def _object(value: Any, at: str, errors: ValidationErrors) -> dict[str, Any]:
    """An object that may be left out; empty where it is, or where it is none."""
    if type(value) is dict:
        return value
    if value is not None and value != _NONE:
        errors.add("invalid", at, "An object is expected here.")
    return _EMPTY


def _array(value: Any, most: int, at: str, errors: ValidationErrors) -> list[Any]:
    """An array that may be left out; empty where it is, where it is none, or where it has too many members."""
    if value is None:
        return _NONE
    if type(value) is not list:
        errors.add("invalid", at, "An array is expected here.")
        return _NONE
    if len(value) > most:
        errors.add("too_many", at, f"At most {most} are taken here.")
        return _NONE
    return value


def _names(value: Any, most: int, at: str, errors: ValidationErrors) -> list[str]:
    names = _array(value, most, at, errors)
    bad = [index for index, name in enumerate(names) if not is_name(name)]
    for index in bad:
        errors.add("invalid_id", f"{at}/{index}", _NAME)
    return _NONE if bad else names


def _optional_name(value: Any, at: str, errors: ValidationErrors) -> str | None:
    if value is None:
        return None
    if not is_name(value):
        errors.add("invalid_id", at, _NAME)
    return str(value)


def _time(value: Any, at: str, read: Callable[[Any, str], _Time], errors: ValidationErrors) -> _Time | None:
    return None if value is None else _read(value, at, read, errors)


def _read(value: Any, at: str, read: Callable[[Any, str], _Time], errors: ValidationErrors) -> _Time | None:
    try:
        return read(value, at)
    except Problem as problem:
        errors.add_problem(problem)
        return None
