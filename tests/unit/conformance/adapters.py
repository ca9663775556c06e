"""The Python client as a testee without a process, and variants of it with a planted fault."""

import json
from collections import deque
from typing import Any

from gregor.client.mirror import Mirror
from gregor.client.outbox import Outbox
from gregor.client.synchronizer import Synchronizer
from gregor.conformance.python_client import Adapter, new_id
from gregor.conformance.testee import Testee
from gregor.core.json_text import decode_published


class InProcess(Testee):
    """Answers requests as the command does, through the same JSON."""

    def __init__(
        self,
        synchronizer: type[Synchronizer] = Synchronizer,
        mirror: type[Mirror] = Mirror,
        outbox: type[Outbox] = Outbox,
    ) -> None:
        self.adapter = Adapter()
        self._awaited = deque()
        self._classes = synchronizer, mirror, outbox

    def send(self, do: str, **members: Any) -> None:
        request = decode_published(json.dumps(members))
        answer = getattr(self.adapter, do)(**request)
        if do == "start":
            self._plant(members.get("restore"))
        self._awaited.append(json.dumps(answer))

    def response(self) -> dict[str, Any]:
        return dict(decode_published(self._awaited.popleft()))

    def _plant(self, restore: dict[str, Any] | None) -> None:
        """Replace the synchronizer by one with the fault."""
        synchronizer, mirror, outbox = self._classes
        made = synchronizer(new_id)
        made.mirror, made.outbox = mirror(), outbox(new_id)
        if restore is not None:
            made.mirror = mirror.restore(restore["mirror"])
            made.outbox = outbox.restore(restore["outbox"], new_id)
        self.adapter.synchronizer = made
