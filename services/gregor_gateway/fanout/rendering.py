"""Rendered titles, texts and links beside the items, for clients that asked for a locale (``render`` in ``hello``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gregor.clock import Clock
from gregor.core.items.announcement import Announcement
from gregor.core.items.read_cost import render_weight
from gregor.core.items.sync import Delta, Full, SyncResult, View
from gregor.registries.categories import CategoryRegistry
from gregor.rendering.renderer import Renderer

MAX_LIVE_WEIGHT: Final = 12
"""Limit of the weight of the texts of one announcement in live frames: 100 items of 300 bytes in one locale."""
MAX_LIVE_ITEM_BYTES: Final = 8_192
"""Limit of an item in live frames: a template may loop over its body (time: ``gregor.core.items.read_cost``)."""
MAX_LIVE_NS: Final = 10_000_000
"""CPU time after which no further text of an announcement is rendered for live frames: other users wait."""


class ItemRendering:
    """Renders items with the templates of the current categories."""

    def __init__(self, registry: CategoryRegistry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock

    async def of_sync(self, result: SyncResult, locale: str | None, uid: str) -> bytes:
        """Return the rendered items of a sync as a JSON object; an empty object if the client gave no locale."""
        if locale is None:
            return b"{}"
        items = result.items if isinstance(result, Full) else result.create if isinstance(result, Delta) else ()
        return await self._registry.renderer.render_json_in_slices(
            [(item.id, item.json) for item in items], locale, uid
        )

    def of_announcement(self, announcement: Announcement, uid: str) -> LiveTexts:
        """Return the rendered texts of the items that an announcement creates."""
        return LiveTexts(self._registry.renderer, announcement, uid, self._clock.cpu_ns)


class LiveTexts:
    """The rendered texts of one announcement: each item once for each locale, up to the limits of live frames.

    Live frames are written in one step of the event loop. More texts would stop it: a message of a device can create
    items of 256 KiB, and eight sessions can ask for eight locales.
    """

    __slots__ = ("_announcement", "_bytes", "_cpu_ns", "_renderer", "_texts", "_uid", "used_ns")

    def __init__(self, renderer: Renderer, announcement: Announcement, uid: str, cpu_ns: Callable[[], int]) -> None:
        self._renderer = renderer
        self._cpu_ns = cpu_ns
        self.used_ns = 0
        """The CPU time of all texts that were rendered."""
        self._announcement = announcement
        self._uid = uid
        self._texts: dict[tuple[str, str], bytes] = {}
        self._bytes = 0

    def add_to_frame(self, frame: bytes, view: View, locale: str, *, may_render: bool = True) -> bytes | None:
        """Return the live frame of a view with the texts of the items that it creates.

        Returns ``None`` if the texts exceed a limit, or new ones are needed and ``may_render`` is false.
        The caller then sends a sync.
        """
        renderer, texts = self._renderer, self._texts
        created = [
            each
            for each in self._announcement.entries
            if each.packed is not None and each.concerns(view) and renderer.has_texts(each.category)
        ]
        new = [each for each in created if (each.id, locale) not in texts]
        size = self._bytes + sum(len(each.packed or b"") for each in new)
        is_large = any(len(each.packed or b"") > MAX_LIVE_ITEM_BYTES for each in new)
        is_refused = bool(new) and not may_render
        if is_refused or is_large or render_weight(len(texts) + len(new), size) > MAX_LIVE_WEIGHT:
            return None
        self._bytes = size
        for each in new:
            if self.used_ns > MAX_LIVE_NS:
                return None
            began_ns = self._cpu_ns()
            rendered = renderer.render_json([(each.id, each.json or b"")], locale, self._uid)
            self.used_ns += self._cpu_ns() - began_ns
            texts[each.id, locale] = rendered[1:-1]
        added = b",".join(texts[each.id, locale] for each in created)
        return b'%s,"rendered":{%s}}' % (frame[:-1], added) if added else frame
