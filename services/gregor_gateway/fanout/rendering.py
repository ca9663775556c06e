"""Rendered titles, texts and links beside the items, for clients that asked for a locale (``render`` in ``hello``)."""

from __future__ import annotations

from typing import Final

from gregor.core.items.announcement import Announcement
from gregor.core.items.read_cost import render_weight
from gregor.core.items.sync import Delta, Full, SyncResult, View
from gregor.registries.categories import CategoryRegistry
from gregor.rendering.renderer import Renderer

MAX_LIVE_WEIGHT: Final = 12
"""Limit of the weight of the texts of one announcement in live frames: 100 items of 300 bytes in one locale.

Rendering them takes about 25 ms with short templates, and 0.1 s with one that loops over the body."""


class ItemRendering:
    """Renders items with the templates of the current categories."""

    def __init__(self, registry: CategoryRegistry) -> None:
        self._registry = registry

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
        return LiveTexts(self._registry.renderer, announcement, uid)


class LiveTexts:
    """The rendered texts of one announcement: each item once for each locale, up to ``MAX_LIVE_WEIGHT`` in all.

    Live frames are written in one step of the event loop. More texts would stop it: a message of a device can create
    items of 256 KiB, and eight sessions can ask for eight locales.
    """

    __slots__ = ("_announcement", "_bytes", "_renderer", "_texts", "_uid")

    def __init__(self, renderer: Renderer, announcement: Announcement, uid: str) -> None:
        self._renderer = renderer
        self._announcement = announcement
        self._uid = uid
        self._texts: dict[tuple[str, str], bytes] = {}
        self._bytes = 0

    def add_to_frame(self, frame: bytes, view: View, locale: str) -> bytes | None:
        """Return the live frame of a view with the texts of the items that it creates; ``None`` if there are too many.

        Send a sync instead, which is rendered in slices.
        """
        renderer, texts = self._renderer, self._texts
        created = [
            each
            for each in self._announcement.entries
            if each.packed is not None and each.concerns(view) and renderer.has_texts(each.category)
        ]
        new = [each for each in created if (each.id, locale) not in texts]
        size = self._bytes + sum(len(each.packed or b"") for each in new)
        if render_weight(len(texts) + len(new), size) > MAX_LIVE_WEIGHT:
            return None
        self._bytes = size
        for each in new:
            rendered = renderer.render_json([(each.id, each.json or b"")], locale, self._uid)
            texts[each.id, locale] = rendered[1:-1]
        added = b",".join(texts[each.id, locale] for each in created)
        return b'%s,"rendered":{%s}}' % (frame[:-1], added) if added else frame
