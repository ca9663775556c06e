"""The copy of a device equals the server's view after any order of frames, syncs and digests."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor.client.changes import (
    Change,
    Created,
    Dismissed,
    ExternalGap,
    ExternalReceived,
    FlushAnnounced,
    Reminded,
    Synced,
)
from gregor.client.mirror import Mirror, digest_of

IDS = [f"i{number}" for number in range(8)]
NUMBERS = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
BODIES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
KINDS = ["live", "live", "live", "away", "external", "remind", "delta", "full", "unchanged", "flush"]
STEPS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.lists(st.sampled_from(IDS), max_size=4, unique=True), BODIES), max_size=20
)


class View:
    """A small model of a server's view: it makes the frames of docs/protocol.md and keeps the expected items."""

    def __init__(self) -> None:
        self.items: dict[str, Any] = {}
        self.seq = 0
        self.epoch = "0"
        self.externals: list[dict[str, Any]] = []
        self.at_cursor: dict[str, Any] = {}

    def sync(self, kind: str) -> dict[str, Any]:
        answer = {"system": "gregor", "sync": kind, "seq": self.seq, "cursor": f"t{self.epoch}-{self.seq}"}
        answer |= {"digest": digest_of(self.items)} if kind != "unchanged" else {}
        if kind == "full":
            answer["body"] = {"create": self.items}
        if kind == "delta":
            create = {id_: item for id_, item in self.items.items() if self.at_cursor.get(id_) != item}
            answer["body"] = {"create": create, "dismiss": {"ids": sorted(self.at_cursor.keys() - self.items.keys())}}
        self.at_cursor = dict(self.items)
        return json.loads(json.dumps(answer))

    def step(self, kind: str, ids: list[str], body: Any) -> Iterator[dict[str, Any]]:
        """The frames of one event; a live device receives each of them, so its cursor follows."""
        self.seq += 1
        head = {"system": "gregor", "seq": self.seq}
        match kind:
            case "live" | "away":
                create = {f"{id_}.{self.seq}": item_of(self.seq, body) for id_ in ids if id_ not in self.items}
                gone = [id_ for id_ in self.items if id_.partition(".")[0] in ids]
                self.items = {id_: item for id_, item in self.items.items() if id_ not in gone} | create
                if kind == "away":
                    yield self.sync("delta")
                else:
                    yield {**head, "body": {"create": create, "dismiss": {"ids": gone}}}
            case "external":
                yield {"system": "kbfs", "seq": self.seq, "body": body}
            case "remind":
                yield {**head, "body": {"remind": dict.fromkeys([*self.items, "unknown"][:1], 1)}}
            case "flush":
                yield {**head, "body": {"flush": True}, "spread": 30}
                self.epoch += "1"
                yield self.sync("full")
            case "delta" | "full" | "unchanged":
                yield self.sync(kind if kind != "unchanged" or self.at_cursor == self.items else "delta")
        self.at_cursor = dict(self.items)


def item_of(created: float, body: Any = None, category: str = "user.joined", **times: Any) -> dict[str, Any]:
    return {"times": {"created": created, **times}, "for_device": None, "category": category, "body": body}


def full(items: dict[str, Any], cursor: str = "t-1", **members: Any) -> dict[str, Any]:
    return {
        "system": "gregor",
        "sync": "full",
        "cursor": cursor,
        "digest": digest_of(items),
        "body": {"create": items},
    } | members


def applied(*frames: dict[str, Any]) -> tuple[Mirror, list[Change]]:
    """A mirror after these frames, and the changes of the last one."""
    mirror = Mirror()
    changes: list[Change] = []
    for frame in frames:
        changes = mirror.apply(frame)
    return mirror, changes


@given(STEPS)
def test_copy_equals_the_view_after_every_frame(steps: list[tuple[str, list[str], Any]]) -> None:
    view, mirror = View(), Mirror()
    mirror.apply(view.sync("full"))

    for step in steps:
        for frame in view.step(*step):
            changes = mirror.apply(json.loads(json.dumps(frame)))
            assert all(change.is_proven for change in changes if isinstance(change, Synced))

        assert mirror.items == view.items
        assert mirror.digest == digest_of(view.items)
    assert not mirror.needs_full


