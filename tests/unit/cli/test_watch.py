"""What `gregor watch` says of each change."""

import pytest

from gregor.cli.user_commands import time_text
from gregor.cli.watch import in_words
from gregor.client.changes import (
    Change,
    Created,
    Dismissed,
    ExternalGap,
    ExternalReceived,
    FlushAnnounced,
    MessageRefused,
    Reminded,
    Stopped,
    Synced,
)

ITEM = {"times": {"created": 1457056447}, "for_device": "phone", "category": "user.joined", "body": {"a": "è"}}
ROW = f"aa  {time_text(1457056447)}  user.joined  phone  " + '{"a": "è"}'


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (Created("aa", ITEM), f"+ {ROW}"),
        (Dismissed("aa", ITEM), "- aa"),
        (Dismissed("aa", ITEM, "expired"), "- aa  (expired)"),
        (Reminded("aa", ITEM, 1457056447), f"! {ROW}"),
        (ExternalReceived("kbfs.favorites", 3, {"x": 1}), '> kbfs.favorites  {"x": 1}'),
        (ExternalGap(), "x ExternalGap"),
        (Synced("delta"), "= delta"),
        (Synced("delta", is_proven=False), "= delta, but the copies differ: fetching a new one"),
        (FlushAnnounced(30), "~ flush: a full copy comes within 30 s"),
        (MessageRefused(1, {"code": "state_full"}), "x refused: state_full"),
        (Stopped(4502, "revoked"), "x closed: 4502 revoked"),
    ],
)
def test_each_change_is_one_line(change: Change, line: str) -> None:
    assert in_words(change) == line
