"""PURE. The members that make a Web Push body declarative (Push API, section "Declarative push message").

Safari shows such a push without a service worker, and opens `navigate` on a click. Other browsers ignore the members:
their service worker reads `title`, `body` and `gregor`. One body therefore serves both.
"""

from typing import Any
from urllib.parse import urljoin, urlsplit

from .contract import PushMessage

WEB_PUSH = 8030
"""The number of RFC 8030, by which a browser recognises a declarative push."""


def declarative_members(push: PushMessage, app_url: str) -> dict[str, Any]:
    """Return the members to add to the body of a visible push; empty for a push that shows nothing.

    `app_url`: absolute URL of the web app (GREGOR_APP_URL). A relative link of the item is resolved against it.
    """
    if push.kind != "alert":
        return {}
    notification: dict[str, Any] = {
        # A browser ignores a declarative push without a title.
        "title": push.title or push.text or urlsplit(app_url).hostname or app_url,
        "body": push.text if push.title else "",
        "dir": "auto",
        "navigate": navigate_url(push.data.get("link"), app_url),
        "tag": push.collapse_id,
        "data": {"gregor": dict(push.data)},
        "mutable": True,
    }
    members: dict[str, Any] = {"web_push": WEB_PUSH, "mutable": True, "notification": notification}
    if push.badge is not None:
        # WebKit reads `app_badge` and `mutable` inside `notification`, the draft of the Push API reads them outside.
        members["app_badge"] = push.badge
        notification["app_badge"] = str(push.badge)
    return members


def navigate_url(link: str | None, app_url: str) -> str:
    """Return the page that a click opens: the link if a browser can open it, else the web app.

    Only a link with a scheme leads to another host than that of the web app.
    """
    try:
        url = urljoin(app_url, (link or "").strip())
        parts, given = urlsplit(url), urlsplit(link or "")
    except ValueError:
        return app_url
    is_page = parts.scheme in ("http", "https") and bool(parts.hostname) and bool(given.scheme or not given.netloc)
    return url if is_page and not any(character.isspace() for character in url) else app_url
