"""Types of single fields, for the models of requests and responses: names, categories, times, languages."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Raw
from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from gregor.core.errors import Problem
from gregor.core.ids import (
    DOTTED,
    MAX_DOTTED_LENGTH,
    MAX_FILTER_PREFIXES,
    NAME,
    USER_ID,
    is_name,
    is_user_id,
    name_error,
    normalize_prefix,
    user_id_error,
)
from gregor.core.notify.contact import is_language_tag
from gregor.core.notify.email_address import MAX_ADDRESS_CHARACTERS, parse_mailbox
from gregor.core.times import format_time, parse_time
from gregor.net.client_address import is_network

# --- JSON Schemas that requests, responses and parameters share

MAX_TIME_S: Final = (1 << 33) - 1
"""The largest time in Unix seconds: the year 2242."""

NAME_SCHEMA: Final = {"type": "string", "pattern": "^" + NAME.pattern.replace(r"\Z", "$")}
USER_ID_SCHEMA: Final = {"type": "string", "pattern": "^" + USER_ID.pattern.replace(r"\Z", "$")}
CATEGORY_SCHEMA: Final = {
    "type": "string",
    "maxLength": MAX_DOTTED_LENGTH,
    "pattern": "^" + DOTTED.pattern.replace(r"\Z", "$"),
}
PREFIX_SCHEMA: Final = {
    "type": "string",
    "maxLength": MAX_DOTTED_LENGTH,
    "pattern": "^(" + DOTTED.pattern.replace(r"\Z", r"\.?") + ")?$",
}
PREFIXES_SCHEMA: Final = {
    "anyOf": [PREFIX_SCHEMA, {"type": "array", "maxItems": MAX_FILTER_PREFIXES, "items": PREFIX_SCHEMA}]
}
LANGUAGE_SCHEMA: Final = {
    "type": "string",
    "maxLength": 35,
    "pattern": "^[A-Za-z0-9]{1,8}([_-][A-Za-z0-9]{1,8})*$",
    "description": "A BCP 47 language tag.",
}
TIME_SCHEMA: Final = {"type": "number", "minimum": 0, "maximum": MAX_TIME_S}

MAX_NETWORKS: Final = 100
"""Networks to which a service key may be limited."""
NO_ADDRESS: Final = "This must be an e-mail address, such as alice@example.com."
_WORD: Final = re.compile(r"^[a-z][a-z0-9_.-]{0,63}\Z")

# --- Fields of responses, and of messages (msgspec)

NameText = Annotated[str, Meta(pattern=NAME_SCHEMA["pattern"])]
"""A device or an id."""
UserIdText = Annotated[str, Meta(pattern=USER_ID_SCHEMA["pattern"])]
CategoryText = Annotated[str, Meta(pattern=CATEGORY_SCHEMA["pattern"], max_length=MAX_DOTTED_LENGTH)]
PrefixText = Annotated[str, Meta(pattern=PREFIX_SCHEMA["pattern"], max_length=MAX_DOTTED_LENGTH)]
Count = Annotated[int, Meta(ge=0)]
JsonTime = Annotated[Raw, Meta(description="Unix seconds, whole or decimal.", extra_json_schema=TIME_SCHEMA)]
"""A time, already encoded: ``format_time`` writes whole seconds without a decimal point."""
CursorText = Annotated[
    str, Meta(pattern="^[^-]{1,24}-[0-9]+$", description="An opaque position: send it back unchanged.")
]
DigestText = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="The digest of exactly these items.")]


def json_time(at_us: int) -> Raw:
    """Encode Unix microseconds as seconds."""
    return Raw(format_time(at_us))


def json_time_or_null(at_us: int | None) -> Raw | None:
    """Encode Unix microseconds as seconds; ``None`` becomes null."""
    return None if at_us is None else Raw(format_time(at_us))


# --- Fields of requests (pydantic)


def _name(value: Any) -> Any:
    if not is_name(value):
        raise PydanticCustomError("invalid_id", "{reason}", {"reason": name_error(value)})
    return value


def _user_id(value: Any) -> Any:
    if not is_user_id(value):
        raise PydanticCustomError("invalid_id", "{reason}", {"reason": user_id_error(value)})
    return value


def _prefix(value: Any) -> Any:
    normal = normalize_prefix(value)
    if normal is None:
        detail = 'A category prefix has dotted segments, such as user.joined, or is "" for all.'
        raise PydanticCustomError("invalid_id", detail)
    return normal


def _system_prefix(value: Any) -> Any:
    normal = normalize_prefix(value)
    if normal is None:
        detail = 'A system has dotted segments, such as kbfs.favorites, or is "" for all.'
        raise PydanticCustomError("invalid_id", detail)
    return normal


def _time_us(value: Any) -> Any:
    try:
        return parse_time(value, "")
    except Problem as problem:
        code = "time_out_of_range" if problem.code == "time_out_of_range" else "value_error"
        raise PydanticCustomError(code, problem.errors[0].detail) from None


def _language(value: Any) -> Any:
    if not isinstance(value, str) or not is_language_tag(value):
        raise PydanticCustomError("value_error", "This must be a language tag, such as it-IT.")
    return value


def _email(value: Any) -> Any:
    if not isinstance(value, str) or parse_mailbox(value) is None:
        raise PydanticCustomError("value_error", NO_ADDRESS)
    return value


def _reason(value: Any) -> Any:
    if not isinstance(value, str) or not _WORD.match(value):
        raise PydanticCustomError("value_error", "This must be a word of lower-case letters, such as bounce.")
    return value


def _network(value: Any) -> Any:
    if not isinstance(value, str) or not is_network(value):
        detail = "This must be an address or a network without bits below its mask, such as 192.0.2.0/24."
        raise PydanticCustomError("value_error", detail)
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


# FastAPI accepts yes, on and 1 for a boolean; the OpenAPI document allows only true and false.
def _flag(value: Any) -> Any:
    if value not in ("true", "false", True, False):
        raise PydanticCustomError("value_error", "This must be true or false.")
    return value in ("true", True)


def whole_number(value: Any) -> Any:
    """Accept 2.0 as the integer 2, because JSON has one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _page_size(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"-?(0|[1-9][0-9]{0,8})", value, re.ASCII):
        raise PydanticCustomError("value_error", "This must be a whole number without leading zeros.")
    return value


