"""The client, the pub/sub and the key tracker for a URL: of one server, or of a cluster."""

from __future__ import annotations

from .address import AddressSource, UrlSource
from .client import RedisClient
from .cluster.client import ClusterClient
from .pubsub import ClusterPubSub, RedisPubSub
from .tracking import ClusterKeyTracker, ServerKeyTracker


def client_of(url: UrlSource, *, name: str = "gregor") -> RedisClient | ClusterClient:
    """Return the client of the deployment that a URL names; call its ``open``.

    Raises ``ValueError`` if the URL cannot be parsed.
    """
    is_cluster = AddressSource(url).current().is_cluster
    return ClusterClient(url, name=name) if is_cluster else RedisClient(url, name=name)


def pubsub_of(
    url: UrlSource, client: RedisClient | ClusterClient, *, namespace: str = "gregor"
) -> RedisPubSub | ClusterPubSub:
    """Return the pub/sub of the deployment of a client; call its ``open``. ``url``: the URL of the client."""
    if isinstance(client, ClusterClient):
        return ClusterPubSub(client, namespace=namespace)
    return RedisPubSub(url, client, namespace=namespace)


def tracker_of(url: UrlSource, client: RedisClient | ClusterClient) -> ServerKeyTracker | ClusterKeyTracker:
    """Return the key tracker of the deployment of a client; it connects when it is used. ``url``: as ``pubsub_of``."""
    return ClusterKeyTracker(client) if isinstance(client, ClusterClient) else ServerKeyTracker(url)
