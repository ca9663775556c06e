"""Categories and a push registration for the worker's tests."""

from typing import Any

ENTRIES: dict[str, dict[str, Any]] = {
    "news": {
        "title": "{{ body.title }}",
        "text": "read it",
        "link": "app://news/{{ id }}",
        "push": {"after": "0s", "sound": "default"},
        "locales": {"it": {"text": "leggi"}},
    },
    "alarm": {"title": "now", "push": {"after": "0s"}, "urgent": True},
    "mute": {"title": "quiet", "counts_in_badge": False},
    "count": {"title": "many", "collapse": "all", "push": {"after": "0s"}},
}
TOKEN = {"provider": "apns", "token": "t1", "topic": "com.example", "sandbox": True}
