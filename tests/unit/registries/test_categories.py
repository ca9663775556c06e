"""What a process holds of the categories: taken over when told, found when not told, kept when unreadable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from gregor.core.errors import Problem
from gregor.core.limits import Limits
from gregor.redis.pubsub import MemoryFeed
from gregor.reference.store import MemoryStore
from gregor.registries.categories import CategoryEditor, CategoryRegistry
from gregor.registries.category_files import apply_first, check_file, read_checked, read_file
from gregor.rendering.renderer import TemplateItem
from gregor.store.contract.store import Contended, Unavailable
from tests.support.builders import NOW_US
from tests.support.wait import wait_until

A = {"a": {"title": "one"}}
B = {"b": {"title": "two"}}
NEVER_S = 3_600.0


class Ground:
    """A store, its feed, and registries that are closed in the end."""

    def __init__(self) -> None:
        self.feed = MemoryFeed()
        self.store = MemoryStore(Limits(), self.feed)
        self.failures: list[str] = []
        self.opened: list[CategoryRegistry] = []

    async def registry(self, *, hears: bool = True, check_s: float = NEVER_S) -> CategoryRegistry:
        made = CategoryRegistry(self.store, self.feed if hears else None, check_s=check_s, failed=self.failures.append)
        self.opened.append(made)
        await made.open()
        return made

    async def apply(self, entries: Any) -> None:
        assert await self.store.categories.apply(entries, NOW_US) is not None


@pytest.fixture
async def ground() -> AsyncIterator[Ground]:
    made = Ground()
    yield made
    for registry in made.opened:
        await registry.close()
    await made.feed.close()


async def test_a_process_begins_with_what_holds(ground: Ground) -> None:
    empty = await ground.registry(hears=False)
    await ground.apply(A)
    registry = await ground.registry()

    assert (empty.version, registry.version) == (0, 1)
    assert registry.current.resolve("a").title == "one"
    assert registry.renderer.rendered(TemplateItem("i", "a", None, 5)) == {"title": "one", "text": None, "link": None}


async def test_a_new_set_is_taken_over_when_it_is_told(ground: Ground) -> None:
    registry = await ground.registry()
    heard: list[int] = []
    registry.listen(lambda: heard.append(registry.version))

    await ground.apply(A)

    await wait_until(lambda: registry.version == 1, "the new set holds")
    assert heard == [1]
    assert registry.current.resolve("a").title == "one"


async def test_a_new_set_is_found_where_it_was_not_told(ground: Ground) -> None:
    deaf = await ground.registry(hears=False, check_s=0.01)
    missed = await ground.registry()
    ground.feed.drop_next()

    await ground.apply(A)

    await wait_until(lambda: deaf.version == 1, "the new set is found by looking")
    assert missed.version == 0
    missed.gap()
    await wait_until(lambda: missed.version == 1, "the new set is found after a gap")


async def test_a_set_that_cannot_be_read_leaves_the_last_good_one(ground: Ground) -> None:
    await ground.apply(A)
    registry = await ground.registry()

    await ground.apply({"a": {"field_of_a_later_version": 1}})
    await registry.refresh()
    await registry.refresh()
    assert (registry.version, registry.current.resolve("a").title) == (1, "one")

    await ground.apply(B)
    await registry.refresh()
    assert (registry.version, registry.current.resolve("b").title) == (3, "two")


async def test_a_store_that_is_away_changes_nothing_and_ends_nothing(ground: Ground) -> None:
    class Away(MemoryStore):
        """A store whose categories can be cut off."""

        is_away = False
        asked = 0

        @property
        def categories(self) -> Any:
            if self.is_away:
                self.asked += 1
                raise Unavailable("away")
            return super().categories

    store = Away(Limits())
    await store.categories.apply(A, NOW_US)
    registry = CategoryRegistry(store, check_s=0.01)
    await registry.open()
    store.is_away = True
    await wait_until(lambda: store.asked >= 2, "the registry has asked in vain")
    store.is_away = False
    await store.categories.apply(B, NOW_US)

    await wait_until(lambda: registry.version == 2, "the registry goes on")
    await registry.close()


async def test_a_listener_that_raises_harms_no_other(ground: Ground) -> None:
    registry = await ground.registry()
    heard: list[int] = []
    registry.listen(lambda: heard.append(1 // 0))
    registry.listen(lambda: heard.append(registry.version))

    await ground.apply(A)
    await registry.refresh()

    assert heard == [1]


async def test_failures_of_templates_are_counted(ground: Ground) -> None:
    await ground.apply({"a": {"title": "{{ 1 / body.n }}"}})
    registry = await ground.registry()

    for _ in range(3):
        rendered = registry.renderer.rendered(TemplateItem("i", "a", {"n": 0}, 5))
        assert rendered is not None and rendered["title"] == "A"

    assert ground.failures == ["title"] * 3


async def test_an_editor_makes_a_version_of_the_whole_set_for_each_change(ground: Ground) -> None:
    editor = CategoryEditor(ground.store.categories, read_checked)

    assert await editor.apply(A, NOW_US) == 1
    assert await editor.put("b", B["b"], NOW_US) == 2
    assert await editor.delete("a", NOW_US) == 3
    assert (await editor.present()).entries == B
    assert await editor.roll_back(1, NOW_US) == 4
    assert (await editor.present()).entries == A


async def test_an_editor_makes_no_version_where_nothing_changes(ground: Ground) -> None:
    editor = CategoryEditor(ground.store.categories, read_checked)
    await editor.apply(A, NOW_US)

    assert (
        await editor.apply(A, NOW_US) == await editor.put("a", A["a"], NOW_US) == await editor.delete("x", NOW_US) == 1
    )


async def test_an_editor_refuses_what_is_wrong_and_what_is_not_kept(ground: Ground) -> None:
    editor = CategoryEditor(ground.store.categories, read_checked)

    with pytest.raises(Problem) as wrong:
        await editor.put("a", {"title": "{{ x }}"}, NOW_US)
    with pytest.raises(Problem) as missing:
        await editor.roll_back(7, NOW_US)

    assert (wrong.value.code, missing.value.code) == ("schema", "not_found")
    assert await ground.store.categories.version() == 0


async def test_editors_at_the_same_time_lose_nothing_of_each_other(ground: Ground) -> None:
    editors = [CategoryEditor(ground.store.categories, read_checked) for _ in range(4)]

    await asyncio.gather(*(editor.put(f"c{n}", {"title": "x"}, NOW_US) for n, editor in enumerate(editors)))

    assert set((await editors[0].present()).entries) == {"c0", "c1", "c2", "c3"}


async def test_an_editor_that_never_comes_first_says_so_and_not_that_the_store_is_away(ground: Ground) -> None:
    categories, turns = ground.store.categories, count()

    def overtaken(_: Any) -> None:
        asyncio.run(categories.apply({"a": {"title": f"{next(turns)}"}}, NOW_US))

    with pytest.raises(Contended) as refused:
        await CategoryEditor(categories, overtaken).put("b", B["b"], NOW_US)

    problem = refused.value.problem()
    assert (problem.code, problem.retry_after_s) == ("unavailable", 1.0)
    assert "Others" in problem.detail and "reached" not in problem.detail
    assert set((await CategoryEditor(categories, read_checked).present()).entries) == {"a"}


async def test_the_file_of_the_setting_is_applied_where_nothing_ever_was(ground: Ground, tmp_path: Path) -> None:
    file = tmp_path / "categories.toml"
    file.write_text('["a"]\ntitle = "one"')

    await asyncio.gather(*(apply_first(ground.store.categories, file, NOW_US) for _ in range(3)))
    registry = await ground.registry()
    assert (registry.version, registry.current.resolve("a").title) == (1, "one")

    file.write_text('["a"]\ntitle = "other"')
    await apply_first(ground.store.categories, file, NOW_US)
    assert await ground.store.categories.version() == 1


async def test_a_bad_file_of_the_setting_is_refused(ground: Ground, tmp_path: Path) -> None:
    file = tmp_path / "categories.toml"
    file.write_text('["a"]\ntitel = "one"')

    with pytest.raises(Problem, match="titel"):
        await apply_first(ground.store.categories, file, NOW_US)


def test_a_file_brings_the_html_of_files_beside_it(tmp_path: Path) -> None:
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
def test_a_file_that_cannot_be_used_is_told_once_by_its_name(tmp_path: Path, named: str, words: str) -> None:
    (tmp_path / "bad.html").write_bytes(b"\xff")
    file = tmp_path / "categories.toml"
    file.write_text(f'["a"]\ntitle = "x"\nemail.html = "file:{named}"')

    [mistake] = check_file(file)

    assert mistake.pointer == "/a/email/html"
    assert words in mistake.detail and named in mistake.detail
    with pytest.raises(Problem):
        read_file(file)


def test_json_with_the_same_names_is_read_too(tmp_path: Path) -> None:
    file = tmp_path / "categories.json"
    file.write_text('{"a": {"title": "x"}}')

    assert read_file(file) == {"a": {"title": "x"}}


def test_a_number_that_only_toml_can_carry_is_a_mistake_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('["a"]\nbody_schema = { maximum = 99999999999999999999 }')

    [mistake] = check_file(file)

    assert mistake.pointer == "/a/body_schema/maximum"


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
def test_what_is_no_toml_and_no_json_is_one_problem(tmp_path: Path, name: str, text: str | bytes) -> None:
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(Problem) as refused:
        check_file(file)

    assert str(file) in refused.value.detail