@given(STEPS)
def test_changes_lead_from_old_to_new_state(steps: list[tuple[str, list[str], Any]]) -> None:
    view, mirror = View(), Mirror()
    mirror.apply(view.sync("full"))
    seen: dict[str, Any] = {}

    for frame in [frame for step in steps for frame in view.step(*step)]:
        for change in mirror.apply(frame):
            if isinstance(change, Created):
                seen[change.id] = change.item
            if isinstance(change, Dismissed):
                assert seen.pop(change.id) == change.item

    assert seen == mirror.items


@given(STEPS)
def test_restored_copy_equals_the_original(steps: list[tuple[str, list[str], Any]]) -> None:
    view, mirror = View(), Mirror()
    mirror.apply(view.sync("full"))
    for frame in [frame for step in steps for frame in view.step(*step)]:
        mirror.apply(frame)

    again = Mirror.restore(json.loads(json.dumps(mirror.snapshot())))

    assert (again.items, again.cursor, again.digest) == (mirror.items, mirror.cursor, mirror.digest)


def test_cursor_follows_the_seq_of_live_frames() -> None:
    mirror, _ = applied(full({}, "k3f9abc-12"), {"system": "gregor", "seq": 15, "body": {}})

    assert mirror.cursor == "k3f9abc-15"
    assert mirror.seq == 15


def test_cursor_in_a_live_frame_wins() -> None:
    mirror, _ = applied(full({}, "000000-0"), {"system": "gregor", "seq": 1, "cursor": "abcdef-1", "body": {}})

    assert mirror.cursor == "abcdef-1"


def test_repeated_live_frame_changes_nothing() -> None:
    create = {"create": {"late": item_of(1)}}
    mirror, changes = applied(full({}, "t-5"), {"system": "gregor", "seq": 5, "body": create})

    assert changes == []
    assert mirror.items == {}


def test_digest_mismatch_lasts_until_a_full_copy() -> None:
    delta = {"system": "gregor", "sync": "delta", "cursor": "t-2", "digest": "f" * 64, "body": {}}
    mirror, changes = applied(full({"a": item_of(1)}), delta)
    assert changes == [Synced("delta", is_proven=False)]
    assert mirror.needs_full

    mirror.apply({"system": "gregor", "sync": "unchanged", "cursor": "t-2"})
    assert mirror.needs_full

    mirror.apply(full({"b": item_of(2)}, "t-3"))
    assert not mirror.needs_full


def test_wrong_copy_at_an_equal_position_is_a_mismatch() -> None:
    whole = full({"a": item_of(1), "b": item_of(2)})
    mirror, _ = applied(full({"a": item_of(1)}))

    assert list(mirror.apply(whole))[-1] == Synced("full", is_proven=False)
    assert not mirror.needs_full
    assert list(mirror.apply(whole)) == [Synced("full")]


def test_full_copy_reports_only_differences() -> None:
    kept, old, new = item_of(1), item_of(2), item_of(3)
    _, changes = applied(full({"kept": kept, "old": old}), full({"kept": kept, "new": new}, "t-9"))

    assert changes == [Dismissed("old", old), Created("new", new), Synced("full")]


def test_full_copy_replaces_an_item_with_other_content() -> None:
    mirror, changes = applied(full({"a": item_of(1, "lost")}), full({"a": item_of(1, "kept")}, "t-2"))

    assert changes == [Dismissed("a", item_of(1, "lost")), Created("a", item_of(1, "kept")), Synced("full")]
    assert mirror.digest == digest_of({"a": item_of(1, "kept")})


def test_sync_reports_external_messages_and_gap() -> None:
    external = [{"system": "kbfs.favorites", "seq": 10, "body": {"action": "delete"}}]
    answer = {"system": "gregor", "sync": "unchanged", "cursor": "t-12", "external": external, "external_gap": True}
    _, changes = applied(full({}), answer)

    assert changes == [ExternalGap(), ExternalReceived("kbfs.favorites", 10, {"action": "delete"}), Synced("unchanged")]


