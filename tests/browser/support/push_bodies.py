"""Prints Web Push bodies as the delivery service makes them, for the stories of the service worker.

Reads `{"app_url": URL or null, "pushes": [{"title", "text", "data"}]}` from stdin, and prints a JSON array of texts.
"""

import json
import sys

from gregor_delivery.channels.contract import PushMessage
from gregor_delivery.channels.push_payload import webpush_payload

request = json.load(sys.stdin)
bodies = []
for push in request["pushes"]:
    message = PushMessage(
        uid=push["data"]["uid"],
        device="web",
        token={},
        topic=None,
        sandbox=False,
        kind="alert" if push["title"] else "background",
        title=push["title"],
        text=push["text"],
        sound=None,
        badge=push["data"]["badge"],
        collapse_id="c",
        expires_us=None,
        urgent=False,
        data=push["data"],
    )
    bodies.append(webpush_payload(message, request["app_url"]).decode())
print(json.dumps(bodies))
