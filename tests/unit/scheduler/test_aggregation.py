"""Ends of aggregation windows: one summary replaces many items (semantics.md, "Aggregation")."""

from __future__ import annotations

import asyncio
import importlib
import json
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from gregor.core.messages.model import RemovalReason, Sender
from gregor.core.notify.aggregation import is_summary, summary_id
from gregor.store.contract.agenda import ItemGroups, WorkKind
from gregor.store.contract.devices import Registration
from gregor.telemetry import FAILURE_LINES_BURST
from gregor_scheduler.handlers.dispatch import MAX_WORK
from tests.support.builders import BACKEND, BY_BACKEND, NOW, NOW_US, interval, message
from tests.support.wait import wait_until
from tests.unit.scheduler.conftest import SchedulerHarness, build
from tests.unit.scheduler.test_aggregators import EXAMPLE

PHONE = Sender(device="phone")
WINDOW = {"title": "News", "aggregate": {"window": "60s", "at_least": 3, "keep": 2}}


async def build_window(**more: Any) -> SchedulerHarness:
    return await build({"news": WINDOW | more})


async def summary(harness: SchedulerHarness) -> Any:
    """Return the only summary as JSON."""
    full = await harness.store.users.state("alice", BACKEND, harness.clock.now_us())
    (found,) = [entry for entry in full.items if is_summary(entry.id)]
    return json.loads(found.json)


async def test_window_end_aggregates_enough_items(harness: SchedulerHarness) -> None:
    harness = await build_window()
    for number, item_id in enumerate("abc"):
        await harness.create(item_id, body={"n": number}, created=NOW + number)
        await harness.advance(1)
    harness.announcements()

    await harness.advance(56)
    assert harness.announcements() == []
    await harness.advance(1)

    name = summary_id("abc")
    assert harness.announced() == [f"created {name}", "aggregated a", "aggregated b", "aggregated c"]
    assert await harness.live_ids() == [name]
    made = await summary(harness)
    assert (made["category"], made["for_device"], made["times"]) == ("news", None, {"created": NOW + 2})
    assert made["body"] == {
        "summary": {
            "count": 3,
            "since": NOW,
            "sample": [{"id": "c", "body": {"n": 2}}, {"id": "b", "body": {"n": 1}}],
        }
    }
    await harness.advance(300)
    assert harness.announcements() == []


async def windows(harness: SchedulerHarness) -> list[float]:
    """Return the ends of alice's windows, in seconds after the start of the test."""
    works = await harness.store.agenda.due_work("alice", NOW_US + 10**12, 100)
    return [(work.at_us - NOW_US) / 1e6 for work in works if work.kind is WorkKind.WINDOW]


async def test_window_closes_after_aggregation(harness: SchedulerHarness) -> None:
    harness = await build_window()
    await harness.create("a", "b", "c")
    assert await windows(harness) == [60]

    await harness.advance(60)

    assert await windows(harness) == []


