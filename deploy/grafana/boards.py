"""The Grafana boards: this description is the source, the JSON files beside it are made from it.

    python deploy/grafana/boards.py

writes them here and into the chart. `tests/deploy/test_dashboards.py` compares all three, and runs each query.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
CHART: Final = HERE.parent / "helm/gregor/files/dashboards"
RUNBOOK: Final = "${docs}/how-to/runbook/"
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
DOCS: Final = "https://gregor.example.com/docs"
"""The default of the variable `docs`: where the pages of `make docs` are served."""
HEIGHT: Final = 8
WIDTHS: Final = {"timeseries": 12, "stat": 6}


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `queries`: expressions with the legend of each. `red_above`: the value that needs attention."""

    title: str
    text: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    red_above: float | None = None
    red_below: float | None = None
    entry: str = ""
    kind: str = "timeseries"


def rate(metric: str, by: str = "") -> str:
    """Return the rate of a counter, summed over all processes."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}[$__rate_interval]))"


def quantile(metric: str, share: float, by: str = "") -> str:
    """Return a quantile of a histogram over all processes."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket[$__rate_interval])))"


def times(metric: str, by: str = "") -> list[tuple[str, str]]:
    """Return the median and the 99th percentile of a histogram."""
    legend = f"{{{{{by}}}}} " if by else ""
    return [(quantile(metric, 0.5, by), f"{legend}p50"), (quantile(metric, 0.99, by), f"{legend}p99")]


OVERVIEW: Final = [
    Panel(
        "Ready processes",
        "Processes of each service that can do their job.",
        [("sum by (service) (gregor_ready)", "{{service}}")],
        entry="GregorNotReady",
    ),
    Panel(
        "Redis servers that answer",
        "The lowest number that any process reaches.",
        [("min(gregor_redis_shards_reachable)", "servers")],
        red_below=1,
        entry="GregorDegraded",
        kind="stat",
    ),
    Panel(
        "Degraded processes",
        "Processes that miss a Redis server, or data of it.",
        [("sum(gregor_degraded)", "processes")],
        red_above=1,
        entry="GregorDegraded",
        kind="stat",
    ),
    Panel(
        "Messages failed with 5xx",
        "Share of accepted requests. The objective is 0.05 % over 30 days.",
        [
            (
                '(sum(rate(gregor_http_requests_total{route=~"sendMessages?",status=~"5.."}[$__rate_interval])) '
                "or vector(0)) "
                '/ sum(rate(gregor_http_requests_total{route=~"sendMessages?",status!~"4.."}[$__rate_interval]))',
                "5xx",
            )
        ],
        "percentunit",
        0.0005,
        entry="GregorMessageErrorsFastBurn",
    ),
    Panel(
        "Changes later than 250 ms",
        "Share of announcements. The objective is 0.1 % over 30 days.",
        [
            (
                '1 - sum(rate(gregor_deliver_seconds_bucket{le="0.25"}[$__rate_interval])) '
                "/ sum(rate(gregor_deliver_seconds_count[$__rate_interval]))",
                "late",
            )
        ],
        "percentunit",
        0.001,
        entry="GregorLateFramesFastBurn",
    ),
    Panel(
        "Pushes later than 30 s",
        "Share of answered pushes that did not wait for their user. The objective is 0.5 % over 30 days.",
        [
            (
                '1 - sum(rate(gregor_delivery_age_seconds_bucket{channel=~"apns|fcm|webpush",le="30.0"}'
                "[$__rate_interval])) "
                '/ sum(rate(gregor_delivery_age_seconds_count{channel=~"apns|fcm|webpush"}[$__rate_interval]))',
                "late",
            )
        ],
        "percentunit",
        0.005,
        entry="GregorLatePushesFastBurn",
    ),
    Panel(
        "Devices connected",
        "Connections by transport.",
        [("sum by (transport) (gregor_connections)", "{{transport}}")],
        entry="GregorReconnectStorm",
    ),
    Panel(
        "Lag of the event loop",
        "99th percentile by process.",
        [
            (
                "histogram_quantile(0.99, sum by (service, instance, le) "
                "(rate(gregor_event_loop_lag_seconds_bucket[$__rate_interval])))",
                "{{service}} {{instance}}",
            )
        ],
        "s",
        0.25,
        entry="GregorEventLoopBlocked",
    ),
    Panel(
        "CPU",
        "Cores that each process uses; one is the most.",
        [("rate(process_cpu_seconds_total[$__rate_interval])", "{{service}} {{instance}}")],
        "short",
        0.9,
        entry="GregorEventLoopBlocked",
    ),
    Panel(
        "Memory",
        "Resident memory of each process.",
        [("process_resident_memory_bytes", "{{service}} {{instance}}")],
        "bytes",
        entry="GregorServiceDown",
    ),
    Panel(
        "Open files",
        "Share of the limit of each process.",
        [("process_open_fds / process_max_fds", "{{service}} {{instance}}")],
        "percentunit",
        0.9,
        entry="GregorFilesExhausted",
    ),
    Panel(
        "Versions and settings",
        "Processes by version of Gregor, and by hash of their settings.",
        [
            ("count by (version) (gregor_build_info)", "{{version}}"),
            ("count by (service, hash) (gregor_config_info)", "{{service}} {{hash}}"),
        ],
        entry="GregorConfigDiffers",
    ),
    Panel(
        "Phase of the stop",
        "0 serves, 1 is not ready, 2 drains.",
        [("max by (service) (gregor_stop_phase)", "{{service}}")],
        entry="GregorNotReady",
    ),
]

