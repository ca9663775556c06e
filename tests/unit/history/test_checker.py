"""The checker on short histories written by hand: each anomaly by name, with the lines of its operations."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from gregor.core.items.digest import digest_items
from gregor.core.json_text import canonical_json
from gregor.history.checker import HistoryReport, check_file
from gregor.history.format import HistoryError

NOW = 1_700_000_000
SECOND = 1_000_000_000
EPOCH = "00000a"
Op = dict[str, Any]


def item(created: float = NOW, category: str = "mail", **times: Any) -> Op:
    """Return an item as a server sends it."""
    return {"body": None, "category": category, "for_device": None, "times": {"created": created, **times}}


def digest(items: dict[str, Op]) -> str:
    return digest_items((item_id, canonical_json(each)) for item_id, each in items.items()).hex()


def create(item_id: str, seq: int, at_s: float, **more: Any) -> Op:
    """Return an acknowledged creation that took 10 ms."""
    message = {"system": "gregor", "body": {"create": {item_id: {"category": "mail", "times": {"created": NOW}}}}}
    receipt = {"cursor": f"{EPOCH}-{seq}", "seq": seq, "created": [item_id], "dismissed": [], "ignored": {}}
    return send(message, receipt, at_s) | more


def send(message: Op, receipt: Op, at_s: float) -> Op:
    at = round(at_s * SECOND)
    op = {"op": "send", "uid": "u", "invoked": at, "ended": at + SECOND // 100, "outcome": "ok", "message": message}
    return {**op, "receipt": receipt}


def state(items: dict[str, Op], seq: int, at_s: float, **more: Any) -> Op:
    at = round(at_s * SECOND)
    answer = {"cursor": f"{EPOCH}-{seq}", "digest": digest(items), "badge": 0, "items": items}
    op = {"op": "read", "uid": "u", "kind": "state", "invoked": at, "ended": at + 1, "outcome": "ok", "answer": answer}
    return {**op, **more}


def history(entries: list[Op], at_s: float) -> Op:
    """Return a read of the whole history."""
    at = round(at_s * SECOND)
    op = {"op": "read", "uid": "u", "kind": "history", "invoked": at, "ended": at + 1, "outcome": "ok"}
    return {**op, "answer": {"entries": entries}}


def frame(conn: str, at_s: float, document: Op) -> Op:
    return {"op": "frame", "uid": "u", "conn": conn, "at": round(at_s * SECOND), "frame": document}


def dismiss(item_id: str, seq: int, at_s: float) -> Op:
    """Return an acknowledged dismissal by id."""
    receipt = {"cursor": f"{EPOCH}-{seq}", "seq": seq, "created": [], "dismissed": [item_id], "ignored": {}}
    return send({"system": "gregor", "body": {"dismiss": {"ids": [item_id]}}}, receipt, at_s)


def live(item_id: str, seq: int) -> Op:
    """Return the live frame of a creation."""
    return {"system": "gregor", "seq": seq, "body": {"create": {item_id: item()}}}


def close(conn: str, at_s: float) -> Op:
    return {"op": "close", "uid": "u", "conn": conn, "at": round(at_s * SECOND)}


def connect(conn: str, at_s: float, device: str = "phone") -> Op:
    return {"op": "connect", "uid": "u", "conn": conn, "at": round(at_s * SECOND), "device": device}


def full(items: dict[str, Op], seq: int) -> Op:
    cursor = f"{EPOCH}aaaaaaaaaa-{seq}"
    return {
        "system": "gregor",
        "sync": "full",
        "seq": seq,
        "cursor": cursor,
        "digest": digest(items),
        "body": {"create": items},
    }


def check(path: Path, *ops: Op, **options: Any) -> HistoryReport:
    """Check a history of these operations; the first one is on line 2."""
    header: Op = {"gregor_history": 1, "wall_us": NOW * 1_000_000, "clock_ns": 0} | options
    file = path / "history.jsonl"
    file.write_text("".join(json.dumps(op) + "\n" for op in (header, *ops)))
    return check_file(file, jobs=1)


def names(report: HistoryReport) -> set[str]:
    return {found.name for found in report.findings}


def test_lost_write_names_message_and_read(tmp_path: Path) -> None:
    report = check(tmp_path, create("a", 1, 1), create("b", 2, 2), state({"a": item()}, 2, 3))

    (found,) = report.findings
    assert (found.name, found.uid, found.lines) == ("lost-write", "u", (3, 4))
    assert "b is missing, created at seq 2 by a message that creates b, sent by the backend" in found.text


def test_sound_history_with_unknown_outcome(tmp_path: Path) -> None:
    unknown = create("b", 0, 2, outcome="unknown", receipt=None)

    applied = check(tmp_path, create("a", 1, 1), unknown, state({"a": item(), "b": item()}, 2, 3))
    not_applied = check(tmp_path, create("a", 1, 1), unknown, state({"a": item()}, 1, 3))

    assert applied.findings == []
    assert not_applied.findings == []


def test_unseen_seq_goes_to_a_message_that_fits(tmp_path: Path) -> None:
    """An old flush of unknown outcome did not happen: the next receipt is of the same epoch."""
    flush = {"system": "gregor", "id": "f", "body": {"flush": True}}
    external = {"system": "chat", "id": "m", "body": 1}
    unknown = [
        send(message, {}, at) | {"outcome": "unknown", "receipt": None} for message, at in ((flush, 2), (external, 4))
    ]

    report = check(tmp_path, create("a", 1, 1), *unknown, create("b", 3, 5), state({"a": item(), "b": item()}, 3, 6))

    assert report.findings == []


def test_repeat_inside_of_the_cluster_is_allowed(tmp_path: Path) -> None:
    # The client of a cluster executes a message again if the connection was lost before the reply.
    receipt = {"cursor": f"{EPOCH}-1", "seq": 1, "ignored": {"a": "duplicate"}, "unchanged": True}
    after = create("a", 0, 1, receipt=receipt)
    long_before = create("a", 0, 5, receipt=receipt | {"cursor": f"{EPOCH}-2", "seq": 2})
    ops = [connect("c", 0), frame("c", 0.1, full({}, 0)), frame("c", 1.005, live("a", 1))]

    assert check(tmp_path, *ops, after, state({"a": item()}, 1, 3)).findings == []
    assert "aborted-read" in names(check(tmp_path, *ops, create("b", 2, 2), long_before))


def test_refused_message_must_have_no_effect(tmp_path: Path) -> None:
    refused = create("b", 0, 2, outcome="refused", receipt=None)

    report = check(tmp_path, create("a", 1, 1), refused, state({"a": item(), "b": item()}, 2, 3))

    assert "aborted-read" in names(report)


def test_effect_of_unrecorded_writer_is_allowed_if_incomplete(tmp_path: Path) -> None:
    ops = [create("a", 1, 1), create("c", 3, 2)]

    assert names(check(tmp_path, *ops)) == {"hole"}
    assert check(tmp_path, *ops, complete=False).findings == []


def test_read_before_acknowledged_seq_is_regress(tmp_path: Path) -> None:
    both = {"a": item(), "b": item()}

    report = check(tmp_path, create("a", 1, 1), create("b", 2, 2), state({"a": item()}, 1, 3), state(both, 2, 4))

    assert names(report) == {"regress"}


def test_later_request_with_smaller_seq(tmp_path: Path) -> None:
    report = check(tmp_path, create("a", 2, 1), create("b", 1, 2))

    assert "order-vs-time" in names(report)


def test_connected_device_must_get_change(tmp_path: Path) -> None:
    ops = [connect("c", 0), frame("c", 0.1, full({}, 0) | {"cursor": "000000aaaaaaaaaa-0"}), create("a", 1, 1)]

    assert names(check(tmp_path, *ops, state({"a": item()}, 1, 200))) == {"never-seen"}
    assert check(tmp_path, *ops, state({"a": item()}, 1, 20)).findings == [], "there was no time to see it"


def test_device_that_was_away_gets_nothing_late(tmp_path: Path) -> None:
    ops = [connect("c", 0), frame("c", 0.1, full({}, 0)), close("c", 1), create("a", 1, 2)]
    again = connect("d", 200) | {"resumes": "c", "cursor": f"{EPOCH}aaaaaaaaaa-0"}

    assert check(tmp_path, *ops, again, frame("d", 201, full({"a": item()}, 1))).findings == []
    assert names(check(tmp_path, *ops, again, frame("d", 290, full({"a": item()}, 1)))) == {"late"}


def test_fault_extends_the_time_to_see_a_change(tmp_path: Path) -> None:
    first = live("a", 1) | {"cursor": f"{EPOCH}aaaaaaaaaa-1"}
    ops = [connect("c", 0), frame("c", 0.1, full({}, 0)), create("a", 1, 1), frame("c", 100, first)]
    pause = {"op": "fault", "kind": "pause", "began": 0, "ended": 90 * SECOND}

    assert names(check(tmp_path, *ops)) == {"late"}
    assert check(tmp_path, *ops, pause).findings == []


def test_resume_may_leave_out_what_came_and_went(tmp_path: Path) -> None:
    # A long poll that resumes sends no frame for an empty delta: it waits, and then sends the next live frame.
    ops = [connect("c", 0), frame("c", 0.1, full({}, 0)), create("a", 1, 1), frame("c", 1.1, live("a", 1))]
    poll = connect("p", 4) | {"resumes": "c", "cursor": f"{EPOCH}aaaaaaaaaa-1"}
    came = [*ops, close("c", 1.5), create("b", 2, 2), dismiss("b", 3, 3), poll, create("d", 4, 5)]
    external = {"system": "chat", "id": "m", "body": 1}
    receipt = {"cursor": f"{EPOCH}-3", "seq": 3, "created": [], "dismissed": [], "ignored": {}}
    stayed = [*ops, close("c", 1.5), create("b", 2, 2), poll, create("d", 3, 5)]
    other = [*ops, close("c", 1.5), create("b", 2, 2), dismiss("b", 4, 3.5), send(external, receipt, 3), poll]

    assert check(tmp_path, *came, frame("p", 5.1, live("d", 4))).findings == []
    assert names(check(tmp_path, *stayed, frame("p", 5.1, live("d", 3)))) == {"skip"}
    assert names(check(tmp_path, *other, create("d", 5, 5), frame("p", 5.1, live("d", 5)))) == {"skip"}


def test_open_connection_may_not_leave_out_a_change(tmp_path: Path) -> None:
    ops = [connect("c", 0), frame("c", 0.1, full({}, 0)), create("b", 1, 2), dismiss("b", 2, 3), create("d", 3, 5)]

    assert names(check(tmp_path, *ops, frame("c", 5.1, live("d", 3)))) == {"skip"}


def test_gateway_sends_no_empty_delta_after_a_failure(tmp_path: Path) -> None:
    # It lost its subscription and compares each user; the item that came and went is in no frame.
    cut = {"op": "fault", "kind": "swallow", "began": SECOND, "ended": 2 * SECOND}
    ops = [connect("c", 0), frame("c", 0.1, full({}, 0)), cut, create("b", 1, 2), dismiss("b", 2, 3), create("d", 3, 5)]
    stayed = [*ops[:4], create("d", 2, 5), frame("c", 5.1, live("d", 2))]

    assert check(tmp_path, *ops, frame("c", 5.1, live("d", 3))).findings == []
    assert names(check(tmp_path, *stayed)) == {"skip"}, "the delta is not empty"


def test_delayed_message_is_not_committed_early(tmp_path: Path) -> None:
    delayed = create("a", 0, 1, receipt={"id": "m", "not_before": NOW + 50})
    first = live("a", 1) | {"cursor": f"{EPOCH}aaaaaaaaaa-1"}

    def at(at_s: float) -> set[str]:
        return names(check(tmp_path, connect("c", 0), frame("c", 0.1, full({}, 0)), delayed, frame("c", at_s, first)))

    assert at(20) == {"early"}
    assert at(51) == set()


def test_delayed_message_must_be_committed(tmp_path: Path) -> None:
    delayed = create("a", 0, 1, receipt={"id": "m", "not_before": NOW + 5})

    assert names(check(tmp_path, delayed, state({}, 0, 300))) == {"lost-write"}
    assert check(tmp_path, delayed, state({}, 0, 10)).findings == []


def test_dismissal_may_come_before_a_delayed_creation(tmp_path: Path) -> None:
    delayed = create("a", 0, 1, receipt={"id": "m", "not_before": NOW + 5})
    delayed["message"]["body"]["create"]["b"] = {"category": "mail", "times": {"created": NOW}}
    # Nothing shows this dismissal but its effect on the later creation.
    unanswered = dismiss("a", 0, 3) | {"outcome": "unknown", "receipt": None}
    first = live("b", 1) | {"cursor": f"{EPOCH}aaaaaaaaaa-1"}
    ops = [connect("c", 0), frame("c", 0.1, full({}, 0)), delayed, unanswered, frame("c", 6, first)]

    assert check(tmp_path, *ops, state({"b": item()}, 1, 20)).findings == []


def test_receipt_of_a_repeat_hides_an_earlier_execution(tmp_path: Path) -> None:
    interval = {"system": "gregor", "id": "m", "body": {"dismiss": {"intervals": [{"category": "mail"}]}}}
    # The server repeated the message, because the first reply was lost. It had been executed before "a" was created.
    receipt = {"cursor": f"{EPOCH}-1", "seq": 1, "created": [], "dismissed": [], "ignored": {}, "unchanged": True}
    repeated = send(interval, receipt, 2) | {"ended": 4 * SECOND}
    later = create("a", 1, 3)
    later["message"]["body"]["create"]["a"]["times"]["created"] = NOW + 3

    report = check(tmp_path, later, repeated, state({"a": item(NOW + 3)}, 1, 20))

    assert report.findings == []


def test_message_that_a_repeat_proves_comes_before_an_unseen_reminder(tmp_path: Path) -> None:
    """The reminder was due before, but only it can have the later seq."""
    external: Op = {"system": "calls", "id": "m", "body": 1}
    unanswered = {"op": "send", "uid": "u", "invoked": 3 * SECOND, "ended": 4 * SECOND, "outcome": "unknown"}
    repeat = send(external, {"cursor": f"{EPOCH}-2", "seq": 2, "unchanged": True}, 5)
    reminded = create("a", 1, 1)
    reminded["message"]["body"]["create"]["a"]["times"]["remind_at"] = [NOW + 2]

    assert not check(tmp_path, reminded, {**unanswered, "message": external}, repeat, create("b", 4, 6)).findings


def test_failover_excuses_only_its_window(tmp_path: Path) -> None:
    failover = {"op": "fault", "kind": "failover", "began": 10 * SECOND, "ended": 12 * SECOND, "window_s": 1}

    def lost_at(at_s: float, **more: Any) -> HistoryReport:
        ops = [create("a", 1, 1), create("b", 2, at_s, **more), failover, state({"a": item()}, 1, 20)]
        return check(tmp_path, *ops)

    assert names(lost_at(5)) == {"lost-write"}
    assert lost_at(9.5).findings == []
    assert lost_at(9.5).counts["lost-in-failover"] == 1
    receipt = {"cursor": f"{EPOCH}-2", "seq": 2, "created": ["b"], "durability": "replicated"}
    assert names(lost_at(9.5, receipt=receipt)) == {"broken-promise"}


@pytest.mark.parametrize("is_kept", [True, False])
def test_failover_may_keep_or_lose_a_stored_dismissal(is_kept: bool, tmp_path: Path) -> None:
    # The dismissal of an unknown id has no seq, so only the answer to a later creation shows if it survived.
    failover = {"op": "fault", "kind": "failover", "began": 10 * SECOND, "ended": 12 * SECOND}
    unchanged = {"cursor": f"{EPOCH}-3", "seq": 3, "created": [], "dismissed": [], "ignored": {}, "unchanged": True}
    stored = dismiss("b", 3, 11.3) | {"receipt": unchanged}
    again = create("b", 4, 13)
    if is_kept:
        again["receipt"] |= {"created": [], "ignored": {"b": "dismissed"}}
    ops = [create("a", 1, 1), create("x", 2, 9.95), create("c", 2, 11), create("d", 3, 11.2), stored, again, failover]
    live = {"a": item(), "c": item(), "d": item()} | ({} if is_kept else {"b": item()})
    gone = {"at": NOW + 13, "reason": "dismissed", "seq": 4}
    entries: list[Op] = [{"id": i, "item": item(), "seq": seq} for i, seq in (("a", 1), ("c", 2), ("d", 3))]
    entries.append({"id": "b", "item": item(), "seq": 4} | ({"gone": gone} if is_kept else {}))

    report = check(tmp_path, *ops, state(live, 4, 20), history(entries, 21))

    assert report.findings == []
    assert report.counts["lost-in-failover"] == 1


@pytest.mark.parametrize("is_kept", [True, False])
def test_failover_may_keep_or_lose_an_external_message(is_kept: bool, tmp_path: Path) -> None:
    failover = {"op": "fault", "kind": "failover", "began": 10 * SECOND, "ended": 12 * SECOND}
    kept, other = ({"system": "chat", "id": name, "body": name} for name in ("kept", "other"))
    sent = send(kept, {"cursor": f"{EPOCH}-2", "seq": 2}, 9.5)
    again = send(other, {}, 11.5) | {"outcome": "unknown", "receipt": None}
    ops = [create("a", 1, 1), connect("c", 2), frame("c", 2, full({"a": item()}, 1)), sent]
    ops += [frame("c", 9.5, {"system": "chat", "seq": 2, "body": "kept"}), close("c", 10), again, failover]
    items = {"a": item(), "b": item()}
    # A resumed connection gets the message late: it does not show that the seq was used after the failover.
    resumed = full(items, 3) | {"sync": "delta", "body": {"create": {"b": item()}}}
    resumed["external"] = [{"system": "chat", "seq": 2, "body": "kept" if is_kept else "other"}]
    ops += [create("b", 3, 13), connect("d", 14) | {"resumes": "c", "cursor": f"{EPOCH}aaaaaaaaaa-1"}]
    entries = [{"id": "b", "item": item(), "seq": 3, "gone": None}, {"id": "a", "item": item(), "seq": 1, "gone": None}]

    report = check(tmp_path, *ops, frame("d", 14, resumed), state(items, 3, 20), history(entries, 20))

    assert report.findings == []
    assert report.counts["lost-in-failover"] == (not is_kept)


@pytest.mark.parametrize("is_corrected", [True, False])
def test_delta_does_not_correct_a_copy_of_a_lost_branch(is_corrected: bool, tmp_path: Path) -> None:
    # The phone resumes at a seq of the lost history; the digest of the delta shows it that its copy is wrong.
    failover = {"op": "fault", "kind": "failover", "began": 10 * SECOND, "ended": 12 * SECOND, "window_s": 1}
    items = {"a": item(), "c": item(), "d": item()}
    delta = full(items, 3) | {"sync": "delta", "body": {"create": {"d": item()}}}
    ops = [create("a", 1, 1), connect("c1", 2), frame("c1", 2, full({"a": item()}, 1)), create("x", 2, 9.5)]
    ops += [frame("c1", 10.5, live("x", 2)), close("c1", 10.6), create("c", 2, 11), create("d", 3, 11.2)]
    ops += [connect("c2", 11.5) | {"resumes": "c1", "cursor": f"{EPOCH}aaaaaaaaaa-2"}, frame("c2", 11.5, delta)]
    if is_corrected:
        ops += [close("c2", 11.6), connect("c3", 11.7) | {"resumes": "c2"}, frame("c3", 11.7, full(items, 3))]
    entries: list[Op] = [{"id": i, "item": item(), "seq": seq} for i, seq in (("a", 1), ("c", 2), ("d", 3))]

    report = check(tmp_path, *ops, failover, state(items, 3, 100), history(entries, 101))

    assert names(report) == (set() if is_corrected else {"never-seen"})


def test_failover_of_other_users_excuses_nothing(tmp_path: Path) -> None:
    failover = {"op": "fault", "kind": "failover", "began": 10 * SECOND, "ended": 12 * SECOND, "uids": ["v"]}

    report = check(tmp_path, create("a", 1, 1), create("b", 2, 9.5), failover, state({"a": item()}, 1, 20))

    assert "lost-write" in names(report)


def test_forgotten_device_explains_a_seq(tmp_path: Path) -> None:
    forget = {"op": "forget", "uid": "u", "device": "tv", "invoked": 2 * SECOND, "ended": 3 * SECOND, "outcome": "ok"}

    assert check(tmp_path, create("a", 1, 1), forget, create("b", 3, 4)).findings == []


def test_line_of_killed_recorder_is_ignored(tmp_path: Path) -> None:
    check(tmp_path, create("a", 1, 1))
    file = tmp_path / "history.jsonl"
    file.write_text(file.read_text() + '{"op":"send","uid":"u"')

    assert check_file(file).operations == 1


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("nonsense\n", "line 2: not valid JSON"),
        ('{"op":"send","uid":"u"}\n', "line 2: not a valid operation: .*required field `invoked`"),
        ('{"op":"close","conn":"c","at":1}\n', "line 2: .*uid"),
        ('{"op":"fly","uid":"u"}\n', "line 2: not a valid operation: .*'fly'"),
    ],
)
def test_malformed_line_is_named(line: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    file.write_text('{"gregor_history":1,"wall_us":0,"clock_ns":0}\n' + line)

    with pytest.raises(HistoryError, match=text):
        check_file(file)


def test_later_format_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="use a newer gregor"):
        check(tmp_path, gregor_history=2)


def test_share_of_each_process_is_checked(tmp_path: Path) -> None:
    ops = [create("a", 1, 1, uid=f"u{n}") for n in range(30_000)]

    header: Op = {"gregor_history": 1, "wall_us": NOW * 1_000_000, "clock_ns": 0}
    file = tmp_path / "history.jsonl"
    ops += [create("b", 3, 2, uid="u7"), create("b", 3, 2, uid="u8")]
    file.write_text("".join(json.dumps(op) + "\n" for op in (header, *ops)))
    report = check_file(file, jobs=2)

    assert [found.uid for found in report.findings] == ["u7", "u8"]
    assert (report.users, report.operations) == (30_000, 30_002)


DEEP = "[" * 50_000 + "]" * 50_000


@pytest.mark.parametrize(
    "line",
    [
        "DEEP",
        '{"op":"send","uid":"u","invoked":0,"ended":1,"outcome":"ok","message":DEEP}',
        '{"op":"send","uid":"u","invoked":0,"ended":1,"outcome":"ok","message":{"system":"s","body":DEEP}}',
        '{"op":"frame","uid":"u","connection":"c","at":1,"frame":{"system":"gregor","seq":1,"body":DEEP}}',
        '{"op":"read","uid":"u","kind":"state","invoked":0,"ended":1,"outcome":"ok","answer":{"items":{"a":DEEP}}}',
    ],
)
@pytest.mark.parametrize("has_header", [True, False])
def test_deeply_nested_history_is_refused(tmp_path: Path, line: str, has_header: bool) -> None:
    """A hostile file gets an error of the command, not a traceback."""
    path = tmp_path / "history.ndjson"
    header = '{"gregor_history":1,"wall_us":0,"clock_ns":0}\n' if has_header else ""
    path.write_text(header + line.replace("DEEP", DEEP) + "\n")

    with pytest.raises(HistoryError):
        check_file(path)


@pytest.mark.parametrize("cursor", ["x", "zz-zz", "000001-" + "9" * 5_000])
def test_malformed_cursor_in_a_history_is_refused(tmp_path: Path, cursor: str) -> None:
    path = tmp_path / "history.ndjson"
    header = '{"gregor_history":1,"wall_us":0,"clock_ns":0}\n'
    answer = f'{{"cursor":"{cursor}","digest":"{"0" * 64}","items":{{}}}}'
    read = f'{{"op":"read","uid":"u","invoked":1,"ended":2,"kind":"state","outcome":"ok","answer":{answer}}}\n'
    path.write_text(header + read)

    with pytest.raises(HistoryError):
        check_file(path)


@pytest.mark.parametrize("is_complete", [True, False])
def test_gap_of_any_length_is_one_step(tmp_path: Path, is_complete: bool) -> None:
    """A seq of 2^53 in a hostile file neither takes years nor memory."""
    path = tmp_path / "history.ndjson"
    header = f'{{"gregor_history":1,"wall_us":0,"clock_ns":0,"complete":{json.dumps(is_complete)}}}\n'
    connect = '{"op":"connect","uid":"u","conn":"c","at":1}\n'
    frame = f'{{"op":"frame","uid":"u","conn":"c","at":2,"frame":{{"system":"gregor","seq":{2**53},"body":{{}}}}}}\n'
    path.write_text(header + connect + frame)

    report = check_file(path)

    holes = ["no message has the seq 1", f"no message has the seqs 2 to {2**53 - 1}", f"no message has the seq {2**53}"]
    assert [found.text for found in report.findings] == (holes if is_complete else [])


CURSOR = f"{EPOCH}-1"


@pytest.mark.parametrize(
    "op",
    [
        create("a", 1, 1, receipt={"cursor": "nonsense", "seq": 1, "created": ["a"]}),
        connect("c", 1) | {"cursor": "x"},
        frame("c", 2, {"system": "gregor", "sync": "full", "seq": 1, "cursor": "abc", "body": {}}),
        frame("c", 2, live("a", 1) | {"body": []}),
        frame("c", 2, live("a", 1) | {"body": {"create": {"a": 7}}}),
        frame("c", 2, full({"a": {"body": 1}}, 1)),
        frame("c", 2, full({"a": {"times": {"created": "x"}}}, 1)),
        state({}, 1, 2, answer={"cursor": "abc"}),
        state({}, 1, 2, answer={"cursor": CURSOR, "items": {"a": []}}),
        history([{"id": "a", "item": [], "seq": 1}], 2),
    ],
)
def test_part_that_no_server_sends_is_named(op: Op, tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=r"^line 3: .*(Expected|missing)"):
        check(tmp_path, connect("c", 0), op)


def test_absurd_numbers_end_soon(tmp_path: Path) -> None:
    later = create("b", 10**12, 2)

    assert {"hole"} <= names(check(tmp_path, create("a", 1, 1), later))
    assert names(check(tmp_path, create("a", 1, 1) | {"invoked": 0, "ended": 1 << 80})) == set()
    assert names(check(tmp_path, create("a", 1, 1), wall_us=-(1 << 60))) <= {"wrong-receipt"}


@pytest.mark.parametrize("version", [0, -1, 2])
def test_unknown_format_version_is_refused(version: int, tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=f"line 1: the history has the format version {version}"):
        check(tmp_path, gregor_history=version)


def test_huge_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gregor.history.index.MAX_LINE_BYTES", 500)

    with pytest.raises(HistoryError, match="line 3: longer than 500 bytes"):
        check(tmp_path, close("c", 1), close("c" * 500, 1))


def test_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(HistoryError, match="not a regular file"):
        check_file(tmp_path / "pipe")