def test_external_message_that_overtook_a_resync_comes_once() -> None:
    """The answer to a resync begins at the position that the client named. A live frame may come in between."""
    live = {"system": "kbfs.favorites", "seq": 13, "body": {"action": "delete"}}
    later = {**live, "seq": 14}
    answer = {"system": "gregor", "sync": "delta", "cursor": "t-14", "external": [live, later]}
    _, changes = applied(full({}, "t-12"), live, answer)
    _, after_fork = applied(full({}, "t-14"), {**full({}, "u-14"), "external": [later]})

    assert [change.seq for change in changes if isinstance(change, ExternalReceived)] == [14]
    assert [change.seq for change in after_fork if isinstance(change, ExternalReceived)] == [14]


def test_reminder_needs_the_item_in_the_copy() -> None:
    item = item_of(1, remind_at=[1457402098])
    _, changes = applied(full({"a": item}), {"system": "gregor", "seq": 14, "body": {"remind": {"a": 1457402098}}})

    assert changes == [Reminded("a", item, 1457402098)]


def test_server_dismissal_has_its_reason() -> None:
    dismiss = {"dismiss": {"ids": ["a"], "reason": "expired"}}
    _, changes = applied(full({"a": item_of(1)}), {"system": "gregor", "seq": 14, "body": dismiss})

    assert changes == [Dismissed("a", item_of(1), "expired")]


def test_flush_keeps_the_copy_until_the_full_copy() -> None:
    flush = {"system": "gregor", "seq": 15, "body": {"flush": True}, "spread": 7}
    mirror, changes = applied(full({"a": item_of(1)}, "old-14"), flush)

    assert changes == [FlushAnnounced(7)]
    assert mirror.items == {"a": item_of(1)}


@pytest.mark.parametrize(("now_us", "shown"), [(9_999_999, ["a", "b"]), (10_000_000, ["b"]), (11_000_000, ["b"])])
def test_expired_item_is_hidden_and_dropped_by_event(now_us: int, shown: list[str]) -> None:
    items = {"a": item_of(1, expires=10), "b": item_of(2)}
    mirror, _ = applied(full(items))

    assert sorted(mirror.visible(now_us)) == shown
    assert mirror.items == items
    assert mirror.digest == digest_of(items)


def test_badge_counts_visible_counted_items() -> None:
    items = {
        "a": item_of(1),
        "b": item_of(2, category="sys.note"),
        "c": item_of(3, category="system"),
        "d": item_of(4, expires=5),
    }
    mirror, _ = applied({"welcome": {"uncounted": ["sys"]}}, full(items))

    assert mirror.badge(10_000_000) == 2

    mirror.apply({"uncounted": []})
    assert mirror.badge(10_000_000) == 3


def test_item_is_due_after_a_reminder() -> None:
    items = {"a": item_of(1, remind_at=[5, 50]), "b": item_of(1, remind_at=[50]), "c": item_of(1)}
    mirror, _ = applied(full(items))

    assert list(mirror.due(4_999_999)) == []
    assert list(mirror.due(5_000_000)) == ["a"]


def test_unknown_kind_of_sync_is_an_error() -> None:
    mirror, _ = applied(full({"a": item_of(1)}))

    with pytest.raises(ValueError, match="unknown kind of sync object"):
        mirror.apply({"system": "gregor", "sync": "partial", "cursor": "t-2"})
    assert mirror.items == {"a": item_of(1)}


@pytest.mark.parametrize("kind", ["full", "delta", "live"])
def test_frame_with_one_malformed_item_changes_nothing(kind: str) -> None:
    items = {name: {"times": {"created": 5}, "for_device": None, "category": "mail", "body": name} for name in "abc"}
    mirror = Mirror()
    mirror.apply({"system": "gregor", "sync": "full", "cursor": "t-1", "body": {"create": {"a": items["a"]}}})
    before = mirror.snapshot() | {"items": dict(mirror.items)}, mirror.digest
    body = {"dismiss": {"ids": ["a"]}, "create": {"b": items["b"], "c": items["c"] | {"body": "\ud800"}}}
    frame = {"system": "gregor", "seq": 2, "body": body}

    with pytest.raises(ValueError):
        mirror.apply(frame if kind == "live" else frame | {"sync": kind, "cursor": "t-2"})

    assert (mirror.snapshot(), mirror.digest) == before
    assert mirror.apply(frame | {"body": {"create": {"b": items["b"]}}}) == [Created("b", items["b"])]