INGEST: Final = [
    Panel(
        "Messages",
        "Messages a second by outcome.",
        [(rate("gregor_messages_total", "outcome"), "{{outcome}}")],
        "ops",
        entry="GregorMessageErrorsFastBurn",
    ),
    Panel(
        "Requests",
        "Requests a second by status, and those that an overload refused.",
        [
            (rate("gregor_http_requests_total", "status"), "{{status}}"),
            (f"{rate('gregor_overload_refusals_total')} or vector(0)", "overload"),
        ],
        "reqps",
        entry="GregorMessageErrorsFastBurn",
    ),
    Panel(
        "Time of a message",
        "From the request to the response.",
        [
            (
                'histogram_quantile(0.5, sum by (le) (rate(gregor_http_request_seconds_bucket{route=~"sendMessages?"}'
                "[$__rate_interval])))",
                "p50",
            ),
            (
                'histogram_quantile(0.99, sum by (le) (rate(gregor_http_request_seconds_bucket{route=~"sendMessages?"}'
                "[$__rate_interval])))",
                "p99",
            ),
        ],
        "s",
        0.25,
        entry="GregorMessageErrorsFastBurn",
    ),
    Panel(
        "Requests in progress",
        "Open streams and polls of gateways included.",
        [("sum by (service) (gregor_http_requests_in_flight)", "{{service}}")],
        entry="GregorEventLoopBlocked",
    ),
    Panel(
        "Round trip to Redis",
        "Last ping of each process to each server.",
        [("max by (service, server) (gregor_redis_ping_seconds)", "{{service}} {{server}}")],
        "s",
        0.05,
        entry="GregorDegraded",
    ),
    Panel(
        "Commands without a reply",
        "And those that wait for a server.",
        [
            ("sum by (service) (gregor_redis_commands_outstanding)", "{{service}} sent"),
            ("sum by (service) (gregor_redis_commands_waiting)", "{{service}} waiting"),
        ],
        entry="GregorDegraded",
    ),
    Panel(
        "Slots covered",
        "Hash slots with a connected server: 16,384 if all are served.",
        [("min by (service) (gregor_redis_slots_covered)", "{{service}}")],
        red_below=16_384,
        entry="GregorDegraded",
    ),
    Panel(
        "Events of the connection to Redis",
        "Redirects, reads of the slot map, changes of a primary, reconnections.",
        [
            (rate("gregor_redis_events_total", "event"), "{{event}}"),
            (rate("gregor_redis_reconnections_total"), "reconnections"),
        ],
        "ops",
        entry="GregorDegraded",
    ),
    Panel(
        "Clock of Redis",
        "Minus the clock of each process.",
        [("gregor_redis_clock_offset_seconds", "{{service}} {{instance}}")],
        "s",
        1,
        entry="GregorClockOff",
    ),
    Panel(
        "Messages that asked for replicas",
        "By outcome.",
        [("sum by (outcome) (rate(gregor_replications_total[$__rate_interval])) or vector(0)", "{{outcome}}")],
        "ops",
        entry="GregorNotReplicated",
    ),
    Panel(
        "Callers above a limit",
        "By limit.",
        [(f"{rate('gregor_limits_reached_total', 'limit')} or vector(0)", "{{limit}}")],
        "ops",
        entry="GregorCallersLimited",
    ),
    Panel(
        "Excess cost",
        "Units of the measured excess that were charged, by limit.",
        [(f"{rate('gregor_charged_afterwards_total', 'limit')} or vector(0)", "{{limit}}")],
        "ops",
        entry="GregorCallersLimited",
    ),
    Panel(
        "Calls without a valid right",
        "By reason, and with an origin that is not allowed.",
        [
            (f"{rate('gregor_auth_failures_total', 'reason')} or vector(0)", "{{reason}}"),
            (rate("gregor_origins_refused_total"), "origin"),
            (rate("gregor_unconfirmed_service_keys_total"), "key not confirmed"),
        ],
        "ops",
        entry="GregorAuthFailures",
    ),
    Panel(
        "Failed templates and secrets",
        "Renderings by field; changed files of secrets.",
        [
            (f"{rate('gregor_render_failures_total', 'field')} or vector(0)", "{{field}}"),
            (f"{rate('gregor_secret_reloads_total', 'outcome')} or vector(0)", "secrets {{outcome}}"),
        ],
        "ops",
        entry="GregorTemplatesFail",
    ),
]

