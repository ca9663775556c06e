"""Generated messages of several senders about few items, so everything interacts."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from gregor.core.ids import EVERY_DEVICE, MAX_NAME_LENGTH, is_allowed
from gregor.core.items.sync import View
from gregor.core.messages.model import Commit, Creation, ResolvedInterval, Sender
from gregor.reference.model import StoredInterval
from tests.support.builders import NOW, RESET, Document, external, interval, item, message, planned

LONGEST = "d" * MAX_NAME_LENGTH
IDS = ("a", "b", "c", LONGEST)
CATEGORIES = ("user", "user.joined", "users")
SENDERS = (
    Sender(),
    Sender("phone"),
    Sender("laptop"),
    Sender("", ("user",)),
    Sender("phone", ("user.joined", "users")),
)
VIEWS = (
    View(),
    View("phone"),
    View("laptop"),
    View("tablet"),
    View("", ("user",)),
    View("phone", ("user",)),
    View("laptop", ("user.joined", "users")),
)

World = dict[str, Document]
"""Every id, and its only content."""

_TIMES = st.integers(NOW - 8, NOW)


@dataclass(frozen=True)
class Sent:
    """One message and its sender."""

    sender: Sender
    document: Document

    def at(self, now_us: int) -> Commit:
        """Return its commit at a given time."""
        return planned(self.document, self.sender, now_us)


def worlds(*, is_explicit: bool, expires: bool = False) -> st.SearchStrategy[World]:
    """Generate the contents of all ids. ``is_explicit``: each has its ``created``."""
    times = _TIMES if is_explicit else st.none() | st.none() | _TIMES
    ends = st.none() | st.integers(NOW - 4, NOW + 40) if expires else st.none()
    items = st.builds(
        item,
        st.sampled_from(CATEGORIES),
        created=times,
        expires=ends,
        for_device=st.sampled_from((None, None, EVERY_DEVICE, EVERY_DEVICE, "phone")),
        body=st.sampled_from((None, {"n": 1.5})),
    )
    return st.fixed_dictionaries(dict.fromkeys(IDS, items))


@st.composite
def conversations(
    draw: st.DrawFn, *, is_explicit: bool = True, expires: bool = False, min_size: int = 2, max_size: int = 12
) -> list[Sent]:
    """Generate messages about one world.

    If not ``is_explicit``, times are absent and other kinds of messages are included.
    """
    world = draw(worlds(is_explicit=is_explicit, expires=expires))
    sent = [updates(world, is_explicit=is_explicit)]
    if not is_explicit:
        sent.append(_replacements(world))
        sent.append(st.builds(Sent, st.just(SENDERS[0]), st.just(RESET)))
        sent.append(st.builds(Sent, st.just(SENDERS[0]), st.builds(external, st.integers(0, 9), _systems())))
    messages = draw(st.lists(st.one_of(sent[0], *sent), min_size=min_size, max_size=max_size))
    # A message whose effect depends on when it arrives is known again by its id; on the others an id does no harm.
    return messages if is_explicit else [_named(each, number) for number, each in enumerate(messages)]


@st.composite
def spans_and_items(draw: st.DrawFn) -> tuple[list[StoredInterval], Creation]:
    """Generate intervals of one key in their order, and an item that arrives after them."""
    said = []
    for _ in range(draw(st.integers(1, 6))):
        begin_us, end_us = sorted((draw(st.integers(0, 9)), draw(st.integers(0, 9))))
        skip = draw(st.frozensets(st.sampled_from("ab"), max_size=1))
        span = ResolvedInterval("user", True, begin_us, end_us, draw(st.booleans()), skip)
        said.append(StoredInterval(draw(st.sampled_from(("", "phone"))), span, draw(st.integers(0, 9))))
    created_us, is_stamped = draw(st.integers(0, 9)), draw(st.booleans())
    item_id = draw(st.sampled_from("ab"))
    return said, Creation(item_id, "user", None, created_us, is_stamped, None, (), bytes(8), bytes(32), b"", b"{}")


def _systems() -> st.SearchStrategy[str]:
    return st.sampled_from(("kbfs", "kbfs.favorites", "chat"))


def _named(sent: Sent, number: int) -> Sent:
    return Sent(sent.sender, sent.document | {"id": f"m{number}"})


@st.composite
def updates(draw: st.DrawFn, world: World, *, is_explicit: bool) -> Sent:
    """Generate a message about ``world`` that creates and dismisses, by a sender with the rights for it."""
    sender = draw(st.sampled_from(SENDERS))
    mine = [item_id for item_id, content in world.items() if _may_create(sender, content)]
    created = draw(st.lists(st.sampled_from(mine), max_size=3, unique=True)) if mine else []
    others = [item_id for item_id in IDS if item_id not in created]
    dismissed = draw(st.lists(st.sampled_from(others), max_size=2, unique=True))
    most = 0 if dismissed and not created else 2
    swept = draw(st.lists(_intervals(sender, is_explicit=is_explicit), max_size=most))
    if not (created or dismissed or swept):
        dismissed = [draw(st.sampled_from(others))]
    return Sent(sender, message({item_id: world[item_id] for item_id in created}, dismissed, swept))


@st.composite
def _replacements(draw: st.DrawFn, world: World) -> Sent:
    """Generate a message with one item that replaces all others, or all others of its category."""
    item_id = draw(st.sampled_from(IDS))
    others = draw(st.sampled_from((interval(prefix=""), interval(world[item_id]["category"]))))
    return Sent(SENDERS[0], message({item_id: world[item_id]}, intervals=[others]))


def _may_create(sender: Sender, content: Document) -> bool:
    is_for_me = content["for_device"] in (None, EVERY_DEVICE, sender.device)
    return (not sender.device or is_for_me) and is_allowed(sender.category_filter, content["category"])


@st.composite
def _intervals(draw: st.DrawFn, sender: Sender, *, is_explicit: bool) -> Document:
    if draw(st.booleans()):
        prefixes = [prefix for prefix in ("", "user", "user.joined") if is_allowed(sender.category_filter, prefix)]
        named = {"prefix": draw(st.sampled_from(prefixes))}
    else:
        categories = [category for category in CATEGORIES if is_allowed(sender.category_filter, category)]
        named = {"category": draw(st.sampled_from(categories))}
    begin = draw(st.none() | _TIMES)
    end = draw(_TIMES if is_explicit else st.none() | _TIMES)
    if begin is not None and end is not None and begin > end:
        begin, end = end, begin
    skip = draw(st.sets(st.sampled_from(IDS), max_size=2))
    return interval(**named, begin=begin, end=end, skip=sorted(skip))
