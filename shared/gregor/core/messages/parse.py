"""Parser of messages: from a decoded JSON document to a ``Message`` (semantics.md "Words", L2, L3).

An optional field may also be null, and an optional container also ``[]``: all three are the same content. Unknown
fields are rejected, so a typing error never passes. All errors of a document are reported at once. ``parse_fast``
reads the commonest message without this module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from gregor.core.errors import Problem, field_problem
from gregor.core.ids import EVERY_DEVICE, GREGOR, are_names, is_dotted, is_name, name_error, normalize_prefix
from gregor.core.json_text import OUT_OF_RANGE_DETAIL, canonical_json, escape_pointer, out_of_range_pointers
from gregor.core.limits import Limits
from gregor.core.times import parse_duration, parse_time, parse_time_or_offset
from gregor.core.validation import ValidationErrors

from .model import ExternalMessage, Interval, Message, NewItem, Offset, Update, UserReset

_MESSAGE: Final = frozenset({"system", "body", "id", "device", "not_before"})
_BODY: Final = frozenset({"create", "dismiss", "flush"})
_ITEM: Final = frozenset({"times", "for_device", "category", "body"})
_TIMES: Final = frozenset({"created", "expires", "remind_at"})
_DISMISS: Final = frozenset({"ids", "intervals"})
_INTERVAL: Final = frozenset({"category", "category_prefix", "begin", "end", "skip"})

_DOTTED: Final = (
    'This must be dotted segments, such as "invoice.due": A-Z a-z 0-9 _ -, each beginning with a letter or digit, '
    "128 characters at most."
)
_NO_SYSTEM: Final = 'A message needs a system: "gregor", or the name of one of your systems.'
_EMPTY_BODY: Final = 'The body of a gregor message needs "create", "dismiss" or "flush".'
_EMPTY_DISMISS: Final = 'dismiss has no "ids" and no "intervals", so it would dismiss nothing.'

# Examples in errors about a value of the wrong type.
_MESSAGE_SHAPE: Final = '{"system": "gregor", "body": {…}}'
_BODY_SHAPE: Final = '{"create": {"<id>": {"category": "…"}}} or {"dismiss": {"ids": ["…"]}}'
_CREATE_SHAPE: Final = '{"<id>": {"category": "…", "body": …}}'
_EMPTY_CREATE: Final = f"create is empty: it must be an object with at least one item: {_CREATE_SHAPE}."
_ITEM_SHAPE: Final = '{"category": "…", "body": …}'
_TIMES_SHAPE: Final = '{"expires": "+1d"}'
_DISMISS_SHAPE: Final = '{"ids": ["…"]} or {"intervals": [{"category": "…"}]}'
_INTERVAL_SHAPE: Final = '{"category": "…", "end": 1700000000}'

_Time = TypeVar("_Time", int, int | Offset)

_MANY_NAMES: Final = 8
"""From this number on, names are first checked together."""

_EMPTY: Final[dict[str, Any]] = {}
_NONE: Final[list[Any]] = []

# ---- messages


def parse_message(document: Any, limits: Limits) -> Message:
    """Return the message of ``{"system", "body", "id"?, "device"?, "not_before"?}``. Raises ``Problem`` with pointers.

    ``document`` is from ``decode_json`` and may have stand-ins. ``plan`` checks what depends on the sender and the
    clock.
    """
    errors = ValidationErrors()
    if type(document) is not dict:
        errors.add("invalid", "", f"A message must be an object: {_MESSAGE_SHAPE}.")
        errors.raise_if_any()
    if not _MESSAGE.issuperset(document):
        _add_unknown(document, _MESSAGE, "", dict.fromkeys(_BODY, "body"), errors)
    content = _content(document, limits, errors)
    message_id = _optional_name(document.get("id"), "/id", errors)
    device = _optional_name(document.get("device"), "/device", errors)
    not_before_us = _time(document.get("not_before"), "/not_before", _not_before, errors)
    errors.raise_if_any()
    return Message(content, message_id, device, not_before_us)


def _not_before(value: Any, pointer: str) -> int:
    if isinstance(value, str) and parse_duration(value) is not None:
        detail = f'not_before does not accept offsets such as "{value}": it must be Unix seconds, a number.'
        raise field_problem("invalid", pointer, detail)
    return parse_time(value, pointer)


def _content(
    document: dict[str, Any], limits: Limits, errors: ValidationErrors
) -> Update | ExternalMessage | UserReset:
    system, body = document.get("system"), document.get("body")
    if system == GREGOR:
        if body is None and not _BODY.isdisjoint(document):
            return UserReset()  # reported already: create, dismiss or flush beside system
        return _gregor_body(body, limits, errors)
    if system is None:
        errors.add("missing_field", "/system", _NO_SYSTEM)
    elif not is_dotted(system):
        errors.add("invalid_id", "/system", _DOTTED)
    elif system.lower() == GREGOR:
        errors.add("invalid_id", "/system", f'"{system}" is not a valid system; did you mean "{GREGOR}"?')
    elif "body" in document:
        return ExternalMessage(system, _canonical(body, "/body", errors))
    if "body" not in document and _BODY.isdisjoint(document):
        errors.add("missing_field", "/body", "A message needs a body.")
    return UserReset()


def _gregor_body(body: Any, limits: Limits, errors: ValidationErrors) -> Update | UserReset:
    """Return the content of a message of the system ``gregor``."""
    if body is None:
        errors.add("missing_field", "/body", _EMPTY_BODY)
        return UserReset()
    if type(body) is not dict:
        errors.add("invalid", "/body", f"The body of a gregor message must be an object: {_BODY_SHAPE}.")
        return UserReset()
    if not _BODY.issuperset(body):
        errors.add_unknown_fields(body, _BODY, "/body")
    if body.get("flush") is not None:
        return _reset(body, errors)
    update = _update(body, limits, errors)
    if not (update.create or update.ids or update.intervals or errors.has_errors):
        _add_empty(body, errors)
    return update


def _add_empty(body: dict[str, Any], errors: ValidationErrors) -> None:
    """Add the error of a body without content; it points to ``dismiss`` if that is all that was sent."""
    if body.get("dismiss") is not None and body.get("create") is None:
        errors.add("invalid", "/body/dismiss", _EMPTY_DISMISS)
    else:
        errors.add("invalid", "/body", _EMPTY_CREATE if "create" in body else _EMPTY_BODY)


def _reset(body: dict[str, Any], errors: ValidationErrors) -> UserReset:
    if body["flush"] is not True:
        errors.add("invalid", "/body/flush", "flush must be true.")
    for other in ("create", "dismiss"):
        if body.get(other):
            errors.add("invalid", f"/body/{other}", "flush must be the only member of its body.")
    return UserReset()


def _update(body: dict[str, Any], limits: Limits, errors: ValidationErrors) -> Update:
    create = _object(body.get("create"), "/body/create", _CREATE_SHAPE, errors)
    if len(create) > limits.creations:
        detail = f"A message may create up to {limits.creations} items; this one has {len(create)}. Split it."
        errors.add("too_many", "/body/create", detail)
        create = _EMPTY
    items = tuple([_item(item_id, item, limits, errors) for item_id, item in create.items()])
    dismiss = _object(body.get("dismiss"), "/body/dismiss", _DISMISS_SHAPE, errors)
    if not dismiss:
        return Update(items)
    if not _DISMISS.issuperset(dismiss):
        errors.add_unknown_fields(dismiss, _DISMISS, "/body/dismiss")
    ids = _names(dismiss.get("ids"), limits.ids, "/body/dismiss/ids", errors)
    for index, item_id in enumerate(ids if create else ()):
        if item_id in create:
            detail = f'The message both creates and dismisses "{item_id}". Remove one of them.'
            errors.add("contradictory", f"/body/dismiss/ids/{index}", detail)
    at = "/body/dismiss/intervals"
    intervals = _array(dismiss.get("intervals"), limits.intervals, at, errors)
    parsed = [_interval(each, f"{at}/{index}", limits, errors) for index, each in enumerate(intervals)]
    skips = sum(len(interval.skip) for interval in parsed)
    if skips > limits.skipped:
        errors.add("too_many", at, f"These skip {skips} ids together; at most {limits.skipped} are allowed.")
    return Update(items, tuple(dict.fromkeys(ids)), tuple(parsed))


# ---- items


def _item(item_id: str, item: Any, limits: Limits, errors: ValidationErrors) -> NewItem:
    at = "/body/create/" + escape_pointer(item_id)
    if not is_name(item_id):
        errors.add("invalid_id", at, name_error(item_id))
    if type(item) is not dict:
        errors.add("invalid", at, f"An item must be an object: {_ITEM_SHAPE}.")
        item = {"category": "none"}
    if not _ITEM.issuperset(item):
        _add_unknown(item, _ITEM, at, dict.fromkeys(_TIMES, "times"), errors)
    category, for_device = item.get("category"), item.get("for_device")
    if not is_dotted(category):
        _add_category_error(category, at + "/category", errors)
    if for_device is not None and for_device != EVERY_DEVICE and not is_name(for_device):
        detail = f'This must be a device, "*" (each device for itself) or null (all devices). {name_error(for_device)}'
        errors.add("invalid_id", at + "/for_device", detail)
    body = _canonical(item.get("body"), at + "/body", errors)
    if len(body) > limits.body_bytes:
        detail = f"The body has {len(body)} bytes as canonical JSON; at most {limits.body_bytes} are allowed."
        errors.add("body_too_large", at + "/body", detail)
    created, expires, remind_at = _times(item.get("times"), at + "/times", limits, errors)
    return NewItem(item_id, category, created, expires, remind_at, for_device, body)


def _canonical(body: Any, at: str, errors: ValidationErrors) -> bytes:
    """Return a body as canonical JSON. Each number in it that is out of range is an error."""
    try:
        return canonical_json(body)
    except TypeError:  # a stand-in is not JSON
        for pointer in out_of_range_pointers(body):
            errors.add("number_out_of_range", at + pointer, OUT_OF_RANGE_DETAIL)
        return b"null"


_Times = tuple[int | None, int | Offset | None, tuple[int | Offset, ...]]


def _times(times: Any, at: str, limits: Limits, errors: ValidationErrors) -> _Times:
    """Return ``created``, ``expires`` and ``remind_at`` (sorted, without repeats) as sent."""
    if not times:
        _object(times, at, _TIMES_SHAPE, errors)
        return None, None, ()
    times = _object(times, at, _TIMES_SHAPE, errors)
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


# ---- intervals


def _interval(interval: Any, at: str, limits: Limits, errors: ValidationErrors) -> Interval:
    if type(interval) is not dict:
        errors.add("invalid", at, f"An interval must be an object: {_INTERVAL_SHAPE}.")
        return Interval("", True, None, None, frozenset())
    if not _INTERVAL.issuperset(interval):
        errors.add_unknown_fields(interval, _INTERVAL, at)
    category, is_prefix = _interval_category(interval, at, errors)
    begin_us = _time(interval.get("begin"), at + "/begin", parse_time, errors)
    end_us = _time(interval.get("end"), at + "/end", parse_time, errors)
    if begin_us is not None and end_us is not None and begin_us > end_us:
        errors.add("invalid", at + "/begin", "begin must not be later than end.")
    skip = _names(interval.get("skip"), limits.skip, at + "/skip", errors)
    return Interval(category, is_prefix, begin_us, end_us, frozenset(skip))


def _interval_category(interval: dict[str, Any], at: str, errors: ValidationErrors) -> tuple[str, bool]:
    """Return the category or prefix of an interval, and whether it is a prefix."""
    category, prefix = interval.get("category"), interval.get("category_prefix")
    if prefix is None:
        if not is_dotted(category):
            _add_category_error(category, at + "/category", errors)
            return "", False
        return str(category), False
    normal = normalize_prefix(prefix)
    if normal is None:
        errors.add("invalid_id", at + "/category_prefix", f'This must be a category, or "" for all. {_DOTTED}')
    if category is not None:
        detail = "An interval has either a category or a category_prefix. Remove one of them."
        errors.add("invalid", at + "/category_prefix", detail)
    return normal or "", True


# ---- fields of any object


def _add_unknown(
    document: dict[str, Any], known: frozenset[str], at: str, homes: dict[str, str], errors: ValidationErrors
) -> None:
    """Add an error for each unknown field. ``homes``: a field that is one level too high, and where it belongs."""
    for name in document:
        home = homes.get(name)
        if name in known:
            continue
        if home is None:
            errors.add_unknown_fields({name: None}, known, at)
        else:
            detail = f'"{name}" belongs into "{home}"; did you mean {home}.{name}?'
            errors.add("unknown_field", f"{at}/{name}", detail)


def _add_category_error(category: Any, at: str, errors: ValidationErrors) -> None:
    if category is None:
        errors.add("missing_field", at, 'The category is missing, such as "invoice.due".')
    else:
        errors.add("invalid_id", at, _DOTTED)


def _object(value: Any, at: str, shape: str, errors: ValidationErrors) -> dict[str, Any]:
    """Return an optional object; an empty one if it is absent or of another type. ``shape``: an example of it."""
    if type(value) is dict:
        return value
    if value is not None and value != _NONE:
        errors.add("invalid", at, f"This must be an object: {shape}.")
    return _EMPTY


def _array(value: Any, limit: int, at: str, errors: ValidationErrors) -> list[Any]:
    """Return an optional array; an empty one if it is absent, of another type, or too long."""
    if value is None:
        return _NONE
    if type(value) is not list:
        errors.add("invalid", at, "This must be an array.")
        return _NONE
    if len(value) > limit:
        errors.add("too_many", at, f"This has {len(value)} members; at most {limit} are allowed.")
        return _NONE
    return value


def _names(value: Any, limit: int, at: str, errors: ValidationErrors) -> list[str]:
    names = _array(value, limit, at, errors)
    if len(names) >= _MANY_NAMES and are_names(names):
        return names
    bad = [index for index, name in enumerate(names) if not is_name(name)]
    for index in bad:
        errors.add("invalid_id", f"{at}/{index}", name_error(names[index]))
    return _NONE if bad else names


def _optional_name(value: Any, at: str, errors: ValidationErrors) -> str | None:
    if value is None:
        return None
    if not is_name(value):
        errors.add("invalid_id", at, name_error(value))
    return str(value)


def _time(value: Any, at: str, read: Callable[[Any, str], _Time], errors: ValidationErrors) -> _Time | None:
    return None if value is None else _read(value, at, read, errors)


def _read(value: Any, at: str, read: Callable[[Any, str], _Time], errors: ValidationErrors) -> _Time | None:
    try:
        return read(value, at)
    except Problem as problem:
        errors.add_problem(problem)
        return None
