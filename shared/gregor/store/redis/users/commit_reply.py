"""The reply of the script ``commit``, as a receipt or a problem. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from gregor.core.errors import Problem
from gregor.core.limits import MAX_HIDINGS, Limits
from gregor.core.messages.cost import EXTRA_BYTES_PER_UNIT, REDIS_UNIT_NS, REDIS_UNITS
from gregor.core.messages.model import Commit, IgnoredReason, Receipt
from gregor.store.contract.devices import revoked_token

FAST_BYTES: Final = 9
"""Length of a fast path's reply: epoch 3, seq 5, result 1. More follows only if ``collect`` must run."""

_BOUNDS: Final[dict[bytes, tuple[str, str | None]]] = {
    b"ids": ("remembered dismissals of unknown ids", "tombstones"),
    b"intervals": ("remembered intervals", "spans"),
    b"prefix": ("remembered intervals for one category or prefix", "spans_per_prefix"),
    b"skips": ("skipped ids in remembered intervals", "skipped"),
    b"messages": ("remembered message ids", "message_ids"),
    b"devices": ("dismissals by single devices", "device_dismissals"),
    b"hidings": ("devices that dismissed one item", None),
    b"senders": ("devices that dismissed one unknown id", None),
}
"""What the script counted, and the field of ``Limits`` that bounds it (None: ``MAX_HIDINGS``)."""

_FIXED_MEMBERS: Final = {b"ok": 7, b"same": 7, b"full": 3, b"tombs": 3, b"page": 4}
"""Number of members of a reply that always exist, by status; the bytes to charge may follow."""

_CREATED, _DISMISSED, _DUPLICATE, _NOTHING = b"cdps"


def receipt_fast(commit: Commit, reply: bytes) -> Receipt:
    """Return the receipt of a fast path's reply: epoch, seq, and the result for its one id."""
    epoch, seq, what = reply[:3], int.from_bytes(reply[3:8], "big"), reply[8]
    if what == _CREATED:
        return Receipt(epoch, seq, False, (commit.creations[0].id,))
    if what == _DISMISSED:
        return Receipt(epoch, seq, False, (), commit.ids)
    if what == _NOTHING:
        return Receipt(epoch, seq, True)
    why = IgnoredReason.DUPLICATE if what == _DUPLICATE else IgnoredReason.CONFLICT
    return Receipt(epoch, seq, is_unchanged=True, ignored=((commit.creations[0].id, why),))


def receipt_general(reply: Sequence[Any], searched_bytes: int = 0) -> Receipt:
    """Return the receipt of the general path's reply: status, epoch, seq, created, dismissed, ignored, hint.

    A rehearsal adds the devices that hide each created item. The bytes to charge come last, if there are any.
    ``searched_bytes``: the bytes to charge for the search before it.
    """
    what, epoch, seq, created, dismissed, ignored = reply[:6]
    words = [word.decode() for word in ignored]
    rest = reply[7:]
    hidings = zip(created, rest[0], strict=True) if rest and not isinstance(rest[0], int) else ()
    return Receipt(
        epoch,
        seq,
        is_unchanged=what == b"same",
        created=tuple(item_id.decode() for item_id in created),
        dismissed=tuple(item_id.decode() for item_id in dismissed),
        ignored=tuple((words[i], IgnoredReason(words[i + 1])) for i in range(0, len(words), 2)),
        extra_weight=_extra_weight(reply, searched_bytes),
        hidden_by=tuple((item_id.decode(), frozenset(map(bytes.decode, by))) for item_id, by in hidings if by),
    )


def problem_of_reply(reply: Sequence[Any], limits: Limits, searched_bytes: int = 0) -> Problem:
    """Return the problem of a refused commit; nothing was changed. ``searched_bytes``: see ``receipt_general``."""
    problem = _problem(reply, limits)
    problem.extra_weight = _extra_weight(reply, searched_bytes)
    return problem


def _problem(reply: Sequence[Any], limits: Limits) -> Problem:
    if reply[0] == b"reused":
        return Problem("id_reused", "This message id was used before with different content; use a new id.")
    if reply[0] == b"full":
        return Problem(
            "state_full",
            f"The user would have {reply[1]} live items ({reply[2]} bytes of JSON); the most is {limits.live} "
            f"({limits.live_bytes} bytes). Dismiss some first, or in the same message.",
        )
    if reply[0] == b"revoked":
        return revoked_token()
    what, bound = _BOUNDS[reply[1]]
    limit = MAX_HIDINGS if bound is None else getattr(limits, bound)
    detail = f"The user would have {reply[2]} {what}; the most is {limit}. They expire with the retention."
    return Problem("too_many_dismissals", detail)


def charged_ns(reply: Sequence[Any]) -> int:
    """Return the time of Redis that the general path, or a page of a search, charges the sender for.

    0 if the script did not end there.
    """
    return _charged_bytes(reply) * REDIS_UNITS * REDIS_UNIT_NS // EXTRA_BYTES_PER_UNIT


def _charged_bytes(reply: Sequence[Any]) -> int:
    """Return the bytes to charge, the last member of a reply; 0 if it has none."""
    rest = reply[_FIXED_MEMBERS.get(reply[0], len(reply)) :]
    return int(rest[-1]) if rest else 0


def _extra_weight(reply: Sequence[Any], searched_bytes: int) -> int:
    return (_charged_bytes(reply) + searched_bytes) // EXTRA_BYTES_PER_UNIT
