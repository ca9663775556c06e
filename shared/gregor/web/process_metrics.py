"""The metrics of a process that are read at each scrape: its connections, its phase, its settings and its version."""

from __future__ import annotations

import hashlib
import platform

from gregor import __version__
from gregor.config.live_settings import LiveSettings
from gregor.config.settings import SENSITIVE, Settings, has_url, mask_password
from gregor.metrics.process import Metrics
from gregor.metrics.reading import by_label
from gregor.store.contract.store import Store

from .readiness import Readiness


def publish_process(metrics: Metrics, live: LiveSettings, store: Store, readiness: Readiness) -> None:
    """Let each scrape read the numbers that other parts of the process keep."""
    metrics.build_info.labels(__version__, platform.python_version()).set(1)
    metrics.config_info.labels(settings_hash(live.current)).set(1)
    metrics.stop_phase.read_from(lambda: {(): readiness.stopping + readiness.draining})
    metrics.secret_reloads.read_from(lambda: by_label(live.reloads))
    metrics.redis_ping.read_from(lambda: by_label(readiness.pings))
    report = store.connection_report
    metrics.redis_events.read_from(lambda: by_label(report().events))
    metrics.redis_outstanding.read_from(lambda: by_label({name: s.outstanding for name, s in report().servers.items()}))
    metrics.redis_reconnections.read_from(
        lambda: by_label({name: server.reconnections for name, server in report().servers.items()})
    )
    metrics.redis_waiting.read_from(lambda: {(): report().waiting})
    metrics.redis_slots.read_from(lambda: {(): report().covered_slots})
    metrics.redis_clock_offset.read_from(
        lambda: {} if (offset_s := report().clock_offset_s) is None else {(): offset_s}
    )


def settings_hash(settings: Settings) -> str:
    """Return 12 hex digits that differ between two processes with other settings.

    Secrets are left out, and ports: processes of one host have different ones.
    """
    shown = {
        name: mask_password(value) if has_url(name) and isinstance(value, str) else str(value)
        for name, value in settings
        if name not in SENSITIVE and not name.endswith("_port")
    }
    return hashlib.sha256(repr(sorted(shown.items())).encode()).hexdigest()[:12]
