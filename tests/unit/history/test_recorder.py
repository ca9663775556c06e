"""The recorder writes what the checker reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gregor.core.items.digest import digest_items
from gregor.core.json_text import canonical_json
from gregor.history.checker import check_file
from gregor.history.recorder import HistoryRecorder, outcome_of

ITEM = {"body": {"n": 1.5}, "category": "mail", "for_device": None, "times": {"created": 1_700_000_000.25}}


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, "ok"), (422, "refused"), (429, "refused"), (503, "unknown"), (None, "unknown")]
)
def test_outcome_by_status(status: int | None, outcome: str) -> None:
    assert outcome_of(status) == outcome


def test_recorded_session_has_no_anomaly(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    digest = digest_items([("a", canonical_json(ITEM))]).hex()
    with HistoryRecorder(file) as recorder:
        recorder.connect("u", "c1", device="phone")
        recorder.frame(
            "u", "c1", '{"system":"gregor","sync":"full","seq":0,"cursor":"000000x-0","digest":"%s"}' % ("0" * 64)
        )
        began = recorder.now()
        live = {"system": "gregor", "seq": 1, "cursor": "00000bx-1", "body": {"create": {"a": ITEM}}}
        recorder.frame("u", "c1", json.dumps(live).encode())
        receipt = {"cursor": "00000b-1", "seq": 1, "created": ["a"], "dismissed": [], "ignored": {}}
        message = {"system": "gregor", "body": {"create": {"a": {"category": "mail", "body": {"n": 1.5}}}}}
        recorder.send("u", message, began, "ok", receipt, durability="replicated")
        began = recorder.now()
        recorder.send("u", {"system": "gregor", "body": {"flush": True}}, began, "unknown", device="phone")
        recorder.forget("u", "tv", began, "refused")
        recorder.read("u", "state", began, "ok", {"cursor": "00000b-1", "digest": digest, "items": {"a": ITEM}})
        recorder.read("u", "history", began, "ok", {"entries": [{"id": "a", "item": ITEM, "seq": 1, "gone": None}]})
        recorder.close_connection("u", "c1", 1001)
        recorder.fault("failover", began, "primary", uids=["v"])

    report = check_file(file)

    assert report.findings == []
    assert (report.users, report.operations) == (1, 9)
