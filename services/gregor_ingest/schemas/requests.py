"""What ordinary requests may say, and the checks of each field. Times and names as in semantics.md, "Words"."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator
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
from gregor.core.times import parse_time
from gregor_ingest.auth import SCOPES

MOST_PRESENCES = 1_000
"""Users that one call for presence may name."""
MOST_SPREAD_S = 3_600
"""Longest spread of a flush of all: an hour of full copies is enough for any fleet."""

NO_ADDRESS: Final = "An e-mail address is expected here, such as alice@example.com."
_WORD: Final = re.compile(r"^[a-z][a-z0-9_.-]{0,63}\Z")

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
        raise PydanticCustomError("invalid_id", 'A prefix is dotted segments, such as user.joined, or "" for all.')
    return normal


def _time_us(value: Any) -> Any:
    try:
        return parse_time(value, "")
    except Problem as problem:
        code, detail = problem.code, problem.errors[0].detail
        raise PydanticCustomError(
            "time_out_of_range" if code == "time_out_of_range" else "value_error", detail
        ) from None


def _language(value: Any) -> Any:
    if not isinstance(value, str) or not is_language_tag(value):
        raise PydanticCustomError("value_error", "A language tag is expected here, such as it-IT.")
    return value


def _email(value: Any) -> Any:
    if not isinstance(value, str) or parse_mailbox(value) is None:
        raise PydanticCustomError("value_error", NO_ADDRESS)
    return value


def _reason(value: Any) -> Any:
    if not isinstance(value, str) or not _WORD.match(value):
        raise PydanticCustomError("value_error", "A word of small letters is expected here, such as bounce.")
    return value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _flag(value: Any) -> Any:
    if value not in ("true", "false", True, False):
        raise PydanticCustomError("value_error", "true or false is expected here.")
    return value in ("true", True)


def _whole(value: Any) -> Any:
    """2.0 is the integer 2, as JSON has one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Name = Annotated[str, BeforeValidator(_name), WithJsonSchema(dict(NAME_SCHEMA))]
UserId = Annotated[str, BeforeValidator(_user_id), WithJsonSchema(dict(USER_ID_SCHEMA))]
Prefix = Annotated[str, BeforeValidator(_prefix), WithJsonSchema(dict(PREFIX_SCHEMA))]
TimeUs = Annotated[
    int, BeforeValidator(_time_us), WithJsonSchema({"type": "number", "minimum": 0, "maximum": (1 << 33) - 1})
]
Prefixes = Annotated[list[Prefix], Field(max_length=MAX_FILTER_PREFIXES)]
OneOrMore = Annotated[Prefixes, BeforeValidator(_listed), WithJsonSchema(dict(PREFIXES_SCHEMA))]
Email = Annotated[str, BeforeValidator(_email), WithJsonSchema({"type": "string", "maxLength": MAX_ADDRESS_CHARACTERS})]
Reason = Annotated[
    str, BeforeValidator(_reason), WithJsonSchema({"type": "string", "pattern": _WORD.pattern.replace(r"\Z", "$")})
]
Flag = Annotated[bool, BeforeValidator(_flag)]
"""A query parameter that is `true` or `false`, and nothing that looks like it."""
Whole = Annotated[int, BeforeValidator(_whole)]
Language = Annotated[str, BeforeValidator(_language), WithJsonSchema(dict(LANGUAGE_SCHEMA))]


class RequestModel(BaseModel):
    """A request body: strict, and without unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class NewKey(RequestModel):
    """A service key to be made."""

    scopes: list[str] = Field(min_length=1, json_schema_extra={"items": {"type": "string", "enum": list(SCOPES)}})
    prefixes: Prefixes | None = Field(None, description="Category prefixes that the key is limited to.")
    rate: float | None = Field(None, gt=0, le=1_000_000, description="Messages a second; absent: unlimited.")
    name: str | None = Field(None, max_length=200, description="A note for people.")

    @field_validator("scopes")
    @classmethod
    def _are_scopes(cls, scopes: list[str]) -> list[str]:
        unknown = [scope for scope in scopes if scope not in SCOPES]
        if unknown:
            raise ValueError(f"{unknown[0][:64]!r} is no scope; there are {', '.join(SCOPES)}.")
        return sorted(set(scopes))


class CreateTicket(RequestModel):
    """A ticket to be made: of a device token for its own stream, or of a key to observe."""

    category_prefix: OneOrMore | None = Field(None, description="Only categories under these prefixes.")
    systems: Prefixes | None = Field(None, description="Only external messages of these systems.")
    uid: UserId | None = Field(None, description="Whom to observe (keys only).")
    device: Name | None = Field(None, description="Whose view to observe (keys only); absent: every item.")
    observe: bool = Field(False, description="A stream that is no presence and sends no ack (keys only).")


class RevokeTokens(RequestModel):
    """Which tokens of a user are void."""

    device: Name | None = Field(None, description="Of this device only; absent: of all.")
    issued_before: TimeUs | None = Field(None, description="Tokens with `iat` up to this moment; absent: up to now.")


class PresenceQuery(RequestModel):
    """Whose presence is asked for."""

    uids: list[UserId] = Field(max_length=MOST_PRESENCES)


class ResetAllUsers(RequestModel):
    """How a flush of all users is spread."""

    spread: Annotated[Whole, Field(ge=0, le=MOST_SPREAD_S)] | None = Field(
        None, description="Seconds over which the full copies go out; absent: the setting FLUSH_SPREAD."
    )


class SuppressAddress(RequestModel):
    """An address that is to get no more mail."""

    email: Email
    reason: Reason = Field("manual", description="A word: `bounce`, `complaint`, or one of your own.")


class ReleaseAddress(RequestModel):
    """The address that may get mail again."""

    email: Email | None = Field(None, description="Absent: the query names it.")


class EmptyBody(RequestModel):
    """A body that says nothing: `{}`, or none at all."""


Platform = Literal["ios", "android", "web", "desktop"]
