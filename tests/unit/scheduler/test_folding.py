"""Windows that end: many items become one, or stay (semantics.md, "Aggregation")."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gregor.aggregators import comments_by_thread
from gregor.core.messages.model import RemovalReason, Sender
from gregor.core.notify.aggregation import is_summary, summary_id
from gregor.store.contract.agenda import WorkKind
from gregor.store.contract.devices import Registration
from tests.support.builders import BACKEND, BY_BACKEND, NOW, NOW_US, interval, message
from tests.support.wait import wait_until
from tests.unit.scheduler.conftest import House, build

PHONE = Sender(device="phone")
WINDOW = {"title": "News", "aggregate": {"window": "60s", "at_least": 3, "keep": 2}}


async def folding(**more: Any) -> House:
    return await build({"news": WINDOW | more})


async def summary(house: House) -> Any:
    """The one summary, as it goes out."""
    full = await house.store.users.state("alice", BACKEND, house.clock.now_us())
    (found,) = [entry for entry in full.items if is_summary(entry.id)]
    return json.loads(found.json)


async def test_enough_items_become_one_at_the_end_of_the_window(house: House) -> None:
    house = await folding()
    for number, item_id in enumerate("abc"):
        await house.create(item_id, body={"n": number}, created=NOW + number)
        await house.pass_time(1)
    house.told()

    await house.pass_time(56)
    assert house.told() == []
    await house.pass_time(1)

    name = summary_id("abc")
    assert house.happened() == [f"created {name}", "aggregated a", "aggregated b", "aggregated c"]
    assert await house.live() == [name]
    made = await summary(house)
    assert (made["category"], made["for_device"], made["times"]) == ("news", None, {"created": NOW + 2})
    assert made["body"] == {
        "summary": {
            "count": 3,
            "since": NOW,
            "sample": [{"id": "c", "body": {"n": 2}}, {"id": "b", "body": {"n": 1}}],
        }
    }
    await house.pass_time(300)
    assert house.told() == []


async def windows(house: House) -> list[float]:
    """When alice's windows end, in seconds after the beginning."""
    works = await house.store.agenda.due_work("alice", NOW_US + 10**12, 100)
    return [(work.at_us - NOW_US) / 1e6 for work in works if work.kind is WorkKind.WINDOW]


async def test_a_window_closes_behind_what_it_folded(house: House) -> None:
    house = await folding()
    await house.create("a", "b", "c")
    assert await windows(house) == [60]

    await house.pass_time(60)

    assert await windows(house) == []


