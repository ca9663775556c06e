"""A pub/sub of a cluster on a fake cluster, driven step by step."""

from __future__ import annotations

from typing import Any

from gregor.redis.pubsub import ClusterPubSub
from tests.support.cluster_world import ClusterWorld
from tests.support.receivers import RecordingReceiver
from tests.support.redis_cluster import key_of, slot_of


class PubSubWorld(ClusterWorld):
    """A cluster client, a pub/sub and its receivers by channel."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.receivers: dict[str, RecordingReceiver] = {}
        self.loop.inside(lambda: setattr(self, "pubsub", ClusterPubSub(self.client, **options)))
        self.pubsub: ClusterPubSub
        opening = self.loop.create_task(self.pubsub.open())
        self.flow(0.5)
        assert opening.done(), "open waits"
        opening.result()

    def subscribe(self, slot: int, count: int = 1, *, sharded: bool = True) -> list[str]:
        """Subscribe new channels of a slot. Returns their names."""
        names = [key_of(slot, f"channel{len(self.receivers) + n}") for n in range(count)]
        for name in names:
            receiver = self.receivers[name] = RecordingReceiver()
            self.loop.inside(lambda name=name, r=receiver: self.pubsub.subscribe(name, r, sharded=sharded))
        return names

    def publish(self, name: str, payload: bytes, *, sharded: bool = True) -> bool:
        """Publish as another process would: at the present owner, without the client. Returns whether it accepted."""
        owner = self.cluster.nodes[self.cluster.truth[slot_of(name)]]
        if not sharded:  # any node passes it to all
            owner = next(node for node in self.cluster.nodes.values() if node.is_up and not node.is_hung)
        if not owner.is_up or owner.is_hung:
            return False
        return owner._publish(b"SPUBLISH" if sharded else b"PUBLISH", name.encode(), payload) == 1

    def heard(self, name: str) -> list[bytes | str]:
        return self.receivers[name].heard

    def close(self) -> None:
        self.loop.complete(self.pubsub.close())
        super().close()
