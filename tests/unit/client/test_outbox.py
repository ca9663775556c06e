"""The outbox: no message is lost, none blocks another, and a repeat changes nothing."""

import itertools
import json
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gregor.client.messages import creation, dismissal, gregor
from gregor.client.outbox import IN_FLIGHT, Completed, Outbox

NOW_US = 1_700_000_000_000_000


def ids() -> Callable[[], str]:
    counter = itertools.count(1)
    return lambda: f"m{next(counter)}"


def item_of(created: float, category: str = "mail") -> dict[str, Any]:
    return {"times": {"created": created}, "for_device": None, "category": category, "body": None}


def outbox_with(*messages: dict[str, Any], copy: dict[str, Any] | None = None) -> Outbox:
    outbox = Outbox(ids())
    for message in messages:
        outbox.put(message, copy or {}, NOW_US)
    return outbox


def refusal(ref: int, code: str = "state_full", **members: Any) -> dict[str, Any]:
    return {"ref": ref, "problem": {"code": code, "detail": "…", **members}}


ACTIONS = st.lists(
    st.sampled_from(["put", "send", "receipt", "unchanged", "refuse", "later", "move", "reconnect"]), max_size=60
)


@given(ACTIONS, st.randoms(use_true_random=False))
def test_every_message_completes_once_or_is_pending(actions: list[str], dice: Any) -> None:
    outbox, now_us, seq = Outbox(ids()), NOW_US, 0
    put: set[int] = set()
    out: set[int] = set()
    completed: list[Completed] = []
    for action in actions:
        now_us += 2_000_000
        chosen = dice.choice(sorted(out)) if out else None
        match action:
            case "put":
                put.add(outbox.put(creation(f"i{len(put)}", "mail"), {}, now_us))
            case "send":
                out |= {frame["ref"] for frame in outbox.sendable(now_us)}
            case "move":
                seq += 1
                completed += outbox.reached(seq)
            case "reconnect":
                out.clear()
                outbox.reconnected()
            case _ if chosen is not None:
                out.discard(chosen)
                receipt = {"seq": seq + 1} | ({"unchanged": True} if action == "unchanged" else {})
                answers = {"refuse": refusal(chosen), "later": refusal(chosen, "unavailable", retry_after_ms=1)}
                completed += outbox.answered(answers.get(action, {"ref": chosen, "receipt": receipt}), seq, now_us)

    gone = [one.ref for one in completed]
    assert len(gone) == len(set(gone))
    assert len(put) == len(gone) + len(outbox)
    outbox.reconnected()
    waiting = {frame["ref"] for frame in outbox.sendable(now_us + 10_000_000)}
    assert waiting.isdisjoint(gone)


def test_messages_are_sent_once_and_in_order() -> None:
    outbox = outbox_with(creation("a", "mail"), creation("b", "mail"))

    assert [frame["ref"] for frame in outbox.sendable(NOW_US)] == [1, 2]
    assert outbox.sendable(NOW_US) == []


def test_entry_leaves_when_the_copy_reaches_its_seq() -> None:
    outbox = outbox_with(creation("a", "mail"))
    outbox.sendable(NOW_US)

    assert outbox.answered({"ref": 1, "receipt": {"seq": 7}}, 6, NOW_US) == []
    assert list(outbox.overlay({})) == ["a"]
    assert outbox.reached(7) == [Completed(1, receipt={"seq": 7})]
    assert outbox.overlay({}) == {}


def test_unchanged_receipt_completes_at_once() -> None:
    outbox = outbox_with(creation("a", "mail"))
    outbox.sendable(NOW_US)

    assert len(outbox.answered({"ref": 1, "receipt": {"seq": 70, "unchanged": True}}, 6, NOW_US)) == 1


def test_refused_message_does_not_block_the_next() -> None:
    outbox = outbox_with(creation("a", "mail"), creation("b", "mail"))
    outbox.sendable(NOW_US)

    completed = outbox.answered(refusal(1), 0, NOW_US)

    assert [(one.ref, one.problem["code"]) for one in completed if one.problem] == [(1, "state_full")]
    assert list(outbox.overlay({})) == ["b"]


def test_retryable_message_is_resent_after_the_delay() -> None:
    outbox = outbox_with(creation("a", "mail"))
    outbox.sendable(NOW_US)

    assert outbox.answered(refusal(1, "rate_limited", retry_after_ms=400), 0, NOW_US) == []
    assert outbox.sendable(NOW_US + 399_999) == []
    assert outbox.hold_s(NOW_US) == 0.4
    assert [frame["ref"] for frame in outbox.sendable(NOW_US + 400_000)] == [1]


def test_unknown_code_is_classified_by_status() -> None:
    outbox = outbox_with(creation("a", "mail"), creation("b", "mail"))
    outbox.sendable(NOW_US)

    assert outbox.answered(refusal(1, "new_and_final", status=422), 0, NOW_US) != []
    assert outbox.answered(refusal(2, "new_and_passing", status=503), 0, NOW_US) == []


def test_unanswered_messages_are_resent_unchanged() -> None:
    outbox = outbox_with(creation("a", "mail"), {"system": "kbfs", "body": 1})
    before = outbox.sendable(NOW_US)

    outbox.reconnected()

    assert outbox.sendable(NOW_US) == before