async def test_what_comes_while_a_window_is_being_folded_gets_a_window_of_its_own(house: House) -> None:
    loop = asyncio.get_running_loop()

    def slow(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if len(items) == 3:
            asyncio.run_coroutine_threadsafe(house.create("d"), loop).result()
        return {"n": len(items)}

    house = await build({"": WINDOW}, {"": slow})
    await house.create("a", "b", "c")
    await house.pass_time(60)
    assert sorted(await house.live()) == ["d", summary_id("abc")]
    assert await windows(house) == [120]

    await house.pass_time(60)

    assert await house.live() == [summary_id(["d", summary_id("abc")])]


async def test_too_few_stay_and_a_later_window_takes_them(house: House) -> None:
    house = await folding()
    await house.create("a", "b")
    await house.pass_time(100)
    assert await house.live() == ["a", "b"]

    await house.create("c")
    await house.pass_time(59)
    assert len(await house.live()) == 3
    await house.pass_time(1)
    assert len(await house.live()) == 1


async def test_a_later_fold_takes_in_the_previous_summary(house: House) -> None:
    house = await folding()
    await house.create("a", "b", "c", created=NOW)
    await house.pass_time(60)
    first = await house.live()

    await house.create("d", created=NOW + 70)
    await house.pass_time(60)

    assert await house.live() == [summary_id(["d", *first])]
    told = (await summary(house))["body"]["summary"]
    assert (told["count"], told["since"], [each["id"] for each in told["sample"]]) == (4, NOW, ["d", "c"])


async def test_items_of_one_device_and_of_other_categories_are_groups_of_their_own(house: House) -> None:
    house = await build({"": WINDOW})
    for for_device in (None, "phone"):
        for category in ("news", "news.local"):
            await house.create(f"{category}-{for_device}", category=category, for_device=for_device)

    await house.pass_time(61)

    assert len(await house.live()) == 4


async def test_what_a_device_dismissed_for_itself_is_not_folded(house: House) -> None:
    house = await folding()
    await house.create("a", "b", "c", for_device="*")
    await house.say(message(ids=["b"]), Sender("phone"))

    await house.pass_time(61)

    assert await house.live() == ["a", "b", "c"]


async def test_a_dismissal_up_to_what_was_seen_takes_the_summary_too(house: House) -> None:
    house = await folding()
    await house.create("a", "b", "c", created=NOW)
    await house.pass_time(60)

    await house.say(message(intervals=[interval("news", end=NOW)]))

    assert await house.live() == []


async def test_a_summary_expires_with_the_last_of_what_it_folds(house: House) -> None:
    house = await folding()
    await house.create("a", "b", created=NOW, expires=NOW + 100)
    await house.create("c", created=NOW, expires=NOW + 200)
    await house.pass_time(60)
    assert (await summary(house))["times"]["expires"] == NOW + 200

    await house.pass_time(140)

    assert await house.live() == []


async def test_a_summary_is_pushed_as_one_and_its_items_no_more(house: House) -> None:
    house = await folding(push={"after": "90s"})
    push = {"provider": "apns", "token": "t"}
    await house.store.devices.put_device("alice", "phone", Registration(push=push), NOW_US)
    await house.create("a", "b", "c")

    await house.pass_time(149)
    assert house.handed() == []
    await house.pass_time(1)

    assert house.handed() == [f"summary {summary_id('abc')} apns phone"]


async def test_a_schema_of_the_body_does_not_hold_for_the_summary(house: House) -> None:
    house = await folding(body_schema={"type": "object", "required": ["n"]})
    for number in range(3):
        await house.create(f"i{number}", body={"n": number})

    await house.pass_time(60)

    assert (await summary(house))["body"]["summary"]["count"] == 3


async def test_samples_are_kept_as_far_as_a_body_holds_them(house: House) -> None:
    house = await build({"news": WINDOW | {"aggregate": {"window": "60s", "at_least": 3, "keep": 20}}})
    for number in range(5):
        await house.create(f"i{number}", body="x" * 6_000, created=NOW + number)

    await house.pass_time(60)

    told = (await summary(house))["body"]["summary"]
    assert (told["count"], [each["id"] for each in told["sample"]]) == (5, ["i4", "i3"])


def joined(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An aggregator of a test."""
    words = [word for item in items for word in item["body"].get("words", [item["body"].get("word")])]
    return {"words": words}


async def test_an_aggregator_makes_the_body_for_the_categories_below_its_name(house: House) -> None:
    house = await build({"": WINDOW}, {"news": joined})
    for word in "xyz":
        await house.create(f"n{word}", category="news.local", body={"word": word})
        await house.create(f"o{word}", category="other", body={"word": word})
    await house.pass_time(60)
    await house.create("nw", category="news.local", body={"word": "w"})
    await house.pass_time(60)

    full = await house.store.users.state("alice", BACKEND, house.clock.now_us())
    bodies = {entry.category: json.loads(entry.json)["body"] for entry in full.items}
    assert bodies["news.local"] == {"words": ["x", "y", "z", "w"]}
    assert bodies["other"]["summary"]["count"] == 3


async def test_an_aggregator_that_fails_loses_nothing_is_counted_and_tried_again(house: House) -> None:
    made: list[object] = [RuntimeError("no"), [1], {"big": "x" * 20_000}, {"nan": float("nan")}, {"fine": True}]

    def failing(items: Sequence[Mapping[str, Any]]) -> Any:
        body = made.pop(0)
        if isinstance(body, Exception):
            raise body
        return body

    house = await build({"": WINDOW}, {"": failing})
    await house.create("a", "b", "c")
    for failures in range(1, 5):
        await house.pass_time(60)
        assert await house.live() == ["a", "b", "c"]
        assert house.figures.aggregator_failures.labels("")._value.get() == failures

    await house.pass_time(60)
    assert (await summary(house))["body"] == {"fine": True}


async def test_the_example_groups_comments_by_thread(house: House) -> None:
    house = await build({"": WINDOW}, {"example.comments": comments_by_thread})

    async def comment(item_id: str, thread: str, author: str) -> None:
        body = {"thread": thread, "author": author, "text": f"{author} in {thread}"}
        await house.create(item_id, category="example.comments", body=body)

    for number, (thread, author) in enumerate((("t", "ann"), ("u", "bob"), ("t", "bob"))):
        await comment(f"c{number}", thread, author)
    await house.pass_time(60)
    await comment("c9", "t", "ann")
    await house.pass_time(60)

    assert (await summary(house))["body"] == {
        "threads": [
            {"thread": "t", "count": 3, "authors": ["ann", "bob"], "text": "ann in t"},
            {"thread": "u", "count": 1, "authors": ["bob"], "text": "bob in u"},
        ]
    }


async def test_an_aggregator_that_hangs_loses_nothing_costs_one_thread_and_keeps_nobody_waiting(house: House) -> None:
    release, calls = threading.Event(), []

    def hanging(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        calls.append(len(items))
        release.wait()
        return {"fine": True}

    house = await build({"": WINDOW, "news": {}}, {"slow": hanging}, max_wait_s=0.05)
    for uid in ("alice", "bob"):
        await house.create("a", "b", "c", uid=uid, category="slow")
        await house.create("x", "y", "z", uid=uid, category="news")
    for failures in (2, 4):
        await house.pass_time(60)
        assert house.figures.aggregator_failures.labels("slow")._value.get() == failures
    assert calls == [3]
    assert [name for name in await house.live() if not is_summary(name)] == ["a", "b", "c"]

    release.set()
    await wait_until(lambda: not hangs(), "the thread has ended")
    await house.pass_time(60)
    assert calls == [3, 3, 3] and all(is_summary(name) for name in await house.live())


def hangs() -> bool:
    return any(thread.name == "aggregator" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("ids", "sender", "left"), [("abcd", BY_BACKEND, "acd"), ("abcd", PHONE, "acd"), ("abc", BY_BACKEND, "")]
)
async def test_a_fold_holds_only_if_every_item_is_there_as_planned(ids: str, sender: Sender, left: str) -> None:
    asked, answer, planned = threading.Event(), threading.Event(), []

    def thinking(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        planned.append("".join(item["id"] for item in items))
        asked.set()
        answer.wait()
        return {"of": planned[-1]}

    house = await build({"news": WINDOW}, {"": thinking}, max_wait_s=60)
    await house.create(*ids, for_device="*")
    house.told()
    house.clock.advance(60)
    folding = asyncio.create_task(house.drain.run_due())
    await wait_until(asked.is_set, "the fold is planned")
    await house.say(message(ids=["b"]), sender)
    answer.set()
    await folding

    assert planned == ([ids, left] if left else [ids])
    folds = [announcement for announcement in house.told() if announcement.reason is RemovalReason.AGGREGATED]
    gone = {entry.id for fold in folds for entry in fold.entries if entry.packed is None}
    assert len(folds) == bool(left) and gone == set(left)
    if left:
        assert (await summary(house))["body"] == {"of": left}


async def test_a_round_does_not_wait_for_a_user_who_takes_long(house: House) -> None:
    release = threading.Event()

    def hanging(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        release.wait()
        return {}

    house = await build({"news": WINDOW}, {"": hanging}, max_wait_s=60)
    await house.create("a", "b", "c")
    await house.create("r", uid="bob", category="plain", remind_at=["+61"])
    house.told()
    house.clock.advance(60)
    ticking = asyncio.create_task(house.drain.tick(3_600))
    await wait_until(hangs, "the aggregator is called")
    house.clock.advance(1)
    await wait_until(lambda: house.figures.timers.labels("remind", "done")._value.get(), "bob is reminded")
    assert house.figures.timers.labels("window", "done")._value.get() == 0

    stopping = asyncio.create_task(house.drain.stop())
    release.set()
    await stopping
    await ticking
    assert house.figures.timers.labels("window", "done")._value.get() == 1
