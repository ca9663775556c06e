"""What waits to be said: nothing is lost, nothing blocks, and saying it twice does no harm."""

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
def test_every_message_is_settled_once_or_still_waits(actions: list[str], dice: Any) -> None:
    outbox, now_us, seq = Outbox(ids()), NOW_US, 0
    put: set[int] = set()
    out: set[int] = set()
    settled: list[Completed] = []
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
                settled += outbox.reached(seq)
            case "reconnect":
                out.clear()
                outbox.reconnected()
            case _ if chosen is not None:
                out.discard(chosen)
                receipt = {"seq": seq + 1} | ({"unchanged": True} if action == "unchanged" else {})
                answers = {"refuse": refusal(chosen), "later": refusal(chosen, "unavailable", retry_after_ms=1)}
                settled += outbox.answered(answers.get(action, {"ref": chosen, "receipt": receipt}), seq, now_us)

    gone = [one.ref for one in settled]
    assert len(gone) == len(set(gone))
    assert len(put) == len(gone) + len(outbox)
    outbox.reconnected()
    waiting = {frame["ref"] for frame in outbox.sendable(now_us + 10_000_000)}
    assert waiting.isdisjoint(gone)


def test_messages_go_out_in_order_and_once() -> None:
    outbox = outbox_with(creation("a", "mail"), creation("b", "mail"))

    assert [frame["ref"] for frame in outbox.sendable(NOW_US)] == [1, 2]
    assert outbox.sendable(NOW_US) == []


def test_an_entry_goes_when_the_copy_has_reached_the_seq_of_its_receipt() -> None:
    outbox = outbox_with(creation("a", "mail"))
    outbox.sendable(NOW_US)

    assert outbox.answered({"ref": 1, "receipt": {"seq": 7}}, 6, NOW_US) == []
    assert list(outbox.overlay({})) == ["a"]
    assert outbox.reached(7) == [Completed(1, receipt={"seq": 7})]
    assert outbox.overlay({}) == {}


def test_a_receipt_without_effect_waits_for_no_frame() -> None:
    outbox = outbox_with(creation("a", "mail"))
    outbox.sendable(NOW_US)

    assert len(outbox.answered({"ref": 1, "receipt": {"seq": 70, "unchanged": True}}, 6, NOW_US)) == 1


def test_a_refused_message_goes_and_the_next_one_is_not_touched() -> None:
    outbox = outbox_with(creation("a", "mail"), creation("b", "mail"))
    outbox.sendable(NOW_US)

    settled = outbox.answered(refusal(1), 0, NOW_US)

    assert [(one.ref, one.problem["code"]) for one in settled if one.problem] == [(1, "state_full")]
    assert list(outbox.overlay({})) == ["b"]


def test_a_message_that_may_be_taken_later_is_sent_again_when_the_server_said() -> None:
    outbox = outbox_with(creation("a", "mail"))
    outbox.sendable(NOW_US)

    assert outbox.answered(refusal(1, "rate_limited", retry_after_ms=400), 0, NOW_US) == []
    assert outbox.sendable(NOW_US + 399_999) == []
    assert outbox.hold_s(NOW_US) == 0.4
    assert [frame["ref"] for frame in outbox.sendable(NOW_US + 400_000)] == [1]


def test_an_unknown_code_is_judged_by_its_status() -> None:
    outbox = outbox_with(creation("a", "mail"), creation("b", "mail"))
    outbox.sendable(NOW_US)

    assert outbox.answered(refusal(1, "new_and_final", status=422), 0, NOW_US) != []
    assert outbox.answered(refusal(2, "new_and_passing", status=503), 0, NOW_US) == []


def test_unanswered_messages_are_sent_again_after_a_reconnect_unchanged() -> None:
    outbox = outbox_with(creation("a", "mail"), {"system": "kbfs", "body": 1})
    before = outbox.sendable(NOW_US)

    outbox.reconnected()

    assert outbox.sendable(NOW_US) == before


def test_an_answered_message_is_not_sent_again_while_it_waits_for_its_frame() -> None:
    outbox = outbox_with(creation("a", "mail"))
    outbox.sendable(NOW_US)
    outbox.answered({"ref": 1, "receipt": {"seq": 7}}, 6, NOW_US)

    outbox.reconnected()

    assert outbox.sendable(NOW_US) == []


def test_only_so_many_messages_are_unanswered_at_once() -> None:
    outbox = outbox_with(*(creation(f"i{n}", "mail") for n in range(IN_FLIGHT + 5)))
    outbox.sendable(NOW_US)

    outbox.answered({"ref": 1, "receipt": {"seq": 1}}, 1, NOW_US)

    assert [frame["ref"] for frame in outbox.sendable(NOW_US)] == [IN_FLIGHT + 1]


