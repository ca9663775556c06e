"""Suppressed e-mail addresses, in every store."""

from gregor.store.contract.store import Store
from tests.support.builders import NOW_US


async def listed(store: Store, limit: int = 10) -> list[tuple[str, str]]:
    return [(each.email, each.reason) for each in await store.suppressions.listed(None, limit)]


async def test_address_is_suppressed_until_released(store: Store) -> None:
    assert await store.suppressions.suppression("alice@example.com") is None

    made = await store.suppressions.suppress("alice@example.com", "bounce", NOW_US)

    assert await store.suppressions.suppression("alice@example.com") == made
    assert await store.suppressions.suppression("bob@example.com") is None
    assert await store.suppressions.release("alice@example.com")
    assert await store.suppressions.suppression("alice@example.com") is None
    assert not await store.suppressions.release("alice@example.com")


async def test_suppression_ignores_case(store: Store) -> None:
    await store.suppressions.suppress("Alice@Bücher.example", "bounce", NOW_US)

    for same in ("alice@bücher.example", "ALICE@xn--bcher-kva.example"):
        assert await store.suppressions.suppression(same) is not None
    assert await store.suppressions.release("aLICE@BÜCHER.example")
    assert await listed(store) == []


async def test_last_suppression_reason_wins(store: Store) -> None:
    await store.suppressions.suppress("a@example.com", "bounce", NOW_US)
    await store.suppressions.suppress("b@example.com", "bounce", NOW_US + 1)
    await store.suppressions.suppress("a@example.com", "complaint", NOW_US + 2)

    assert await listed(store) == [("a@example.com", "complaint"), ("b@example.com", "bounce")]


async def test_suppression_pages_survive_a_release(store: Store) -> None:
    for n in range(7):
        await store.suppressions.suppress(f"u{n}@example.com", "bounce", NOW_US + n)

    first = await store.suppressions.listed(None, 3)
    assert [each.email[:2] for each in first] == ["u6", "u5", "u4"]
    last = first[-1].position
    await store.suppressions.release("u3@example.com")
    await store.suppressions.release("u4@example.com")
    second = await store.suppressions.listed(last, 3)
    assert [each.email[:2] for each in second] == ["u2", "u1", "u0"]
    assert await store.suppressions.listed(second[-1].position, 3) == []


async def test_repr_hides_the_address(store: Store) -> None:
    assert "alice" not in repr(await store.suppressions.suppress("alice@example.com", "bounce", NOW_US))
