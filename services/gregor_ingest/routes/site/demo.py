"""The page ``/demo`` of ``gregor dev``: two devices of one user, on the real cluster (setting ``GREGOR_DEMO``).

The page gets device tokens only, each for a new user whose id begins with ``demo-``.
"""

from __future__ import annotations

import secrets
from functools import cache
from typing import Any, Final

from fastapi import APIRouter, Response

from gregor.client.tokens import mint_device_token
from gregor.core.errors import Problem
from gregor.registries.categories import CategoryEditor
from gregor.registries.category_files import read_checked
from gregor_ingest.context import IngestContext
from gregor_ingest.guarded_route import Context, OpenRoute
from gregor_ingest.responses import json_response

from .pages import HEADERS, POLICY, template

router: Final = APIRouter(route_class=OpenRoute, include_in_schema=False)

DEVICES: Final = ("phone", "tablet", "backend")
"""The two devices that the page shows, and a third one that sends messages as a backend does."""
TOKEN_LIFETIME_S: Final = 6 * 3_600
NOTIFICATION_TYPES: Final[dict[str, Any]] = {
    "demo": {
        "title": "{{ body.title }}",
        "text": "{{ body.text | default('') }}",
        "expires_after": "1d",
        "push": {"after": "2s", "sound": "default"},
    },
    "demo.follow": {"aggregate": {"window": "6s", "at_least": 3, "title": "{{ count }} people follow you"}},
}
"""The notification types that the page uses: pushes after two seconds, summaries after six."""


@router.get("/demo", operation_id="demoPage")
async def demo_page(context: Context) -> Response:
    """Return the page with a policy that permits connections to the gateway."""
    websocket, streams = _addresses(context)
    # Trusted Types: no code of the page can turn a text into HTML.
    policy = POLICY.replace("connect-src 'self'", f"connect-src 'self' {websocket} {streams}")
    headers = {**HEADERS, "Content-Security-Policy": f"{policy}; require-trusted-types-for 'script'"}
    return Response(_html(), media_type="text/html", headers=headers)


@router.post("/demo/session", operation_id="demoSession")
async def demo_session(context: Context) -> Response:
    """Return a new user with a token for each device, and the addresses of the gateway."""
    websocket, streams = _addresses(context)
    if not context.settings.token_secrets:
        raise Problem("not_found", "The demo needs GREGOR_TOKEN_SECRET, to sign tokens for its devices.")
    await _add_notification_types(context)
    uid = f"demo-{secrets.token_hex(4)}"
    settings, now = context.settings, context.clock.now_us() / 1e6
    tokens = {
        device: mint_device_token(
            settings.token_secrets[0],
            uid,
            device,
            expires_in=TOKEN_LIFETIME_S,
            audience=settings.token_aud,
            issuer=settings.token_iss,
            now=now,
        )
        for device in DEVICES
    }
    document = {"uid": uid, "tokens": tokens, "websocket": websocket, "streams": streams}
    return json_response(document)


async def _add_notification_types(context: IngestContext) -> None:
    """Store the notification types of the page, if they are missing or different."""
    editor = CategoryEditor(context.store.categories, read_checked)
    for name, entry in NOTIFICATION_TYPES.items():
        await editor.put(name, entry, context.clock.now_us())
    await context.categories.refresh()


def _addresses(context: IngestContext) -> tuple[str, str]:
    """Return the URLs of the gateway's WebSocket port and stream port."""
    websocket, _, streams = (context.settings.demo or "").partition(",")
    if not websocket:
        raise Problem("not_found", "The demo page is disabled. Only `gregor dev` enables it.")
    return websocket, streams


@cache
def _html() -> str:
    return template("demo.html")