GATEWAY: Final = [
    Panel(
        "Connections and users",
        "Devices by transport, and the users that they belong to.",
        [("sum by (transport) (gregor_connections)", "{{transport}}"), ("sum(gregor_users_connected)", "users")],
        entry="GregorReconnectStorm",
    ),
    Panel(
        "Accepted connections",
        "A second, by transport. A poll is one connection.",
        [(rate("gregor_connections_opened_total", "transport"), "{{transport}}")],
        "cps",
        entry="GregorReconnectStorm",
    ),
    Panel(
        "Ended connections",
        "A second, by transport and by the side that ended them.",
        [(rate("gregor_connections_ended_total", "transport, by"), "{{transport}} by {{by}}")],
        "cps",
        entry="GregorReconnectStorm",
    ),
    Panel(
        "Closes by the gateway",
        "A second, by close code.",
        [(f"{rate('gregor_closes_total', 'code')} or vector(0)", "{{code}}")],
        "cps",
        entry="GregorReconnectStorm",
    ),
    Panel(
        "Refused connections",
        "A second, by limit.",
        [(f"{rate('gregor_connections_refused_total', 'limit')} or vector(0)", "{{limit}}")],
        "cps",
        entry="GregorConnectionsRefused",
    ),
    Panel(
        "Resumes",
        "First syncs a second: unchanged, delta, or a full copy and why.",
        [(rate("gregor_resumes_total", "outcome, reason"), "{{outcome}} {{reason}}")],
        "ops",
        entry="GregorReconnectStorm",
    ),
    Panel(
        "Later syncs",
        "A second, by reason.",
        [(f"{rate('gregor_resyncs_total', 'reason')} or vector(0)", "{{reason}}")],
        "ops",
        entry="GregorGapsFound",
    ),
    Panel(
        "Sync reads",
        "Reads a second by result, and reads and handshakes that wait.",
        [
            (rate("gregor_syncs_total", "kind"), "{{kind}}"),
            ("sum(gregor_syncs_waiting)", "waiting"),
            ("sum(gregor_handshakes_waiting)", "handshakes waiting"),
        ],
        entry="GregorReconnectStorm",
    ),
    Panel(
        "Time to the device",
        "From the arrival of an announcement to the last write.",
        times("gregor_deliver_seconds"),
        "s",
        0.25,
        entry="GregorLateFramesFastBurn",
    ),
    Panel(
        "Frames",
        "Frames written a second.",
        [(rate("gregor_frames_out_total"), "frames")],
        "ops",
        entry="GregorLateFramesFastBurn",
    ),
    Panel(
        "Traffic",
        "Bytes written a second.",
        [(rate("gregor_bytes_out_total"), "bytes")],
        "Bps",
        entry="GregorLateFramesFastBurn",
    ),
    Panel(
        "Feed lag",
        "From the publication of a probe to its arrival.",
        [("max by (instance, server) (gregor_pubsub_probe_seconds)", "{{instance}} {{server}}")],
        "s",
        0.25,
        entry="GregorLateFramesFastBurn",
    ),
    Panel(
        "Subscriptions",
        "Channels, failed probes and new connections of the feed.",
        [
            ("sum(gregor_pubsub_channels)", "channels"),
            (rate("gregor_pubsub_probe_failures_total"), "failed probes"),
            (rate("gregor_pubsub_reconnections_total"), "reconnections"),
        ],
        entry="GregorGapsFound",
    ),
    Panel(
        "Missed announcements",
        "Users a second, by how the gap was found; comparisons with the store.",
        [
            (f"{rate('gregor_gaps_total', 'found')} or vector(0)", "{{found}}"),
            (f"{rate('gregor_comparisons_total', 'result')} or vector(0)", "compared: {{result}}"),
        ],
        "ops",
        entry="GregorGapsFound",
    ),
    Panel(
        "Slow devices",
        "Send queues that overflowed, a second.",
        [(rate("gregor_queue_overflows_total"), "overflows")],
        "ops",
        1,
        entry="GregorSlowDevices",
    ),
    Panel(
        "Renewals of leases",
        "Of gateways, by outcome.",
        [(rate("gregor_gateway_lease_renewals_total", "outcome"), "{{outcome}}")],
        "ops",
        entry="GregorGatewayLeaseFails",
    ),
]

