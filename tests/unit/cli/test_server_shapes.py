"""Answers of every type at every place: each command ends with its documented status, one line, and no escapes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import write_certificate
from tests.support.scripted_ingest import ScriptedIngest
from tests.unit.cli.running import run

STRANGE = (None, -1e300, "\x1b]0;x\x07\x9b2J\u202e\ud800", {"\x1b": "\x1b"})
"""Values of several types: a time beyond every calendar, and texts that would steer a terminal."""
ITEM = {"times": {"created": 1457056457}, "for_device": None, "category": "mail", "body": {"a": 1}}
GONE = {"reason": "dismissed", "at": 1457056457, "device": "phone", "seq": 7}
RECEIPT = {"id": "m", "seq": 7, "created": ["a"], "dismissed": ["b"], "ignored": {"c": "conflict"}, "unchanged": False}
DELIVERY = {"intent": "remind", "n": 1, "channel": "apns", "device": "phone", "at": 1457056457, "reason": "late"}
JOB = {
    "id": "j",
    "kind": "audit",
    "state": "done",
    "done": 1,
    "total": 2,
    "created": 1457056457,
    "changed": 1457056458,
    "reason": None,
    "result": {"sent": 7},
}
KEY = {"id": "k", "scopes": ["read"], "prefixes": ["mail"], "rate": 1.5, "expires": 7, "last_used": 7, "name": "n"}
ENTRY = {"title": "Mail", "push": {"after": "1m"}, "email": {"after": "1h", "subject": "Mail"}}
LETTER = {
    **DELIVERY,
    "uid": "alice",
    "item": "a",
    "webhook": None,
    "id": "d",
    "attempts": [{"status": 500, "detail": "no"}],
}
PROCESS = {"service": "ingest", "release": "1", "reads": [1, 2], "writes": 1, "blocks": False, "process": "p"}
EVENT = {
    "at": 1457056457,
    "key": "k",
    "act": "send",
    "target": {"uid": "alice"},
    "outcome": "ok",
    "client": None,
    "request_id": "r",
}
COMMANDS: dict[tuple[str, ...], dict[str, Any]] = {
    ("send", "alice", "--category", "mail"): RECEIPT,
    ("send", "alice", "--category", "mail", "--not-before", "+1h"): {"id": "m", "not_before": 1457056457},
    ("send", "alice", "--category", "mail", "--dry-run"): {**RECEIPT, "deliveries": [DELIVERY], "warnings": ["w"]},
    ("snooze", "alice", "a", "--for", "1h"): {"item": ITEM, "gone": None, "id": "m"},
    ("snooze", "alice", "b", "--for", "1h"): {"item": ITEM, "gone": GONE},
    ("state", "alice"): {"items": {"a": ITEM}, "badge": 1},
    ("state", "alice", "--json"): {"items": {"a": ITEM}, "badge": 1},
    ("history", "alice"): {"entries": [{"id": "a", "item": ITEM, "gone": GONE}]},
    ("devices", "alice"): {"devices": {"phone": {"platform": "ios", "online": False, "last_seen": 1457056457}}},
    ("jobs", "list"): {"jobs": [JOB]},
    ("jobs", "wait", "j"): JOB,
    ("keys", "list"): {"keys": [KEY]},
    ("keys", "create", "--scope", "read"): {"key": "gk_a_b"},
    ("keys", "delete", "k"): {"keys": [KEY]},
    ("categories", "list"): {"categories": {"mail": ENTRY}, "version": 1},
    ("categories", "show", "mail"): {"categories": {"mail": ENTRY}, "version": 1},
    ("categories", "preview", "mail"): {"title": "a", "text": None, "warnings": ["w"]},
    ("categories", "rollback", "1"): {"version": 2},
    ("audit",): {"entries": [EVENT]},
    ("dead", "list"): {"entries": [LETTER]},
    ("dead", "replay", "d"): {"id": "d"},
    ("dead", "purge", "--all"): {"purged": 1},
    ("upgrade", "status"): {"state": "possible", "written": 1, "newest": 2, "oldest": 0, "processes": [PROCESS]},
}


def variants(value: Any) -> Iterator[Any]:
    """Yield the document with each of its values replaced, and each member left out."""
    yield from STRANGE
    if isinstance(value, dict):
        for name, member in value.items():
            yield {other: kept for other, kept in value.items() if other != name}
            for variant in variants(member):
                yield {**value, name: variant}
    elif isinstance(value, list):
        for place, member in enumerate(value):
            for variant in variants(member):
                yield [*value[:place], variant, *value[place + 1 :]]


@pytest.mark.parametrize(("command", "answer"), COMMANDS.items(), ids=[" ".join(command) for command in COMMANDS])
def test_answer_of_any_shape_is_output_or_one_line(
    ingest: ScriptedIngest,
    command: tuple[str, ...],
    answer: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    # Each call reads the trusted authorities; the system's would take most of the time.
    monkeypatch.setenv("SSL_CERT_FILE", str(write_certificate(tmp_path)))
    monkeypatch.setattr("gregor.cli.commands.jobs.POLL_S", 0.0)
    failed = 2 if command == ("upgrade", "status") else 1
    for variant in (answer, *variants(answer)):
        # Only two answers: a job that is never over would be polled without end.
        ingest.next, ingest.status, ingest.answer = [(200, variant)] * 2, 500, {}

        status = run(*command)

        output = capsys.readouterr()
        assert status in (0, 1, failed), variant
        assert status or output.out or command[:2] == ("keys", "delete"), variant
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(output.out + output.err), variant
        assert "Traceback" not in output.err, variant
