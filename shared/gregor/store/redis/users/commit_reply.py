"""What the script ``commit`` results_of, as a receipt or a problem_of_reply. PURE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from gregor.core.errors import Problem
from gregor.core.limits import Limits
from gregor.core.messages.model import Commit, IgnoredReason, Receipt

FAST_BYTES: Final = 9
"""What a fast path results_of: epoch 3, seq 5, a letter. More follows only where the history is over its bounds."""

_CREATED, _DISMISSED, _DUPLICATE, _NOTHING = b"cdps"


def fast_receipt(commit: Commit, reply: bytes) -> Receipt:
    """A fast path results_of nine bytes: epoch, seq, and what happened to the one id it was about."""
    epoch, seq, what = reply[:3], int.from_bytes(reply[3:8], "big"), reply[8]
    if what == _CREATED:
        return Receipt(epoch, seq, False, (commit.creations[0].id,))
    if what == _DISMISSED:
        return Receipt(epoch, seq, False, (), commit.ids)
    if what == _NOTHING:
        return Receipt(epoch, seq, True)
    why = IgnoredReason.DUPLICATE if what == _DUPLICATE else IgnoredReason.CONFLICT
    return Receipt(epoch, seq, is_unchanged=True, ignored=((commit.creations[0].id, why),))


def general_receipt(reply: Sequence[Any]) -> Receipt:
    """The general path results_of in full: what it was, epoch, seq, created, dismissed, ignored."""
    what, epoch, seq, created, dismissed, ignored = reply[:6]
    words = [word.decode() for word in ignored]
    return Receipt(
        epoch,
        seq,
        is_unchanged=what == b"same",
        created=tuple(item_id.decode() for item_id in created),
        dismissed=tuple(item_id.decode() for item_id in dismissed),
        ignored=tuple((words[i], IgnoredReason(words[i + 1])) for i in range(0, len(words), 2)),
    )


def problem_of_reply(reply: Sequence[Any], limits: Limits) -> Problem:
    """The problem_of_reply that a script's answer stands for; nothing was changed."""
    if reply[0] == b"reused":
        return Problem("id_reused", "This message id was used before, with other content; send a fresh one.")
    if reply[0] == b"full":
        return Problem(
            "state_full",
            f"The user would have {reply[1]} live items ({reply[2]} bytes of JSON); the most is {limits.live} "
            f"({limits.live_bytes} bytes). Dismiss some first, or in the same message.",
        )
    what = {b"ids": "dismissals of unknown ids", b"prefix": "intervals for one category or prefix"}
    detail = f"The user would have {reply[2]} remembered {what.get(reply[1], 'intervals')}, more than are kept."
    return Problem("too_many_dismissals", detail)
