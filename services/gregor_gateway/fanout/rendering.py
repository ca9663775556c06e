"""Titles, texts and links beside the items, for clients that asked for a language (protocol.md, ``render``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gregor.core.items.announcement import Announcement
from gregor.core.items.sync import Delta, Full, SyncResult, View
from gregor.registries.categories import CategoryRegistry

if TYPE_CHECKING:
    from .hub import Hub


class ItemRendering:
    """What the categories of this process say of items."""

    def __init__(self, registry: CategoryRegistry) -> None:
        self._registry = registry

    async def of_sync(self, answer: SyncResult, locale: str | None, uid: str) -> bytes:
        """The words of the items of a sync, as a JSON object; an empty one where nobody asked."""
        if locale is None:
            return b"{}"
        items = answer.items if isinstance(answer, Full) else answer.create if isinstance(answer, Delta) else ()
        return await self._registry.renderer.render_json_in_slices(
            [(item.id, item.json) for item in items], locale, uid
        )

    def beside(self, frame: bytes, announcement: Announcement, view: View, locale: str, uid: str) -> bytes:
        """The live frame of ``view``, with the words of the items that it creates."""
        entered = [each for each in announcement.entries if each.packed is not None and each.concerns(view)]
        items = [(each.id, each.json or b"") for each in entered]
        words = self._registry.renderer.render_json(items, locale, uid) if items else b"{}"
        return frame if words == b"{}" else b'%s,"rendered":%s}' % (frame[:-1], words)


class Recount:
    """Tells the connections when other items count in the badge."""

    def __init__(self, registry: CategoryRegistry, hub: Hub) -> None:
        self._registry = registry
        self._hub = hub
        self._told = registry.current.uncounted
        registry.on_change(self._changed)

    def _changed(self) -> None:
        uncounted = self._registry.current.uncounted
        if uncounted != self._told:
            self._told = uncounted
            self._hub.announce_counting()