DELIVERY: Final = [
    Panel(
        "Lag of due work",
        "How long the user that is due longest has waited.",
        [("max(gregor_due_lag_seconds)", "lag")],
        "s",
        10,
        entry="GregorTimersLate",
    ),
    Panel(
        "Lateness of timers",
        "99th percentile by kind.",
        [(quantile("gregor_timer_lateness_seconds", 0.99, "kind"), "{{kind}}")],
        "s",
        5,
        entry="GregorTimersLate",
    ),
    Panel(
        "Timers",
        "A second, by kind and outcome.",
        [(rate("gregor_timers_total", "kind, outcome"), "{{kind}} {{outcome}}")],
        "ops",
        entry="GregorTimersFail",
    ),
    Panel(
        "Schedulers",
        "Alive, users in progress, takeovers a second, and schedulers with a wrong clock.",
        [
            ("max(gregor_schedulers_alive)", "alive"),
            ("sum(gregor_due_users_in_progress)", "users in progress"),
            (rate("gregor_due_takeovers_total"), "takeovers"),
            ("min(gregor_arq_ticking)", "arq ticks"),
            ("sum(gregor_scheduler_clock_refused)", "clock refused"),
        ],
        entry="GregorNoScheduler",
    ),
    Panel(
        "Partitions",
        "Owned, unknown and polled ones.",
        [
            ("sum(gregor_owned_partitions)", "owned"),
            ("max(gregor_due_unknown_partitions)", "unknown"),
            ("max(gregor_due_polled_partitions)", "polled"),
        ],
        entry="GregorTimersUnknown",
    ),
    Panel("Rounds over due work", "Time of one round.", times("gregor_tick_seconds"), "s", 1, entry="GregorTimersLate"),
    Panel(
        "Published deliveries",
        "A second; those without room, above a share, and repeated ones.",
        [
            (rate("gregor_intents_total", "channel"), "{{channel}}"),
            (f"{rate('gregor_intents_put_off_total', 'channel')} or vector(0)", "{{channel}} no room"),
            (f"{rate('gregor_intents_above_share_total', 'channel')} or vector(0)", "{{channel}} above the share"),
            (f"{rate('gregor_intents_again_total', 'channel')} or vector(0)", "{{channel}} again"),
        ],
        "ops",
        entry="GregorDeliveryQueueFull",
    ),
    Panel(
        "Streams",
        "Unclaimed, claimed and waiting deliveries.",
        [
            ("max by (channel) (gregor_queue_unclaimed)", "{{channel}} unclaimed"),
            ("max by (channel) (gregor_queue_claimed)", "{{channel}} claimed"),
            ("max by (channel) (gregor_queue_waiting)", "{{channel}} waiting"),
            ("max by (channel) (gregor_queue_quarantined)", "{{channel}} unreadable"),
            ("min(gregor_queue_available)", "queue available"),
        ],
        entry="GregorDeliveryQueueStuck",
    ),
    Panel(
        "Oldest delivery",
        "Age of the oldest delivery in each stream.",
        [("max by (channel) (gregor_queue_oldest_seconds)", "{{channel}}")],
        "s",
        300,
        entry="GregorDeliveryQueueStuck",
    ),
    Panel(
        "Calls of providers",
        "A second, by verdict; those in progress.",
        [
            (rate("gregor_delivery_attempts_total", "channel, verdict"), "{{channel}} {{verdict}}"),
            ("sum by (channel) (gregor_delivery_in_flight)", "{{channel}} in progress"),
        ],
        entry="GregorProviderDown",
    ),
    Panel(
        "Time of a provider",
        "99th percentile by channel and verdict.",
        [(quantile("gregor_delivery_send_seconds", 0.99, "channel, verdict"), "{{channel}} {{verdict}}")],
        "s",
        5,
        entry="GregorProviderDown",
    ),
    Panel(
        "Age of a delivery",
        "From the decision to the answer of the provider.",
        times("gregor_delivery_age_seconds", "channel"),
        "s",
        30,
        entry="GregorLatePushesFastBurn",
    ),
    Panel(
        "Providers that are down",
        "1: credentials are wrong, or the circuit breaker is open. Processes with a wrong clock.",
        [
            ("max by (channel) (gregor_delivery_stopped)", "{{channel}} stopped"),
            ("max by (channel) (gregor_delivery_parked)", "{{channel}} parked"),
            ("max(gregor_delivery_clock_refused)", "clock refused"),
        ],
        "short",
        1,
        entry="GregorDeliveryStopped",
    ),
    Panel(
        "Not sent",
        "Held by reason, folded, given up, failed, and dead addresses, a second.",
        [
            (f"{rate('gregor_delivery_held_total', 'channel, reason')} or vector(0)", "{{channel}} {{reason}}"),
            (f"{rate('gregor_delivery_folded_total', 'channel')} or vector(0)", "{{channel}} folded"),
            (f"{rate('gregor_delivery_dead_total', 'channel')} or vector(0)", "{{channel}} dead"),
            (f"{rate('gregor_delivery_failures_total', 'channel')} or vector(0)", "{{channel}} failed"),
            (f"{rate('gregor_delivery_tokens_forgotten_total', 'channel')} or vector(0)", "{{channel}} forgotten"),
        ],
        "ops",
        entry="GregorDeliveryFails",
    ),
    Panel(
        "Summaries, delayed messages and jobs",
        "A second.",
        [
            (rate("gregor_folded_items_total"), "items summarised"),
            (f"{rate('gregor_aggregator_failures_total', 'aggregator')} or vector(0)", "{{aggregator}} failed"),
            (f"{rate('gregor_delayed_refused_total', 'code')} or vector(0)", "delayed: {{code}}"),
            (f"{rate('gregor_delayed_ignored_total', 'reason')} or vector(0)", "delayed, ignored: {{reason}}"),
            (f"{rate('gregor_jobs_total', 'kind, state')} or vector(0)", "job {{kind}} {{state}}"),
            (f"{rate('gregor_job_users_total', 'kind, outcome')} or vector(0)", "users of {{kind}}: {{outcome}}"),
        ],
        "ops",
        entry="GregorAggregatorFails",
    ),
]

