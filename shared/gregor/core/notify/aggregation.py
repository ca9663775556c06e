"""Aggregation: many items of one category and ``for_device`` become one summary (semantics.md, "Aggregation"). Pure.

The summary's id is derived from the ids of its items, so two schedulers make the same one, unless that id was used
before. Its ``created`` is that of its newest item: a dismissal up to the newest item on a client's screen also
dismisses the summary. A later aggregation includes the previous summary.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import islice
from typing import Annotated, Any, Final

import msgspec
from msgspec.structs import replace

from gregor.core.categories.policy import AggregationPolicy, CategoryPolicy
from gregor.core.errors import Problem
from gregor.core.items.codec import body_json, item_json
from gregor.core.items.digest import leaf
from gregor.core.items.sync import LiveItem
from gregor.core.json_text import MAX_INTEGER, canonical_json, decode_json, decode_published
from gregor.core.limits import SECOND_US, Limits
from gregor.core.messages.fingerprint import fingerprint
from gregor.core.messages.model import Commit, Creation, NewItem, RemovalReason
from gregor.core.times import parse_time

from . import escalation

_PREFIX: Final = "summary:"
_HEX_DIGITS: Final = 40


class InvalidSummary(ValueError):
    """A value is not a valid body of a summary."""


class _Sample(msgspec.Struct):
    id: str
    body: msgspec.Raw


class _Summary(msgspec.Struct):
    count: Annotated[int, msgspec.Meta(ge=2, le=MAX_INTEGER)]
    since: int | float
    sample: list[_Sample]


class _SummaryBody(msgspec.Struct):
    summary: _Summary


_decode_summary: Final = msgspec.json.Decoder(_SummaryBody, float_hook=float).decode


# ---- selection


def is_summary(item_id: str) -> bool:
    """Return whether an id is one that an aggregation derives."""
    return item_id.startswith(_PREFIX) and len(item_id) == len(_PREFIX) + _HEX_DIGITS


def summary_id(ids: Iterable[str], salt: bytes = b"") -> str:
    """Return the id of the summary of these items. ``salt``: random, for an id that no client can create before."""
    return _PREFIX + sha256("\0".join(sorted(ids)).encode() + salt).hexdigest()[:_HEX_DIGITS]


def aggregatable_items(items: Sequence[LiveItem], aggregate: AggregationPolicy, now_us: int) -> list[LiveItem]:
    """Return the items that a window aggregates at its end; none if they are too few, or nothing is new."""
    visible = [item for item in items if not item.hidden_by and not item.is_expired(now_us)]
    is_new = len(visible) > 1 and any(not is_summary(item.id) for item in visible)
    weight = sum(aggregate.at_least if is_summary(item.id) else 1 for item in visible)
    return visible if is_new and weight >= aggregate.at_least else []


def aggregator_input(items: Sequence[LiveItem]) -> list[dict[str, Any]]:
    """Return the items for an aggregator: as clients get them, with their ``id``, oldest first."""
    return [{"id": item.id, **decode_published(item.json)} for item in _oldest_first(items)]


# ---- bodies


def summary_body(items: Sequence[LiveItem], keep: int, limits: Limits) -> bytes:
    """Return the default body: the count, the earliest time, and as many of the newest items as fit."""
    plain: list[LiveItem] = []
    earlier: list[_Summary] = []
    since_us: list[int] = []
    for item in reversed(_oldest_first(items)):
        summary = _earlier_summary(item)
        if summary is None:
            plain.append(item)
            since_us.append(item.created_us)
        else:
            earlier.append(summary)
            since_us.append(parse_time(summary.since, "/summary/since"))
    count = min(MAX_INTEGER, len(plain) + sum(summary.count for summary in earlier))
    head = {"count": count, "sample": [], "since": _seconds(min(since_us))}
    before, _, after = canonical_json({"summary": head}).partition(b"[]")
    room = limits.body_bytes - len(before) - len(after) - len(b"[]")
    return b"%b[%b]%b" % (before, _fitting(islice(_samples(plain, earlier), keep), room), after)


def _samples(plain: Iterable[LiveItem], earlier: Iterable[_Summary]) -> Iterator[bytes]:
    """Yield the canonical JSON of each sample; the samples of earlier summaries come last."""
    # Bodies are stored in canonical JSON. Decoding and encoding 1 MiB of them would stop the event loop for a second.
    for item in plain:
        yield b'{"body":%b,"id":%b}' % (body_json(item.json), canonical_json(item.id))
    for summary in earlier:
        for sample in summary.sample:
            yield b'{"body":%b,"id":%b}' % (bytes(sample.body), canonical_json(sample.id))


def _fitting(samples: Iterable[bytes], room: int) -> bytes:
    """Return the first samples that fit into ``room`` bytes, joined by commas."""
    taken: list[bytes] = []
    for sample in samples:
        room -= len(sample) + (1 if taken else 0)
        if room < 0:
            break
        taken.append(sample)
    return b",".join(taken)


def validate_summary_body(made: object, limits: Limits) -> bytes:
    """Return the body that an aggregator made. Raises ``InvalidSummary`` if it is not a JSON object, or too large."""
    if not isinstance(made, dict):
        raise InvalidSummary("the body is not an object")
    try:
        body = canonical_json(decode_json(json.dumps(made).encode(), limits))
    except (TypeError, ValueError, RecursionError, Problem) as error:
        raise InvalidSummary(f"the body is not valid JSON: {error}") from error
    if len(body) > limits.body_bytes:
        raise InvalidSummary(f"the body has {len(body)} bytes, more than {limits.body_bytes}")
    return body


# ---- the commit


def aggregation_commit(
    items: Sequence[LiveItem], body: bytes, policy: CategoryPolicy, now_us: int, epoch_seed: bytes, salt: bytes = b""
) -> Commit:
    """Return the commit that replaces ``items`` by one summary. It changes nothing if one of them is gone.

    It changes nothing either if the summary is ignored: its id was used before, or it is dismissed. ``salt``: see
    ``summary_id``.
    """
    return Commit(
        now_us,
        epoch_seed,
        creations=(_summary(items, body, policy, now_us, salt),),
        ids=tuple(item.id for item in items),
        reason=RemovalReason.AGGREGATED,
        is_conditional=True,
    )


def _summary(items: Sequence[LiveItem], body: bytes, policy: CategoryPolicy, now_us: int, salt: bytes) -> Creation:
    first = items[0]
    created_us = max(item.created_us for item in items)
    ends = [item.expires_us for item in items if item.expires_us is not None]
    expires_us = max(ends) if len(ends) == len(items) else None
    name = summary_id((item.id for item in items), salt)
    made = NewItem(name, first.category, created_us, expires_us, (), first.for_device, body)
    text = item_json(body, made.category, made.for_device or "", created_us, expires_us, ())
    creation = Creation(
        id=made.id,
        category=made.category,
        for_device=made.for_device,
        created_us=created_us,
        # As if set by the server: a moved horizon must not make the summary stale.
        is_stamped=True,
        expires_us=expires_us,
        remind_at_us=(),
        fingerprint=fingerprint(made),
        leaf=leaf(made.id, text),
        body=body,
        json=text,
    )
    return replace(creation, timers=escalation.item_timers(policy, expires_us, now_us, is_summary=True))


def _earlier_summary(item: LiveItem) -> _Summary | None:
    """Return the content of a default summary; ``None`` for any other item: a client can choose any id and body."""
    if not is_summary(item.id):
        return None
    try:
        summary = _decode_summary(body_json(item.json)).summary
        parse_time(summary.since, "/summary/since")
    except (msgspec.DecodeError, Problem):
        return None  # the body of an aggregator, or of a client that chose such an id: an item like any other
    return summary


def _oldest_first(items: Sequence[LiveItem]) -> list[LiveItem]:
    return sorted(items, key=lambda item: (item.created_us, item.id))


def _seconds(at_us: int) -> int | float:
    return at_us // SECOND_US if at_us % SECOND_US == 0 else at_us / SECOND_US
