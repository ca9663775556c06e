"""Metrics of a gateway: connections, frames, syncs and subscriptions."""

from __future__ import annotations

from gregor.metrics.process import Metrics


class GatewayMetrics(Metrics):
    """The metrics of one gateway process."""

    def __init__(self) -> None:
        super().__init__()
        self._add_connections()
        self._add_sync()
        self._add_subscriptions()

    def _add_connections(self) -> None:
        self.connections = self.gauge("connections", "Connected devices.", "transport")
        self.connections_opened = self.counter("connections_opened", "Connections that were accepted.", "transport")
        self.connections_ended = self.counter(
            "connections_ended", "Connections that ended, by the side that ended them.", "transport", "by"
        )
        self.closes = self.counter("closes", "Connections closed, by close code.", "code")
        self.users_connected = self.reading("gauge", "users_connected", "Users with a connection.")
        self.frames_out = self.counter("frames_out", "Frames written to devices.")
        self.bytes_out = self.counter("bytes_out", "Bytes written to devices.")
        self.overflows = self.counter(
            "queue_overflows", "Send queues of slow consumers replaced by a resync (backpressure)."
        )
        self.deliver_seconds = self.histogram(
            "deliver_seconds", "Time from the arrival of an announcement to the last write."
        )
        self.lease_renewals = self.counter(
            "gateway_lease_renewals", "Renewals of this gateway's lease, by outcome.", "outcome"
        )

    def _add_sync(self) -> None:
        self.syncs = self.counter("syncs", "Sync objects sent, by kind: full, delta, unchanged.", "kind")
        self.resumes = self.counter(
            "resumes", "First syncs of connections, by outcome and reason.", "transport", "outcome", "reason"
        )
        self.resyncs = self.counter("resyncs", "Later syncs of connections, by reason.", "reason")
        self.handshakes_waiting = self.reading(
            "gauge", "handshakes_waiting", "Connections whose request or hello waits for its turn."
        )
        self.syncs_waiting = self.reading("gauge", "syncs_waiting", "Sync reads that wait or are in progress.")
        self.gaps = self.counter(
            "gaps", "Missed announcements, by how the gap was detected: gap, fork, compare.", "found"
        )
        self.comparisons = self.reading("counter", "comparisons", "Users compared with the store.", "result")

    def _add_subscriptions(self) -> None:
        self.probe_seconds = self.reading(
            "gauge", "pubsub_probe_seconds", "Time from the publication of the last probe to its arrival.", "server"
        )
        self.probe_failures = self.reading(
            "counter", "pubsub_probe_failures", "Probes that did not come back in time.", "server"
        )
        self.pubsub_reconnections = self.reading("counter", "pubsub_reconnections", "New connections.", "server")
        self.pubsub_channels = self.reading("gauge", "pubsub_channels", "Subscribed channels.", "server")