Name = Annotated[str, BeforeValidator(_name), WithJsonSchema(dict(NAME_SCHEMA))]
UserId = Annotated[str, BeforeValidator(_user_id), WithJsonSchema(dict(USER_ID_SCHEMA))]
Prefix = Annotated[str, BeforeValidator(_prefix), WithJsonSchema(dict(PREFIX_SCHEMA))]
TimeUs = Annotated[int, BeforeValidator(_time_us), WithJsonSchema(dict(TIME_SCHEMA))]
Prefixes = Annotated[list[Prefix], Field(max_length=MAX_FILTER_PREFIXES)]
SystemPrefix = Annotated[str, BeforeValidator(_system_prefix), WithJsonSchema(dict(PREFIX_SCHEMA))]
SystemPrefixes = Annotated[list[SystemPrefix], Field(max_length=MAX_FILTER_PREFIXES)]
OneOrMore = Annotated[Prefixes, BeforeValidator(_as_list), WithJsonSchema(dict(PREFIXES_SCHEMA))]
Networks = Annotated[
    list[Annotated[str, BeforeValidator(_network), WithJsonSchema({"type": "string", "format": "cidr"})]],
    Field(min_length=1, max_length=MAX_NETWORKS),
]
Email = Annotated[str, BeforeValidator(_email), WithJsonSchema({"type": "string", "maxLength": MAX_ADDRESS_CHARACTERS})]
Reason = Annotated[
    str, BeforeValidator(_reason), WithJsonSchema({"type": "string", "pattern": _WORD.pattern.replace(r"\Z", "$")})
]
Flag = Annotated[bool, BeforeValidator(_flag)]
"""A query parameter that is ``true`` or ``false``; other spellings, such as ``1``, are refused."""
MAX_PAGE_SIZE: Final = 1_000
PageSize = Annotated[int, Field(ge=1, le=MAX_PAGE_SIZE), BeforeValidator(_page_size)]
Language = Annotated[str, BeforeValidator(_language), WithJsonSchema(dict(LANGUAGE_SCHEMA))]
Platform = Literal["ios", "android", "web", "desktop"]
