"""The category cache of a process, the editor of categories, and category files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from gregor.core.errors import Problem
from gregor.core.limits import Limits
from gregor.redis.pubsub import MemoryPubSub
from gregor.reference.store import MemoryStore
from gregor.registries import versioned_cache
from gregor.registries.categories import CategoryEditor, CategoryRegistry
from gregor.registries.category_files import apply_initial_file, check_file, read_checked, read_file
from gregor.rendering.renderer import TemplateItem
from gregor.store.contract.store import Contended, Unavailable
from tests.support.builders import NOW_US
from tests.support.wait import wait_until

A = {"a": {"title": "one"}}
B = {"b": {"title": "two"}}
NEVER_S = 3_600.0


class Deployment:
    """A store, its pub/sub, and registries that the fixture closes."""

    def __init__(self) -> None:
        self.feed = MemoryPubSub()
        self.store = MemoryStore(Limits(), self.feed)
        self.failures: list[str] = []
        self.opened: list[CategoryRegistry] = []

    async def registry(self, *, is_subscribed: bool = True, poll_s: float = NEVER_S) -> CategoryRegistry:
        made = CategoryRegistry(
            self.store, self.feed if is_subscribed else None, poll_s=poll_s, count_failure=self.failures.append
        )
        self.opened.append(made)
        await made.open()
        return made

    async def apply(self, entries: Any) -> None:
        assert await self.store.categories.apply(entries, NOW_US) is not None


@pytest.fixture
async def deployment() -> AsyncIterator[Deployment]:
    made = Deployment()
    yield made
    for registry in made.opened:
        await registry.close()
    await made.feed.close()


async def test_registry_loads_the_current_set(deployment: Deployment) -> None:
    empty = await deployment.registry(is_subscribed=False)
    await deployment.apply(A)
    registry = await deployment.registry()

    assert (empty.version, registry.version) == (0, 1)
    assert registry.current.resolve("a").title == "one"
    assert registry.renderer.render_texts(TemplateItem("i", "a", None, 5)) == {
        "title": "one",
        "text": None,
        "link": None,
    }


async def test_other_tasks_run_while_a_large_set_is_parsed(deployment: Deployment) -> None:
    patterns = {f"p{n}": {"pattern": f"^[ab]{{0,9}}x{n}"} for n in range(200)}
    await deployment.apply({f"c{n}": {"body_schema": {"properties": patterns}} for n in range(9)})
    opening = asyncio.create_task(deployment.registry())
    turns = 0

    while not opening.done():
        turns += 1
        await asyncio.sleep(0)

    assert opening.result().version == 1
    assert turns > 30, turns  # without a thread: 10


async def test_message_invalidates_the_cache(deployment: Deployment) -> None:
    registry = await deployment.registry()
    called_with: list[int] = []
    registry.on_change(lambda: called_with.append(registry.version))

    await deployment.apply(A)

    await wait_until(lambda: registry.version == 1, "the new set is loaded")
    assert called_with == [1]
    assert registry.current.resolve("a").title == "one"


async def test_poll_or_gap_finds_a_lost_message(deployment: Deployment) -> None:
    polling = await deployment.registry(is_subscribed=False, poll_s=0.01)
    subscribed = await deployment.registry()
    deployment.feed.drop_next()

    await deployment.apply(A)

    await wait_until(lambda: polling.version == 1, "the poll finds the new set")
    assert subscribed.version == 0
    subscribed.gap(same_server=True)
    await wait_until(lambda: subscribed.version == 1, "the gap invalidates the cache")


@pytest.mark.parametrize("is_subscribed", [True, False], ids=["gap", "poll"])
async def test_other_set_with_the_same_version_is_loaded(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, is_subscribed: bool
) -> None:
    """Redis restarts empty or from an older snapshot, and the next change has the number of a lost one."""
    monkeypatch.setattr(versioned_cache, "RECHECK_S", 0.0 if not is_subscribed else NEVER_S)
    await deployment.apply(A)
    registry = await deployment.registry(is_subscribed=is_subscribed, poll_s=NEVER_S if is_subscribed else 0.01)
    changes: list[int] = []
    registry.on_change(lambda: changes.append(registry.version))

    deployment.store._categories = MemoryStore(Limits()).categories
    await deployment.apply(B)
    if is_subscribed:
        registry.gap(same_server=True)
    await wait_until(lambda: registry.current.resolve("b").title == "two", "the stored set is loaded")
    for _ in range(3):
        registry.gap(same_server=True)
        await registry.refresh()

    assert (registry.version, changes) == (1, [1])


async def test_unreadable_set_keeps_the_last_good_one(deployment: Deployment) -> None:
    await deployment.apply(A)
    registry = await deployment.registry()

    await deployment.apply({"a": {"field_of_a_later_version": 1}})
    await registry.refresh()
    await registry.refresh()
    assert (registry.version, registry.current.resolve("a").title) == (1, "one")

    await deployment.apply(B)
    await registry.refresh()
    assert (registry.version, registry.current.resolve("b").title) == (3, "two")


async def test_registry_survives_an_unavailable_store(deployment: Deployment) -> None:
    class InterruptibleStore(MemoryStore):
        """A store whose categories can be made unavailable."""

        is_unavailable = False
        reads = 0

        @property
        def categories(self) -> Any:
            if self.is_unavailable:
                self.reads += 1
                raise Unavailable("away")
            return super().categories

    store = InterruptibleStore(Limits())
    await store.categories.apply(A, NOW_US)
    registry = CategoryRegistry(store, poll_s=0.01)
    await registry.open()
    store.is_unavailable = True
    await wait_until(lambda: store.reads >= 2, "two refreshes failed")
    store.is_unavailable = False
    await store.categories.apply(B, NOW_US)

    await wait_until(lambda: registry.version == 2, "the registry recovers")
    await registry.close()


async def test_failing_listener_does_not_stop_the_others(deployment: Deployment) -> None:
    registry = await deployment.registry()
    called_with: list[int] = []
    registry.on_change(lambda: called_with.append(1 // 0))
    registry.on_change(lambda: called_with.append(registry.version))

    await deployment.apply(A)
    await registry.refresh()

    assert called_with == [1]


async def test_template_failures_are_counted(deployment: Deployment) -> None:
    await deployment.apply({"a": {"title": "{{ 1 / body.n }}"}})
    registry = await deployment.registry()

    for _ in range(3):
        rendered = registry.renderer.render_texts(TemplateItem("i", "a", {"n": 0}, 5))
        assert rendered is not None and rendered["title"] == "A"

    assert deployment.failures == ["title"] * 3


async def test_each_change_stores_a_new_version(deployment: Deployment) -> None:
    editor = CategoryEditor(deployment.store.categories, read_checked)

    assert await editor.apply(A, NOW_US) == 1
    assert await editor.put("b", B["b"], NOW_US) == 2
    assert await editor.delete("a", NOW_US) == 3
    assert (await editor.current()).entries == B
    assert await editor.roll_back(1, NOW_US) == 4
    assert (await editor.current()).entries == A


async def test_unchanged_set_stores_no_version(deployment: Deployment) -> None:
    editor = CategoryEditor(deployment.store.categories, read_checked)
    await editor.apply(A, NOW_US)

    assert (
        await editor.apply(A, NOW_US) == await editor.put("a", A["a"], NOW_US) == await editor.delete("x", NOW_US) == 1
    )


async def test_editor_refuses_errors_and_unknown_versions(deployment: Deployment) -> None:
    editor = CategoryEditor(deployment.store.categories, read_checked)

    with pytest.raises(Problem) as wrong:
        await editor.put("a", {"title": "{{ x }}"}, NOW_US)
    with pytest.raises(Problem) as missing:
        await editor.roll_back(7, NOW_US)

    assert (wrong.value.code, missing.value.code) == ("schema", "not_found")
    assert await deployment.store.categories.version() == 0


async def test_concurrent_edits_are_all_stored(deployment: Deployment) -> None:
    editors = [CategoryEditor(deployment.store.categories, read_checked) for _ in range(4)]

    await asyncio.gather(*(editor.put(f"c{n}", {"title": "x"}, NOW_US) for n, editor in enumerate(editors)))

    assert set((await editors[0].current()).entries) == {"c0", "c1", "c2", "c3"}


async def test_contended_edit_is_not_reported_as_an_outage(
    deployment: Deployment,
) -> None:
    categories, turns = deployment.store.categories, count()

    def overtaken(_: Any) -> None:
        asyncio.run(categories.apply({"a": {"title": f"{next(turns)}"}}, NOW_US))

    with pytest.raises(Contended) as refused:
        await CategoryEditor(categories, overtaken).put("b", B["b"], NOW_US)

    problem = refused.value.problem()
    assert (problem.code, problem.retry_after_s) == ("unavailable", 1.0)
    assert "concurrently" in problem.detail and "unavailable" not in problem.detail
    assert set((await CategoryEditor(categories, read_checked).current()).entries) == {"a"}


async def test_initial_file_is_applied_once(deployment: Deployment, tmp_path: Path) -> None:
    file = tmp_path / "categories.toml"
    file.write_text('["a"]\ntitle = "one"')

    await asyncio.gather(*(apply_initial_file(deployment.store.categories, file, NOW_US) for _ in range(3)))
    registry = await deployment.registry()
    assert (registry.version, registry.current.resolve("a").title) == (1, "one")

    file.write_text('["a"]\ntitle = "other"')
    await apply_initial_file(deployment.store.categories, file, NOW_US)
    assert await deployment.store.categories.version() == 1


async def test_invalid_initial_file_is_refused(deployment: Deployment, tmp_path: Path) -> None:
    file = tmp_path / "categories.toml"
    file.write_text('["a"]\ntitel = "one"')

    with pytest.raises(Problem, match="titel"):
        await apply_initial_file(deployment.store.categories, file, NOW_US)


def test_file_texts_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / "a.html").write_text("<p>è</p>", "utf-8")
    file = tmp_path / "categories.toml"
    file.write_text('["a"]\ntitle = "x"\nemail.html = "file:mail/a.html"\nlocales.it.email.html = "file: mail/a.html"')

    entries = read_file(file)

    assert entries["a"]["email"]["html"] == entries["a"]["locales"]["it"]["email"]["html"] == "<p>è</p>"
    assert check_file(file) == []


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("nosuch.html", "No such file"),
        ("../x.html", "outside"),
        ("/etc/hostname", "outside"),
        ("bad.html", "not UTF-8"),
    ],
)
def test_unusable_file_text_is_reported_once(tmp_path: Path, named: str, words: str) -> None:
    (tmp_path / "bad.html").write_bytes(b"\xff")
    file = tmp_path / "categories.toml"
    file.write_text(f'["a"]\ntitle = "x"\nemail.html = "file:{named}"')

    [error] = check_file(file)

    assert error.pointer == "/a/email/html"
    assert words in error.detail and named in error.detail
    with pytest.raises(Problem):
        read_file(file)


@pytest.mark.parametrize(("name", "text"), [("a.toml", 'title = "x"'), ("a.json", '{"title":"x"}')])
def test_byte_order_mark_of_a_file_is_ignored(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, "utf-8-sig")

    assert read_file(tmp_path / name) == {"title": "x"}


def test_json_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "categories.json"
    file.write_text('{"a": {"title": "x"}}')

    assert read_file(file) == {"a": {"title": "x"}}


def test_toml_integer_out_of_json_range_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('["a"]\nbody_schema = { maximum = 99999999999999999999 }')

    [error] = check_file(file)

    assert error.pointer == "/a/body_schema/maximum"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", '["a"'),
        ("a.json", "{"),
        ("a.toml", b"\xff"),
        ("a.json", '{"a":{"title":"x","title":"y"}}'),
        ("a.json", '{"a":{"title":"\\ud800"}}'),
        ("a.json", "[" * 100_000),
        ("a.toml", "a = " + "[" * 100_000),
    ],
)
def test_malformed_file_is_one_problem(tmp_path: Path, name: str, text: str | bytes) -> None:
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(Problem) as refused:
        check_file(file)

    assert str(file) in refused.value.detail
