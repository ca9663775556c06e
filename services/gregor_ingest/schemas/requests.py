"""The models of request bodies: strict, closed to unknown fields, and the source of their JSON Schemas."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from gregor.jobs.broadcast import BroadcastAudience
from gregor.store import service_keys
from gregor_ingest.auth.rules import SCOPES

from .fields import (
    Email,
    Language,
    Name,
    Networks,
    OneOrMore,
    Prefixes,
    Reason,
    SystemPrefixes,
    TimeUs,
    UserId,
    whole_number,
)

MAX_PRESENCES: Final = 1_000
"""Users that one call for presence may name."""
MAX_SPREAD_S: Final = 3_600
"""The longest spread of a reset of all users: an hour of full copies is enough for any fleet."""

MAX_BROADCAST_SPREAD_S: Final = 86_400
"""The longest spread of a broadcast: as long as message ids of external messages are remembered by default."""
MAX_BROADCAST_BYTES: Final = 4_096
"""Bytes of the body of a broadcast. It is stored for each user, and devices should fetch the rest."""


class RequestModel(BaseModel):
    """A request body: strict, and closed to unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class CreateKey(RequestModel):
    """A service key to create."""

    scopes: list[str] = Field(min_length=1, json_schema_extra={"items": {"type": "string", "enum": list(SCOPES)}})
    prefixes: Prefixes | None = Field(None, description="Category prefixes that the key is limited to; by default all.")
    rate: float | None = Field(
        None,
        ge=service_keys.MIN_RATE,
        le=service_keys.MAX_RATE,
        allow_inf_nan=False,
        description="Messages a second; by default unlimited.",
    )
    name: str | None = Field(None, max_length=200, description="A note for people.")
    systems: SystemPrefixes | None = Field(
        None, description="External systems that the key may read and send. By default all; with `prefixes` none."
    )
    expires: TimeUs | None = Field(None, description="When the key stops working; by default never.")
    addresses: Networks | None = Field(
        None, description="Addresses and networks (CIDR) from which the key may be used; by default all."
    )

    @field_validator("scopes")
    @classmethod
    def _are_scopes(cls, scopes: list[str]) -> list[str]:
        unknown = [scope for scope in scopes if scope not in SCOPES]
        if unknown:
            raise ValueError(f"{unknown[0][:64]!r} is not a scope; use {', '.join(SCOPES)}.")
        return sorted(set(scopes))


class CreateTicket(RequestModel):
    """A ticket to create: for the own stream of a device token, or for an observer with a service key."""

    category_prefix: OneOrMore | None = Field(None, description="Only categories under these prefixes.")
    systems: SystemPrefixes | None = Field(None, description="Only external messages of these systems.")
    uid: UserId | None = Field(None, description="The user to observe (keys only).")
    device: Name | None = Field(
        None, description="The device whose view to observe (keys only); by default every item."
    )
    observe: bool = Field(False, description="Open the stream as an observer: no presence, no acks (keys only).")


class RevokeTokens(RequestModel):
    """The device tokens to revoke."""

    device: Name | None = Field(None, description="Only tokens of this device; by default all.")
    issued_before: TimeUs | None = Field(
        None,
        description="Only tokens with `iat` up to this time. The default is 30 s ahead of now, because the clock of "
        "the login service may be ahead. A token that is issued in these 30 s is refused, too.",
    )
    delayed: bool = Field(False, description="Cancel delayed messages of only these tokens at once, not at their time.")


class PresenceQuery(RequestModel):
    """The users whose presence to read."""

    uids: list[UserId] = Field(max_length=MAX_PRESENCES)


class ResetAllUsers(RequestModel):
    """A reset of all users."""

    spread: Annotated[int, Field(ge=0, le=MAX_SPREAD_S), BeforeValidator(whole_number)] | None = Field(
        None, description="Seconds over which devices get full copies; by default the setting FLUSH_SPREAD."
    )
    id: Name | None = Field(None, description="Id of the job: a repeat resets nothing again. By default random.")


class Broadcast(RequestModel):
    """An external message to many users."""

    system: str = Field(description="The external system; not `gregor`.")
    body: Any = Field(description=f"Any JSON value of up to {MAX_BROADCAST_BYTES} bytes.")
    spread: Annotated[int, Field(ge=0, le=MAX_BROADCAST_SPREAD_S), BeforeValidator(whole_number)] | None = Field(
        None, description="Seconds from the first to the last user; by default the setting FLUSH_SPREAD."
    )
    audience: BroadcastAudience = Field(
        "online", description="`online`: users with a connection in the last five minutes. `all`: every known user."
    )
    id: Name | None = Field(None, description="Id of the job: a repeat sends nothing again. By default random.")


class StartJob(RequestModel):
    """A job to start."""

    kind: Literal["audit"] = Field(description="`audit`: compare the digests of all known users with their items.")
    id: Name | None = Field(None, description="Id of the job: a repeat starts no second one. By default random.")


class SuppressAddress(RequestModel):
    """An address that gets no more e-mail."""

    email: Email
    reason: Reason = Field("manual", description="A word: `bounce`, `complaint`, or your own.")


class ReleaseAddress(RequestModel):
    """An address that may get e-mail again."""

    email: Email | None = Field(None, description="By default the query parameter `email`.")


class EmptyBody(RequestModel):
    """An empty object, or no body at all."""


class RollbackCategories(RequestModel):
    """The version of the categories to restore."""

    version: Annotated[int, Field(ge=1), BeforeValidator(whole_number)] = Field(
        description="One of the last 50 versions."
    )


class PreviewItem(RequestModel):
    """The item to render."""

    body: Any = Field(None, description="The body of an item of this category.")
    locale: Language | None = None