async def test_item_during_aggregation_opens_a_new_window(harness: SchedulerHarness) -> None:
    loop = asyncio.get_running_loop()

    def slow(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if len(items) == 3:
            asyncio.run_coroutine_threadsafe(harness.create("d"), loop).result()
        return {"n": len(items)}

    harness = await build({"": WINDOW}, {"": slow})
    await harness.create("a", "b", "c")
    await harness.advance(60)
    assert sorted(await harness.live_ids()) == ["d", summary_id("abc")]
    assert await windows(harness) == [120]

    await harness.advance(60)

    assert await harness.live_ids() == [summary_id(["d", summary_id("abc")])]


async def test_too_few_items_wait_for_a_later_window(harness: SchedulerHarness) -> None:
    harness = await build_window()
    await harness.create("a", "b")
    await harness.advance(100)
    assert await harness.live_ids() == ["a", "b"]

    await harness.create("c")
    await harness.advance(59)
    assert len(await harness.live_ids()) == 3
    await harness.advance(1)
    assert len(await harness.live_ids()) == 1


async def test_later_summary_includes_the_previous_one(harness: SchedulerHarness) -> None:
    harness = await build_window()
    await harness.create("a", "b", "c", created=NOW)
    await harness.advance(60)
    first = await harness.live_ids()

    await harness.create("d", created=NOW + 70)
    await harness.advance(60)

    assert await harness.live_ids() == [summary_id(["d", *first])]
    told = (await summary(harness))["body"]["summary"]
    assert (told["count"], told["since"], [each["id"] for each in told["sample"]]) == (4, NOW, ["d", "c"])


async def test_groups_are_by_category_and_device(harness: SchedulerHarness) -> None:
    harness = await build({"": WINDOW})
    for for_device in (None, "phone"):
        for category in ("news", "news.local"):
            await harness.create(f"{category}-{for_device}", category=category, for_device=for_device)

    await harness.advance(61)

    assert len(await harness.live_ids()) == 4


async def test_windows_that_end_together_read_the_items_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device can create 100 windows with one message, and each read may be of 2,000 items."""
    harness, reads = await build_window(), list[Collection[str]]()
    read_items = harness.store.agenda.category_items

    async def count(uid: str, categories: Collection[str]) -> ItemGroups:
        reads.append(set(categories))
        return await read_items(uid, categories)

    monkeypatch.setattr(harness.store.agenda, "category_items", count)
    for number in range(MAX_WORK):
        await harness.create(f"i{number}", for_device=f"d{number}")
    await harness.create("x", "y", for_device="d2")
    await harness.create("z", "zz", for_device="d5")

    await harness.advance(61)

    assert reads == [{"news"}]
    assert len(await harness.live_ids()) == MAX_WORK
    assert {summary_id(ids) for ids in (["i2", "x", "y"], ["i5", "z", "zz"])} <= set(await harness.live_ids())


async def test_hidden_item_is_not_aggregated(harness: SchedulerHarness) -> None:
    harness = await build_window()
    await harness.create("a", "b", "c", for_device="*")
    await harness.submit(message(ids=["b"]), Sender("phone"))

    await harness.advance(61)

    assert await harness.live_ids() == ["a", "b", "c"]


async def test_interval_dismissal_removes_the_summary(harness: SchedulerHarness) -> None:
    harness = await build_window()
    await harness.create("a", "b", "c", created=NOW)
    await harness.advance(60)

    await harness.submit(message(intervals=[interval("news", end=NOW)]))

    assert await harness.live_ids() == []


async def test_summary_expires_with_its_last_item(harness: SchedulerHarness) -> None:
    harness = await build_window()
    await harness.create("a", "b", created=NOW, expires=NOW + 100)
    await harness.create("c", created=NOW, expires=NOW + 200)
    await harness.advance(60)
    assert (await summary(harness))["times"]["expires"] == NOW + 200

    await harness.advance(140)

    assert await harness.live_ids() == []


async def test_only_the_summary_is_pushed(harness: SchedulerHarness) -> None:
    harness = await build_window(push={"after": "90s"})
    push = {"provider": "apns", "token": "t"}
    await harness.store.devices.put_device("alice", "phone", Registration(push=push), NOW_US)
    await harness.create("a", "b", "c")

    await harness.advance(149)
    assert harness.published() == []
    await harness.advance(1)

    assert harness.published() == [f"summary {summary_id('abc')} apns phone"]


async def test_body_schema_does_not_apply_to_summary(harness: SchedulerHarness) -> None:
    harness = await build_window(body_schema={"type": "object", "required": ["n"]})
    for number in range(3):
        await harness.create(f"i{number}", body={"n": number})

    await harness.advance(60)

    assert (await summary(harness))["body"]["summary"]["count"] == 3


async def test_samples_are_limited_by_body_size(harness: SchedulerHarness) -> None:
    harness = await build({"news": WINDOW | {"aggregate": {"window": "60s", "at_least": 3, "keep": 20}}})
    for number in range(5):
        await harness.create(f"i{number}", body="x" * 6_000, created=NOW + number)

    await harness.advance(60)

    told = (await summary(harness))["body"]["summary"]
    assert (told["count"], [each["id"] for each in told["sample"]]) == (5, ["i4", "i3"])


def joined(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An aggregator that joins the words of its items."""
    words = [word for item in items for word in item["body"].get("words", [item["body"].get("word")])]
    return {"words": words}


async def test_aggregator_serves_its_category_prefix(harness: SchedulerHarness) -> None:
    harness = await build({"": WINDOW}, {"news": joined})
    for word in "xyz":
        await harness.create(f"n{word}", category="news.local", body={"word": word})
        await harness.create(f"o{word}", category="other", body={"word": word})
    await harness.advance(60)
    await harness.create("nw", category="news.local", body={"word": "w"})
    await harness.advance(60)

    full = await harness.store.users.state("alice", BACKEND, harness.clock.now_us())
    bodies = {entry.category: json.loads(entry.json)["body"] for entry in full.items}
    assert bodies["news.local"] == {"words": ["x", "y", "z", "w"]}
    assert bodies["other"]["summary"]["count"] == 3


async def test_failing_aggregator_loses_no_item(harness: SchedulerHarness) -> None:
    made: list[object] = [RuntimeError("no"), [1], {"big": "x" * 20_000}, {"nan": float("nan")}, {"fine": True}]

    def failing(items: Sequence[Mapping[str, Any]]) -> Any:
        body = made.pop(0)
        if isinstance(body, Exception):
            raise body
        return body

    harness = await build({"": WINDOW}, {"": failing})
    await harness.create("a", "b", "c")
    for failures in range(1, 5):
        await harness.advance(60)
        assert await harness.live_ids() == ["a", "b", "c"]
        assert harness.metrics.aggregator_failures.labels("")._value.get() == failures

    await harness.advance(60)
    assert (await summary(harness))["body"] == {"fine": True}


async def test_example_groups_comments_by_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    aggregator = importlib.import_module("comment_aggregator").comments_by_thread
    harness = await build({"": WINDOW}, {"example.comments": aggregator})

    async def comment(item_id: str, thread: str, author: str) -> None:
        body = {"thread": thread, "author": author, "text": f"{author} in {thread}"}
        await harness.create(item_id, category="example.comments", body=body)

    for number, (thread, author) in enumerate((("t", "ann"), ("u", "bob"), ("t", "bob"))):
        await comment(f"c{number}", thread, author)
    await harness.advance(60)
    await comment("c9", "t", "ann")
    await harness.advance(60)

    assert (await summary(harness))["body"] == {
        "threads": [
            {"thread": "t", "count": 3, "authors": ["ann", "bob"], "text": "ann in t"},
            {"thread": "u", "count": 1, "authors": ["bob"], "text": "bob in u"},
        ]
    }


async def test_hanging_aggregator_costs_one_thread(harness: SchedulerHarness) -> None:
    release, calls = threading.Event(), []

    def hanging(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        calls.append(len(items))
        release.wait()
        return {"fine": True}

    harness = await build({"": WINDOW, "news": {}}, {"slow": hanging}, timeout_s=0.05)
    for uid in ("alice", "bob"):
        await harness.create("a", "b", "c", uid=uid, category="slow")
        await harness.create("x", "y", "z", uid=uid, category="news")
    for failures in (2, 4):
        await harness.advance(60)
        assert harness.metrics.aggregator_failures.labels("slow")._value.get() == failures
    assert calls == [3]
    assert [name for name in await harness.live_ids() if not is_summary(name)] == ["a", "b", "c"]

    release.set()
    await wait_until(lambda: not is_hanging(), "the thread has ended")
    await harness.advance(60)
    assert calls == [3, 3, 3] and all(is_summary(name) for name in await harness.live_ids())


def is_hanging() -> bool:
    return any(thread.name == "aggregator" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("ids", "sender", "left"), [("abcd", BY_BACKEND, "acd"), ("abcd", PHONE, "acd"), ("abc", BY_BACKEND, "")]
)
async def test_summary_commits_only_if_items_unchanged(ids: str, sender: Sender, left: str) -> None:
    asked, answer, planned = threading.Event(), threading.Event(), []

    def thinking(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        planned.append("".join(item["id"] for item in items))
        asked.set()
        answer.wait()
        return {"of": planned[-1]}

    harness = await build({"news": WINDOW}, {"": thinking}, timeout_s=60)
    await harness.create(*ids, for_device="*")
    harness.announcements()
    harness.clock.advance(60)
    aggregating = asyncio.create_task(harness.due_loop.run_due())
    await wait_until(asked.is_set, "the fold is planned")
    await harness.submit(message(ids=["b"]), sender)
    answer.set()
    await aggregating

    assert planned == ([ids, left] if left else [ids])
    folds = [
        announcement for announcement in harness.announcements() if announcement.reason is RemovalReason.AGGREGATED
    ]
    gone = {entry.id for fold in folds for entry in fold.entries if entry.packed is None}
    assert len(folds) == bool(left) and gone == set(left)
    if left:
        assert (await summary(harness))["body"] == {"of": left}


async def test_round_does_not_wait_for_a_slow_user(harness: SchedulerHarness) -> None:
    release = threading.Event()

    def hanging(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        release.wait()
        return {}

    harness = await build({"news": WINDOW}, {"": hanging}, timeout_s=60)
    await harness.create("a", "b", "c")
    await harness.create("r", uid="bob", category="plain", remind_at=["+61"])
    harness.announcements()
    harness.clock.advance(60)
    ticking = asyncio.create_task(harness.due_loop.tick(3_600))
    await wait_until(is_hanging, "the aggregator is called")
    harness.clock.advance(1)
    await wait_until(lambda: harness.metrics.timers.labels("remind", "done")._value.get(), "bob is reminded")
    assert harness.metrics.timers.labels("window", "done")._value.get() == 0

    stopping = asyncio.create_task(harness.due_loop.stop())
    release.set()
    await stopping
    await ticking
    assert harness.metrics.timers.labels("window", "done")._value.get() == 1


async def test_forged_summaries_are_aggregated(harness: SchedulerHarness) -> None:
    harness = await build_window()
    body = {"summary": {"count": 3, "since": 1e308, "sample": []}}
    await harness.create("summary:" + "a" * 40, "summary:" + "b" * 40, body=body)
    await harness.create("a", "b", "c", created=NOW)

    await harness.advance(61)

    assert len(await harness.live_ids()) == 1
    assert (await summary(harness))["body"]["summary"]["count"] == 5
    assert harness.metrics.timers.labels("window", "failed")._value.get() == 0


@pytest.mark.parametrize("taken_by", ["item", "dismissal"])
async def test_items_are_aggregated_although_the_id_of_their_summary_was_used(taken_by: str) -> None:
    """A client that knows the ids of items can create or dismiss their summary before it exists."""
    harness = await build_window()
    if taken_by == "item":
        await harness.create(summary_id("abc"), category="other")
    else:
        await harness.dismiss(summary_id("abc"))
    await harness.create("a", "b", "c")

    await harness.advance(61)

    assert not {"a", "b", "c"} & set(await harness.live_ids())
    made = [name for name in await harness.live_ids() if name != summary_id("abc")]
    assert len(made) == 1 and is_summary(made[0])
    assert await windows(harness) == []


async def test_window_closes_if_the_summary_is_dismissed_before() -> None:
    """The dismissed interval excludes the items, but includes each possible summary: nothing can be aggregated."""
    harness = await build_window()
    await harness.create("a", "b", "c")
    end = NOW_US / 1e6 + 1
    await harness.submit(message(intervals=[interval("news", begin=0, end=end, skip=["a", "b", "c"])]))

    await harness.advance(61)
    assert sorted(await harness.live_ids()) == ["a", "b", "c"]
    assert await windows(harness) == []

    await harness.create("d", created=NOW + 30)
    await harness.advance(120)
    assert [is_summary(name) for name in await harness.live_ids()] == [True]


async def test_failing_aggregator_does_not_flood_the_log(harness: SchedulerHarness) -> None:
    def failing(items: Sequence[Mapping[str, Any]]) -> Any:
        raise RuntimeError("no")

    harness = await build({"": WINDOW}, {"": failing})
    for number in range(FAILURE_LINES_BURST + 9):
        await harness.create("a", "b", "c", category=f"c{number}", uid=f"u{number}")
    with capture_logs() as logs:
        await harness.advance(60)

    assert harness.metrics.aggregator_failures.labels("")._value.get() == FAILURE_LINES_BURST + 9
    assert [line["event"] for line in logs] == ["aggregation.failed"] * FAILURE_LINES_BURST
