"""Categories at the gateway: rendered texts, uncounted items, and the check of device messages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gregor.core.errors import Problem
from gregor_gateway.fanout.rendering import MAX_LIVE_NS
from gregor_gateway.protocol.hello import Hello, read_hello, read_query
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import Gateway, settle

ENTRIES: dict[str, Any] = {
    "user.joined": {
        "title": "{{ body.k }} joined",
        "link": "app://{{ body.k }}",
        "expires_after": 60,
        "body_schema": {"type": "object"},
        "locales": {"it": {"title": "ecco {{ body.k }}"}},
    },
    "sys": {"counts_in_badge": False},
}
ENGLISH = {"title": "kb joined", "text": None, "link": "app://kb"}
ITALIAN = {**ENGLISH, "title": "ecco kb"}


async def apply(gateway: Gateway, entries: dict[str, Any] = ENTRIES) -> None:
    assert await gateway.store.categories.apply(entries, gateway.clock.now_us())
    await gateway.context.registry.refresh()


async def test_sync_carries_rendered_texts(gateway: Gateway) -> None:
    await apply(gateway)
    await gateway.create("aa", body={"k": "kb"})
    italian, plain = gateway.dial("phone", hello=Hello(render="it-IT")), gateway.dial("laptop")

    full, bare = await italian.until("full"), await plain.until("full")

    assert full["rendered"] == {"aa": ITALIAN}
    assert "rendered" not in bare
    assert (full["body"], full["digest"]) == (bare["body"], bare["digest"])


async def test_live_frames_are_rendered_in_each_locale(gateway: Gateway) -> None:
    await apply(gateway)
    lines = [
        await gateway.connect("phone", hello=Hello(render=locale, session=session))
        for session, locale in (("a", "it"), ("b", "en"), ("c", None))
    ]

    await gateway.create("aa", body={"k": "kb"})
    await gateway.create("bb", category="other")
    await gateway.dismiss("aa")
    await gateway.create("cc", body={"k": "kb"})

    for device, words in zip(lines, (ITALIAN, ENGLISH, None), strict=True):
        made, other = await device.until("create"), await device.until("create", 2)
        gone, again = await device.until("dismiss"), await device.until("create", 3)
        assert again.get("rendered") == (None if words is None else {"cc": words})
        assert made.get("rendered") == (None if words is None else {"aa": words})
        assert "rendered" not in other and "rendered" not in gone


async def test_only_items_of_the_view_are_rendered(gateway: Gateway) -> None:
    await apply(gateway)
    device = await gateway.connect("phone", hello=Hello(render="en"))

    item = {"category": "user.joined", "body": {"k": "kb"}}
    await gateway.send({"create": {"mine": item, "yours": {**item, "for_device": "laptop"}}})

    assert (await device.until("create"))["rendered"] == {"mine": ENGLISH}


async def test_welcome_is_resent_when_uncounted_changes(gateway: Gateway) -> None:
    await apply(gateway)
    gateway.rules = gateway.context.rules(pings=False, welcomes=True, sends_unchanged=True)
    device = gateway.dial()
    assert (await device.until("welcome"))["welcome"]["uncounted"] == ["sys"]
    await device.until("full")

    await apply(gateway, {**ENTRIES, "follow": {"title": "x"}})
    await apply(gateway, {**ENTRIES, "news": {"counts_in_badge": False}})
    gateway.pass_time(1)

    again = await device.until("welcome", 2)
    assert again["welcome"]["uncounted"] == ["news", "sys"]
    assert again["welcome"].keys() == device.frames[0]["welcome"].keys()
    gateway.pass_time(5)
    await settle()
    assert device.kinds.count("welcome") == 2


async def test_welcome_names_no_category_outside_of_the_limits_of_the_token(gateway: Gateway) -> None:
    await apply(gateway, {name: {"counts_in_badge": False} for name in ("secret", "news.sport", "mail")})
    gateway.rules = gateway.context.rules(pings=False, welcomes=True, sends_unchanged=True)

    device = gateway.dial(category_filter=("mail.inbox", "news"))

    assert (await device.until("welcome"))["welcome"]["uncounted"] == ["mail.inbox", "news.sport"]


async def test_poll_has_uncounted_but_no_welcome(gateway: Gateway) -> None:
    await apply(gateway)
    poll = await gateway.connect()

    await apply(gateway, {})
    gateway.pass_time(1)
    await settle()

    assert "welcome" not in poll.kinds


async def test_device_message_is_checked_by_its_category(gateway: Gateway) -> None:
    await apply(gateway)
    device = await gateway.connect()
    item = {"category": "user.joined", "times": {"created": 1457056447}}

    device.send(ref=1, system="gregor", body={"create": {"aa": {**item, "body": {}}}})
    device.send(ref=2, system="gregor", body={"create": {"bb": {**item, "body": 5}}})

    assert (await device.until("create"))["body"]["create"]["aa"]["times"]["expires"] == 1457056447 + 60
    problem = (await device.until("problem"))["problem"]
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("schema", "/body/create/bb/body")


def test_locale_comes_from_hello_or_query() -> None:
    assert read_hello({"render": "it-IT"}).render == read_query([("render", "it-IT")], None).render == "it-IT"
    assert read_hello({}).render is None
    for value in ("", "it it", "x" * 36, 5):
        try:
            read_hello({"render": value})
        except Problem as problem:
            assert (problem.code, problem.errors[0].pointer) == ("invalid", "/hello/render")
        else:
            raise AssertionError(value)


async def test_too_many_texts_for_a_live_frame_arrive_as_a_sync(gateway: Gateway) -> None:
    await apply(gateway)
    gateway.rules = replace(gateway.rules, queue_bytes=1 << 20)
    italian, english, german, french = [
        await gateway.connect(hello=Hello(render=locale, session=locale)) for locale in ("it", "en", "de", "fr")
    ]

    await gateway.create("large", "equal", body={"k": "kb", "text": "x" * 7_900})
    await gateway.create(*(f"o{n}" for n in range(5)), category="other", body="x" * 15_000)

    for device, words in ((italian, ITALIAN), (english, ENGLISH), (german, ENGLISH)):
        assert (await device.until("create"))["rendered"] == {"large": words, "equal": words}
    sync = await wait_until(lambda: next((each for each in french.frames if "sync" in each), None), "the sync")
    assert sync["rendered"] == {"large": ENGLISH, "equal": ENGLISH}
    for device in (italian, english, german, french):
        await wait_until(lambda device=device: "o4" in str(device.frames), "the last items")
        assert device.seqs[-1] == 2


async def test_large_item_with_texts_arrives_as_a_sync(gateway: Gateway) -> None:
    """Its texts alone could stop the event loop for a tenth of a second; those of a sync are rendered in a thread."""
    await apply(gateway)
    device = await gateway.connect(hello=Hello(render="it"))

    await gateway.create("large", body={"k": "kb", "text": "x" * 8_200})

    sync = await wait_until(lambda: next((each for each in device.frames if "sync" in each), None), "the sync")
    assert sync["rendered"] == {"large": ITALIAN}


async def test_slow_texts_arrive_as_a_sync(gateway: Gateway) -> None:
    """Live frames are written in one step, for which all other users wait."""
    await apply(gateway)
    slow_clock(gateway, ns=MAX_LIVE_NS + 1)
    device = await gateway.connect(hello=Hello(render="it"))

    await gateway.create("aa", "bb", body={"k": "kb"})

    sync = await wait_until(lambda: next((each for each in device.frames if "sync" in each), None), "the sync")
    assert sync["rendered"] == {"aa": ITALIAN, "bb": ITALIAN}


@pytest.mark.parametrize(("second", "charged"), [("phone", 4), ("pad", 2)], ids=["one device", "two devices"])
async def test_processor_time_of_texts_is_charged(gateway: Gateway, second: str, charged: int) -> None:
    """The devices of a user share the charge."""
    await apply(gateway)
    devices = [
        await gateway.connect(device, hello=Hello(render=locale, session=locale))
        for device, locale in (("phone", "it"), (second, "en"))
    ]
    before = joins_left(gateway)
    slow_clock(gateway, ns=4_000_000)

    await gateway.create("aa", body={"k": "kb"})

    for device in devices:
        await device.until("create")
    assert joins_left(gateway) == before - charged


async def test_texts_wait_until_their_work_is_allowed(gateway: Gateway) -> None:
    """The device gets one sync for all that came meanwhile; frames without texts are not delayed."""
    await apply(gateway)
    device = await gateway.connect("phone", hello=Hello(render="it"))
    plain = await gateway.connect("phone", hello=Hello(session="plain"))
    gateway.context.join_rates.charge("alice", "phone", 200, gateway.context.timers.now)
    await gateway.create("zz", category="other")
    await device.until("create")
    device.frames.clear()

    for name in ("aa", "bb", "cc"):
        await gateway.create(name, body={"k": "kb"})
        await plain.until("create", "abc".index(name[0]) + 2)
    await settle()
    assert device.frames == []
    gateway.pass_time(1)

    sync = await wait_until(lambda: next((each for each in device.frames if "sync" in each), None), "the sync")
    assert set(sync["rendered"]) == {"aa", "bb", "cc"}


async def test_cpu_time_of_a_join_is_charged(gateway: Gateway) -> None:
    await apply(gateway)
    slow_clock(gateway, ns=10_000_000)
    before = joins_left(gateway)

    await gateway.connect("phone")

    # One step: the memory store does not wait. A unit is 2 ms.
    assert joins_left(gateway) == before - 1 - 5


def slow_clock(gateway: Gateway, ns: int) -> None:
    """Let each measured step take so much CPU time."""
    gateway.clock.cpu_step_ns = ns


def joins_left(gateway: Gateway) -> int:
    return gateway.context.join_rates.left("alice", "phone", gateway.context.timers.now).remaining


async def test_equal_texts_are_rendered_once_for_all_views(gateway: Gateway) -> None:
    await apply(gateway)
    gateway.rules = replace(gateway.rules, queue_bytes=1 << 20)
    devices = [await gateway.connect(f"d{n}", hello=Hello(render="it")) for n in range(10)]

    await gateway.create("aa", body={"k": "kb", "text": "x" * 8_000})

    for device in devices:
        assert (await device.until("create"))["rendered"] == {"aa": ITALIAN}


async def test_receipt_follows_the_sync_of_a_large_message(gateway: Gateway) -> None:
    await apply(gateway)
    gateway.rules = replace(gateway.rules, queue_bytes=1 << 20)
    device = await gateway.connect(hello=Hello(render="it"))
    created = {f"i{n}": {"category": "user.joined", "body": {"k": "kb", "text": "x" * 3_000}} for n in range(40)}

    device.send(ref=1, system="gregor", body={"create": created})

    await device.until("receipt")
    sync, receipt = device.frames
    assert set(sync["rendered"]) == set(created)
    assert "sync" in sync and "receipt" in receipt
