"""Sample pushes for tests of the channels."""

from dataclasses import replace
from typing import Any

from gregor_delivery.channels.contract import PushMessage

NOW_US = 1_457_056_447_000_000
DATA = {"v": 1, "uid": "alice", "kind": "item", "id": "aa", "category": "user.joined", "badge": 3, "cursor": "k3f9-12"}
_PUSH = PushMessage(
    uid="alice",
    device="phone",
    token="a1b2c3",
    topic=None,
    sandbox=False,
    kind="alert",
    title="kbob just joined",
    text="You shared files with bob.",
    sound="default",
    badge=3,
    collapse_id="c0ffee",
    expires_us=None,
    urgent=False,
    data=DATA,
)


def push(**changes: Any) -> PushMessage:
    """Return an alert to alice's phone with `changes`."""
    return replace(_PUSH, **changes)


def withdrawal(**changes: Any) -> PushMessage:
    """Return a background push that withdraws two items, with `changes`."""
    data = {**DATA, "kind": "withdraw", "id": None, "withdraw": ["aa", "bb"]}
    return push(**{"kind": "background", "title": "", "text": "", "sound": None, "data": data, **changes})
