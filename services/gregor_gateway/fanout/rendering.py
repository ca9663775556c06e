"""Rendered titles, texts and links beside the items, for clients that asked for a locale (``render`` in ``hello``)."""

from __future__ import annotations

from gregor.core.items.announcement import Announcement
from gregor.core.items.sync import Delta, Full, SyncResult, View
from gregor.registries.categories import CategoryRegistry


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

    def add_to_frame(self, frame: bytes, announcement: Announcement, view: View, locale: str, uid: str) -> bytes:
        """Return the live frame of a view with the rendered texts of the items that it creates."""
        created = [each for each in announcement.entries if each.packed is not None and each.concerns(view)]
        items = [(each.id, each.json or b"") for each in created]
        rendered = self._registry.renderer.render_json(items, locale, uid) if items else b"{}"
        return frame if rendered == b"{}" else b'%s,"rendered":%s}' % (frame[:-1], rendered)
