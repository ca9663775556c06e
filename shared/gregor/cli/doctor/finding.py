"""The result of a check: its name, a verdict, the observation and the fix. docs/reference/doctor.md lists the names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

Verdict = Literal["ok", "warn", "fail"]

CheckName = Literal[
    # this host
    "python",
    "python-options",
    "file-descriptors",
    "certificates",
    # settings
    "tokens",
    "token-audience",
    "jwks",
    "secrets",
    "plaintext",
    "config-file",
    "development",
    "origins",
    "admin-port",
    "metrics-public",
    "trusted-proxies",
    "public-url",
    "app-url",
    "vapid-subject",
    "categories",
    # Redis
    "redis",
    "version",
    "role",
    "eviction",
    "evicted-keys",
    "memory",
    "persistence",
    "replication",
    "clients",
    "latency",
    "clock",
    "pubsub",
    "databases",
    "acl",
    "options",
    "timeout",
    "tcp-keepalive",
    "appendfsync",
    "pubsub-buffer",
    "sentinels",
    "queue",
    # Redis Cluster
    "nodes",
    "coverage",
    "replicas",
    "require-full-coverage",
    "node-timeout",
    "allow-reads-when-down",
    "allow-pubsubshard-when-down",
    # the deployment, as stored in Redis
    "partitions",
    "formats",
    "processes",
    "services",
    "service-keys",
    # providers
    "providers",
    "apns",
    "fcm",
    "webpush",
    "email",
]
CHECK_NAMES: Final[tuple[CheckName, ...]] = get_args(CheckName)
"""The names of all checks, in the order of the output."""
_VERDICTS: Final = get_args(Verdict)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check, and how to fix it unless it is `ok`."""

    check: CheckName
    verdict: Verdict
    found: str
    fix: str = ""


def severity(finding: Finding) -> int:
    """Return 0 for `ok`, 1 for `warn`, 2 for `fail`."""
    return _VERDICTS.index(finding.verdict)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings in the order of the documentation; those of one check keep their order."""
    return sorted(findings, key=lambda finding: CHECK_NAMES.index(finding.check))
