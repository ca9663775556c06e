"""Each alert of deploy/prometheus/alerts.yaml fires on bad values, is quiet on good ones, and resolves (promtool)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

RULES = Path(__file__).parents[2] / "deploy/prometheus/alerts.yaml"
ALERTS = re.findall(r"- alert: (\w+)", RULES.read_text("utf-8"))
GROUPS = re.findall(r"^  - name: (\S+)", RULES.read_text("utf-8"), re.MULTILINE)
LABELS = 'job="gregor",instance="a"'
BAD_STEPS = 60
"""Every series is good for this many steps, then bad for as many, then good again."""


@dataclass(frozen=True)
class Case:
    """The series of an alert: name and labels, with the values of the three times (changes per step if ``+``)."""

    series: Mapping[str, tuple[str, str]]
    labels: Mapping[str, str] = field(default_factory=dict)
    resolves_after: int = 60
    """Steps after the end of the bad time: a rate over an hour needs an hour."""
    bad_steps: int = BAD_STEPS
    step_min: int = 1
    good_steps: int = 0
    """Steps before the bad time, if not as many as ``bad_steps``."""


def gauge(name: str, good: str = "0", bad: str = "1", **labels: str) -> Case:
    """A gauge, with the labels of the alert."""
    return Case({_series(name, labels): (good, bad)}, {"job": "gregor", "instance": "a", **labels})


def counter(name: str, bad_per_step: int, **labels: str) -> Case:
    """A counter that is constant in good times. The alert has the labels."""
    return Case({_series(name, labels): ("+0", f"+{bad_per_step}")}, labels)


def _series(name: str, labels: Mapping[str, str]) -> str:
    return f"{name}{{{','.join([LABELS, *(f'{key}={json.dumps(value)}' for key, value in labels.items())])}}}"


def share(good: str, total: str, *, slow: bool, **labels: str) -> Case:
    """Two counters of an objective: of 1,000 a step, all are good, or none is."""
    total_labels = {key: value for key, value in labels.items() if key != "le"}
    return _burn({_series(good, labels): ("+1000", "+0"), _series(total, total_labels): ("+1000", "+1000")}, slow=slow)


def errors(*, slow: bool) -> Case:
    """Messages: in bad times half of them fail. A caller that sends refused ones all the time must not hide it."""
    route = {"route": "sendMessage", "method": "POST"}
    series = {
        _series("gregor_http_requests_total", {**route, "status": "200"}): ("+1000", "+500"),
        _series("gregor_http_requests_total", {**route, "status": "503"}): ("+0", "+500"),
        _series("gregor_http_requests_total", {**route, "status": "429"}): ("+2000000", "+2000000"),
    }
    return _burn(series, slow=slow)


def _burn(series: Mapping[str, tuple[str, str]], *, slow: bool) -> Case:
    """A slow burn needs three days, at 30 minutes a step; a fast one needs six hours, at two minutes a step."""
    return Case(series, {}, 150, 150, 30) if slow else Case(series, {}, 200, 200, 2)


CASES: dict[str, Case] = {
    "GregorMessageErrorsFastBurn": errors(slow=False),
    "GregorMessageErrorsSlowBurn": errors(slow=True),
    "GregorLateFramesFastBurn": share(
        "gregor_deliver_seconds_bucket", "gregor_deliver_seconds_count", slow=False, le="0.25"
    ),
    "GregorLateFramesSlowBurn": share(
        "gregor_deliver_seconds_bucket", "gregor_deliver_seconds_count", slow=True, le="0.25"
    ),
    "GregorLatePushesFastBurn": share(
        "gregor_delivery_age_seconds_bucket", "gregor_delivery_age_seconds_count", slow=False, channel="fcm", le="30.0"
    ),
    "GregorLatePushesSlowBurn": share(
        "gregor_delivery_age_seconds_bucket", "gregor_delivery_age_seconds_count", slow=True, channel="fcm", le="30.0"
    ),
    "GregorServiceDown": gauge("up", "1", "0", service="ingest"),
    "GregorNoScheduler": Case({_series("up", {"service": "scheduler"}): ("1", "0")}),
    "GregorServiceAbsent": Case(
        {
            _series("up", {"service": "ingest"}): ("1", "1"),
            _series("up", {"service": "delivery"}): ("1", "1"),
            _series("up", {"service": "gateway"}): ("1", "_"),
        },
        {"service": "gateway"},
    ),
    "GregorNotReady": gauge("gregor_ready", "1", "0"),
    "GregorDegraded": gauge("gregor_degraded"),
    "GregorFormatsDiffer": Case(
        {
            _series("gregor_format", {"use": "writes", "service": "ingest"}): ("2", "2"),
            _series("gregor_format", {"use": "writes", "service": "gateway"}): ("2", "1"),
        }
    ),
    "GregorEventLoopBlocked": Case(
        {
            _series("gregor_event_loop_lag_seconds_bucket", {"service": "gateway", "le": le}): (good, bad)
            for le, good, bad in (("0.1", "+120", "+0"), ("0.5", "+120", "+120"), ("+Inf", "+120", "+120"))
        },
        {"service": "gateway", "instance": "a"},
    ),
    "GregorFilesExhausted": Case(
        {_series("process_open_fds", {}): ("800", "950"), _series("process_max_fds", {}): ("1000", "1000")},
        {"job": "gregor", "instance": "a"},
    ),
    "GregorSecretRefused": Case(
        {_series("gregor_secret_reloads_total", {"service": "ingest", "outcome": "refused"}): ("+0", "+1")},
        {"service": "ingest"},
    ),
    "GregorConfigDiffers": Case(
        {
            _series("gregor_config_info", {"service": "ingest", "hash": "a"}): ("1", "1"),
            _series("gregor_config_info", {"service": "ingest", "hash": "b"}): ("_", "1"),
        },
        {"service": "ingest"},
        bad_steps=90,
    ),
    "GregorClockOff": gauge("gregor_redis_clock_offset_seconds", "0.2", "-3"),
    "GregorNotReplicated": Case(
        {
            _series("gregor_replications_total", {"outcome": "confirmed"}): ("+600", "+500"),
            _series("gregor_replications_total", {"outcome": "not_replicated"}): ("+0", "+100"),
        }
    ),
    "GregorTimersLate": gauge("gregor_due_lag_seconds", "2", "11"),
    "GregorTimersUnknown": gauge("gregor_due_unknown_partitions", "0", "341"),
    "GregorTimersFail": Case(
        {_series("gregor_timers_total", {"kind": "push", "outcome": "failed"}): ("+0", "+1")}, {"kind": "push"}, 120
    ),
    "GregorAuditFinding": Case(
        {_series("gregor_job_users_total", {"kind": "audit", "outcome": "wrong_digest"}): ("+0", "+1")},
        {"outcome": "wrong_digest"},
        120,
    ),
    "GregorJobFailed": Case(
        {_series("gregor_jobs_total", {"kind": "rewrite", "state": "failed"}): ("+0", "+1")}, {"kind": "rewrite"}, 120
    ),
    "GregorDueTimesPolled": gauge("gregor_due_polled_partitions", "0", "1024"),
    "GregorAggregatorFails": counter("gregor_aggregator_failures_total", 1, aggregator="mail"),
    "GregorDelayedMessagesRefused": Case(
        {_series("gregor_delayed_refused_total", {"code": "too_large"}): ("+0", "+1")}, {"code": "too_large"}, 120
    ),
    "GregorDeliveryStopped": gauge("gregor_delivery_stopped", channel="apns"),
    "GregorDeliveryRejected": Case(
        {
            _series("gregor_delivery_attempts_total", {"channel": "apns", "verdict": "misconfigured"}): ("+5", "+50"),
            _series("gregor_delivery_attempts_total", {"channel": "apns", "verdict": "sent"}): ("+100", "+100"),
        },
        {"channel": "apns"},
    ),
    "GregorProviderDown": gauge("gregor_delivery_parked", channel="apns"),
    "GregorDeliveryFailing": Case(
        {
            _series("gregor_delivery_attempts_total", {"channel": "email", "verdict": "retry"}): ("+10", "+100"),
            _series("gregor_delivery_attempts_total", {"channel": "email", "verdict": "sent"}): ("+50", "+50"),
            _series("gregor_delivery_parked", {"channel": "email"}): ("0", "0"),
        },
        {"channel": "email"},
    ),
    "GregorDeliveryFails": counter("gregor_delivery_failures_total", 1, channel="fcm"),
    "GregorDeliveryQueueFull": Case(
        {
            _series("gregor_intents_put_off_total", {"channel": "fcm"}): ("+0", "+50"),
            _series("gregor_intents_above_share_total", {"channel": "fcm"}): ("+5000", "+5000"),
        },
        {"channel": "fcm"},
    ),
    "GregorDeliveryQueueStuck": Case(
        {
            _series("gregor_queue_oldest_seconds", {"channel": "fcm"}): ("2", "400"),
            _series("gregor_delivery_parked", {"channel": "fcm"}): ("0", "0"),
        },
        {"channel": "fcm"},
    ),
    "GregorDeliveriesQuarantined": Case(
        {_series("gregor_queue_quarantined", {"channel": "fcm"}): ("0", "3")}, {"channel": "fcm"}
    ),
    "GregorDeliveriesRepeated": counter("gregor_intents_again_total", 10, channel="fcm"),
    "GregorPushTokensLost": Case(
        {_series("gregor_delivery_tokens_forgotten_total", {"channel": "fcm"}): ("+1", "+100")}, {"channel": "fcm"}, 120
    ),
    "GregorReconnectStorm": Case(
        {
            _series("gregor_connections_ended_total", {"transport": "sse", "by": "client"}): ("+60", "+60000"),
            _series("gregor_connections_ended_total", {"transport": "poll", "by": "client"}): ("+60000", "+60000"),
        },
        {"transport": "sse"},
        bad_steps=30,
        good_steps=400,
    ),
    "GregorGatewayLeaseFails": Case(
        {
            _series("gregor_gateway_lease_renewals_total", {"outcome": "failed"}): ("+0", "+12"),
            _series("gregor_gateway_lease_renewals_total", {"outcome": "renewed"}): ("+12", "+0"),
        },
        {"instance": "a"},
    ),
    "GregorConnectionsRefused": counter("gregor_connections_refused_total", 600, limit="process"),
    "GregorGapsFound": counter("gregor_gaps_total", 600, found="gap"),
    "GregorSlowDevices": Case({_series("gregor_queue_overflows_total", {}): ("+0", "+600")}),
    "GregorCanaryFails": Case(
        {_series("gregor_canary_rounds_total", {"transport": "sse", "outcome": "ok"}): ("+2", "+0")},
        {"transport": "sse"},
    ),
    "GregorCanaryUnstable": Case(
        {_series("gregor_canary_failures_total", {"transport": "sse", "stage": "late"}): ("+0", "+1")},
        {"transport": "sse"},
    ),
    "GregorCanarySlow": Case(
        {
            _series("gregor_canary_receive_seconds_bucket", {"transport": "sse", "le": "0.25"}): ("+2", "+1"),
            _series("gregor_canary_receive_seconds_count", {"transport": "sse"}): ("+2", "+2"),
        },
        {"transport": "sse"},
    ),
    "GregorTracesLost": counter("gregor_trace_spans_total", 100, outcome="lost"),
    "GregorAuthFailures": counter("gregor_auth_failures_total", 3_000, reason="token_invalid"),
    "GregorOverload": Case({_series("gregor_overload_refusals_total", {}): ("+0", "+600")}, {"instance": "a"}),
    "GregorServiceKeysUnconfirmed": gauge("gregor_unconfirmed_service_keys_total", "+0", "+5"),
    "GregorOriginsRefused": Case({_series("gregor_origins_refused_total", {}): ("+0", "+600")}),
    "GregorCallersLimited": counter("gregor_limits_reached_total", 6_000, limit="messages"),
    "GregorTemplatesFail": counter("gregor_render_failures_total", 1, field="title"),
}


def test_every_alert_has_a_case() -> None:
    assert sorted(CASES) == sorted(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_alert_fires_is_quiet_and_resolves(name: str, tmp_path: Path) -> None:
    promtool = shutil.which("promtool") or pytest.skip("promtool is not installed; the package is named prometheus")
    case = CASES[name]
    good_end = case.good_steps or case.bad_steps
    bad_end = good_end + case.bad_steps
    step = f"{case.step_min}m"
    # promtool compares the annotations of an alert too. Their texts are no subject of this test.
    rules = tmp_path / "rules.yaml"
    rules.write_text(re.sub(r" +annotations:\n(?: +(?:summary|runbook): .*\n)+", "", RULES.read_text("utf-8")))
    document = {
        "rule_files": [str(rules)],
        "evaluation_interval": step,
        # Without an order, promtool chooses one by chance: the recorded ratios are stale if alerts come before them.
        "group_eval_order": GROUPS,
        "tests": [
            {
                "interval": step,
                "input_series": [
                    {"series": series, "values": _values(*values, case)} for series, values in case.series.items()
                ],
                "alert_rule_test": [
                    _expectation(name, case.step_min * (good_end - 1), None),
                    _expectation(name, case.step_min * (bad_end - 1), case.labels),
                    _expectation(name, case.step_min * (bad_end + case.resolves_after), None),
                ],
            }
        ],
    }
    path = tmp_path / "test.json"
    path.write_text(json.dumps(document))

    done = subprocess.run([promtool, "test", "rules", str(path)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def _values(good: str, bad: str, case: Case) -> str:
    """Return the three times in promtool's notation."""
    counts = ((case.good_steps or case.bad_steps) - 1, case.bad_steps - 1, case.resolves_after + 1)
    if not good.startswith("+"):
        # `_x5` is five times without a value, but `1x5` is a value and five repetitions.
        times = (count + (value == "_") for value, count in zip((good, bad, good), counts, strict=True))
        return " ".join(f"{value}x{count}" for value, count in zip((good, bad, good), times, strict=True))
    start, parts = 0, []
    for value, count in zip((good, bad, good), counts, strict=True):
        step = int(value)
        parts.append(f"{start}+{step}x{count}")
        start += step * (count + 1)
    return " ".join(parts)


def _expectation(name: str, at_min: int, labels: Mapping[str, str] | None) -> dict[str, Any]:
    """Expect an alert with these labels, or none."""
    expected = [] if labels is None else [{"exp_labels": {"severity": _severity(name), **labels}}]
    return {"eval_time": f"{at_min}m", "alertname": name, "exp_alerts": expected}


def _severity(name: str) -> str:
    match = re.search(rf"- alert: {name}\n.*?severity: (\w+)", RULES.read_text("utf-8"), re.DOTALL)
    assert match is not None
    return match[1]