def test_an_interval_without_end_gets_the_greatest_created_of_the_copy_that_it_matches() -> None:
    copy = {"a": item_of(5), "b": item_of(9.5), "c": item_of(11, "other"), "d": item_of(12)}
    outbox = outbox_with(dismissal(category="mail", skip=["d"]), copy=copy)

    (frame,) = outbox.sendable(NOW_US)

    assert frame["body"]["dismiss"]["intervals"] == [{"category": "mail", "skip": ["d"], "end": 9.5}]
    assert "id" not in frame


def test_a_prefix_matches_whole_segments_when_an_end_is_looked_for() -> None:
    copy = {"a": item_of(5, "user.joined"), "b": item_of(9, "users")}
    outbox = outbox_with(dismissal(category_prefix="user."), copy=copy)

    assert outbox.sendable(NOW_US)[0]["body"]["dismiss"]["intervals"][0]["end"] == 5


def test_an_interval_that_matches_nothing_of_the_copy_is_made_repeatable_by_an_id() -> None:
    outbox = outbox_with(dismissal(category="mail"))

    assert outbox.sendable(NOW_US)[0]["id"] == "m1"


def test_a_replace_needs_neither_end_nor_id() -> None:
    replace = gregor(create={"n": {"category": "mail"}}, dismiss={"intervals": [{"category": "mail"}]})
    outbox = outbox_with(replace, copy={"a": item_of(5)})

    (frame,) = outbox.sendable(NOW_US)

    assert frame == {"ref": 1, **replace}


def test_external_messages_and_flushes_get_an_id_and_keep_one_that_they_have() -> None:
    outbox = outbox_with({"system": "kbfs", "body": 1}, gregor(flush=True), {"system": "kbfs", "body": 1, "id": "mine"})

    assert [frame["id"] for frame in outbox.sendable(NOW_US)] == ["m1", "m2", "mine"]


def test_creations_and_dismissals_by_id_need_no_id() -> None:
    outbox = outbox_with(creation("a", "mail"), dismissal(["a"]))

    assert all("id" not in frame for frame in outbox.sendable(NOW_US))


def test_dismissing_a_category_takes_creations_along_that_still_wait() -> None:
    outbox = outbox_with(creation("mine", "mail"), dismissal(category="mail"), copy={"a": item_of(5)})

    assert outbox.sendable(NOW_US)[1]["body"]["dismiss"]["ids"] == ["mine"]
    assert outbox.overlay({"a": item_of(5)}) == {}


def test_the_overlay_shows_creations_as_items_and_hides_what_is_dismissed() -> None:
    outbox = outbox_with(
        creation("new", "mail", {"b": 1}, expires="+60", remind_at=["+30", 1_600_000_000]), dismissal(["old"])
    )

    shown = outbox.overlay({"old": item_of(1), "kept": item_of(2)})

    times = {"created": 1_700_000_000, "expires": 1_700_000_060, "remind_at": [1_600_000_000, 1_700_000_030]}
    assert shown == {
        "kept": item_of(2),
        "new": {"times": times, "for_device": None, "category": "mail", "body": {"b": 1}},
    }


def test_a_replace_hides_the_old_ones_and_not_its_own() -> None:
    outbox = outbox_with(
        gregor(create={"n": {"category": "mail"}}, dismiss={"intervals": [{"category": "mail"}]}),
    )

    assert list(outbox.overlay({"a": item_of(5), "b": item_of(6, "other")})) == ["b", "n"]


def test_the_overlay_leaves_the_copy_alone() -> None:
    copy = {"a": item_of(5)}
    outbox_with(dismissal(["a"])).overlay(copy)

    assert copy == {"a": item_of(5)}


def test_a_kept_outbox_says_the_same_again() -> None:
    outbox = outbox_with(creation("a", "mail"), {"system": "kbfs", "body": 1})
    said = outbox.sendable(NOW_US)

    again = Outbox.restore(json.loads(json.dumps(outbox.snapshot())), ids())

    assert again.sendable(NOW_US) == said
    assert again.put(creation("b", "mail"), {}, NOW_US) == 3


def test_an_answer_to_a_message_that_is_settled_changes_nothing() -> None:
    outbox = outbox_with(creation("a", "mail"))
    outbox.answered({"ref": 1, "receipt": {"seq": 1}}, 1, NOW_US)

    assert outbox.answered(refusal(1), 1, NOW_US) == []
    assert outbox.answered(refusal(77), 1, NOW_US) == []