def test_answered_message_is_not_resent() -> None:
    outbox = outbox_with(creation("a", "mail"))
    outbox.sendable(NOW_US)
    outbox.answered({"ref": 1, "receipt": {"seq": 7}}, 6, NOW_US)

    outbox.reconnected()

    assert outbox.sendable(NOW_US) == []


def test_messages_in_flight_are_limited() -> None:
    outbox = outbox_with(*(creation(f"i{n}", "mail") for n in range(IN_FLIGHT + 5)))
    outbox.sendable(NOW_US)

    outbox.answered({"ref": 1, "receipt": {"seq": 1}}, 1, NOW_US)

    assert [frame["ref"] for frame in outbox.sendable(NOW_US)] == [IN_FLIGHT + 1]


def test_loose_interval_ends_at_the_newest_matching_item() -> None:
    copy = {"a": item_of(5), "b": item_of(9.5), "c": item_of(11, "other"), "d": item_of(12)}
    outbox = outbox_with(dismissal(category="mail", skip=["d"]), copy=copy)

    (frame,) = outbox.sendable(NOW_US)

    assert frame["body"]["dismiss"]["intervals"] == [{"category": "mail", "skip": ["d"], "end": 9.5}]
    assert "id" not in frame


def test_prefix_matches_whole_segments() -> None:
    copy = {"a": item_of(5, "user.joined"), "b": item_of(9, "users")}
    outbox = outbox_with(dismissal(category_prefix="user."), copy=copy)

    assert outbox.sendable(NOW_US)[0]["body"]["dismiss"]["intervals"][0]["end"] == 5


def test_interval_without_a_match_gets_a_message_id() -> None:
    outbox = outbox_with(dismissal(category="mail"))

    assert outbox.sendable(NOW_US)[0]["id"] == "m1"


def test_replacement_needs_neither_end_nor_id() -> None:
    replace = gregor(create={"n": {"category": "mail"}}, dismiss={"intervals": [{"category": "mail"}]})
    outbox = outbox_with(replace, copy={"a": item_of(5)})

    (frame,) = outbox.sendable(NOW_US)

    assert frame == {"ref": 1, **replace}


def test_external_message_and_flush_get_an_id() -> None:
    outbox = outbox_with({"system": "kbfs", "body": 1}, gregor(flush=True), {"system": "kbfs", "body": 1, "id": "mine"})

    assert [frame["id"] for frame in outbox.sendable(NOW_US)] == ["m1", "m2", "mine"]


def test_creation_and_dismissal_by_id_get_no_id() -> None:
    outbox = outbox_with(creation("a", "mail"), dismissal(["a"]))

    assert all("id" not in frame for frame in outbox.sendable(NOW_US))


def test_category_dismissal_includes_pending_creations() -> None:
    outbox = outbox_with(creation("mine", "mail"), dismissal(category="mail"), copy={"a": item_of(5)})

    assert outbox.sendable(NOW_US)[1]["body"]["dismiss"]["ids"] == ["mine"]
    assert outbox.overlay({"a": item_of(5)}) == {}


def test_overlay_adds_creations_and_hides_dismissals() -> None:
    outbox = outbox_with(
        creation("new", "mail", {"b": 1}, expires="+60", remind_at=["+30", 1_600_000_000]), dismissal(["old"])
    )

    shown = outbox.overlay({"old": item_of(1), "kept": item_of(2)})

    times = {"created": 1_700_000_000, "expires": 1_700_000_060, "remind_at": [1_600_000_000, 1_700_000_030]}
    assert shown == {
        "kept": item_of(2),
        "new": {"times": times, "for_device": None, "category": "mail", "body": {"b": 1}},
    }


def test_replacement_hides_only_old_items() -> None:
    outbox = outbox_with(
        gregor(create={"n": {"category": "mail"}}, dismiss={"intervals": [{"category": "mail"}]}),
    )

    assert list(outbox.overlay({"a": item_of(5), "b": item_of(6, "other")})) == ["b", "n"]


def test_overlay_does_not_change_the_copy() -> None:
    copy = {"a": item_of(5)}
    outbox_with(dismissal(["a"])).overlay(copy)

    assert copy == {"a": item_of(5)}


def test_restored_outbox_sends_the_same_messages() -> None:
    outbox = outbox_with(creation("a", "mail"), {"system": "kbfs", "body": 1})
    said = outbox.sendable(NOW_US)

    again = Outbox.restore(json.loads(json.dumps(outbox.snapshot())), ids())

    assert again.sendable(NOW_US) == said
    assert again.put(creation("b", "mail"), {}, NOW_US) == 3


def test_late_answer_changes_nothing() -> None:
    outbox = outbox_with(creation("a", "mail"))
    outbox.answered({"ref": 1, "receipt": {"seq": 1}}, 1, NOW_US)

    assert outbox.answered(refusal(1), 1, NOW_US) == []
    assert outbox.answered(refusal(77), 1, NOW_US) == []


def test_wait_that_a_problem_asks_for_is_at_most_an_hour() -> None:
    outbox = outbox_with(creation("a", "mail"))
    outbox.sendable(NOW_US)
    outbox.answered(refusal(1, "unavailable", retry_after_ms=86_400_000), 0, NOW_US)

    assert outbox.hold_s(NOW_US) == 3_600