BOARDS: Final = {
    "overview": ("Gregor: overview", OVERVIEW),
    "ingest": ("Gregor: messages and Redis", INGEST),
    "gateway": ("Gregor: connections", GATEWAY),
    "delivery": ("Gregor: time and delivery", DELIVERY),
}


# ---- JSON of Grafana


def board(name: str) -> dict[str, Any]:
    """Return a board as Grafana 11 and 12 export it."""
    title, panels = BOARDS[name]
    return {
        "uid": f"gregor-{name}",
        "title": title,
        "tags": ["gregor"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "timezone": "browser",
        "time": {"from": "now-3h", "to": "now"},
        "annotations": {"list": []},
        "links": [
            {"type": "dashboards", "title": "Gregor", "tags": ["gregor"], "asDropdown": True, "keepTime": True},
            {"type": "link", "title": "Runbook", "url": RUNBOOK, "targetBlank": True},
        ],
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                {"name": "docs", "label": "Documentation", "type": "textbox", "query": DOCS},
            ]
        },
        "panels": list(_placed(panels)),
    }


def _placed(panels: Sequence[Panel]) -> Iterator[dict[str, Any]]:
    x = y = 0
    for number, panel in enumerate(panels, 1):
        width = WIDTHS[panel.kind]
        if x + width > 24:
            x, y = 0, y + HEIGHT
        yield _panel(number, panel, {"x": x, "y": y, "w": width, "h": HEIGHT})
        x += width


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": DATASOURCE,
        "gridPos": place,
        "links": [{"title": panel.entry, "url": f"{RUNBOOK}#{panel.entry.lower()}", "targetBlank": True}],
        "fieldConfig": {"defaults": {"unit": panel.unit, "thresholds": _thresholds(panel)}, "overrides": []},
        "options": {},
        "targets": [
            {"refId": chr(ord("A") + n), "datasource": DATASOURCE, "expr": expression, "legendFormat": legend}
            for n, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _thresholds(panel: Panel) -> dict[str, Any]:
    first = "green" if panel.red_below is None else "red"
    steps: list[dict[str, Any]] = [{"color": first, "value": None}]
    if panel.red_above is not None:
        steps.append({"color": "red", "value": panel.red_above})
    if panel.red_below is not None:
        steps.append({"color": "green", "value": panel.red_below})
    return {"mode": "absolute", "steps": steps}


def text_of(name: str) -> str:
    """Return the content of the file of a board."""
    return json.dumps(board(name), indent=2) + "\n"


if __name__ == "__main__":
    for each in BOARDS:
        for folder in (HERE, CHART):
            (folder / f"{each}.json").write_text(text_of(each), "utf-8")
