"""Each check of `gregor doctor` finds its problem, names the fix, and is listed in the documentation."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from gregor.cli.doctor import deployment_findings, host_findings, server, server_findings, settings_findings
from gregor.cli.doctor.cluster import NodeReport, node_findings
from gregor.cli.doctor.command import redis_findings
from gregor.cli.doctor.finding import CHECK_NAMES, CheckName, Finding
from gregor.cli.doctor.providers import key_set_findings, provider_finding, provider_findings
from gregor.cli.doctor.remote_checks import Deadline, RemoteCheck, run_checks
from gregor.config.settings import Settings
from gregor.redis.cluster.slots import SLOTS, MemberNode
from gregor.redis.errors import RedisUnavailable
from gregor.store.formats import DeploymentFormats, ProcessFormats, WrittenFormat

PAGE = Path(__file__).parents[4] / "docs/reference/doctor.md"
GOOD_SECRET = "q8Zr1nK4vX0cTq7mWb2yHs5jLd9fGp3e"
SOUND_OPTIONS = {
    "cluster-require-full-coverage": "no",
    "cluster-node-timeout": "5000",
    "cluster-allow-reads-when-down": "no",
    "cluster-allow-pubsubshard-when-down": "yes",
}
INGEST = ProcessFormats("h:1", "ingest", "0.1.0", (1, 1), 1)
WITH_WEB_PUSH = Settings(vapid_key_file=Path("/k"))
Case = Callable[[], Finding | Sequence[Finding]]


def settings(**given: Any) -> list[Finding]:
    return settings_findings.settings_findings(Settings.model_validate(given), {})


def exposed(address: str, **given: Any) -> Finding:
    return settings_findings.admin_port_finding(Settings.model_validate(given), address)


def host(open_files: int = 200_000, authorities: int = 100, **environ: str) -> list[Finding]:
    facts = host_findings.Host((3, 11, 7), open_files, authorities, None)
    return host_findings.host_findings(facts, Settings(), environ)


def node(options: dict[str, str] | None = None, *, error: str | None = None) -> list[Finding]:
    member = MemberNode(("10.0.0.1", 6379), True, SLOTS)
    return node_findings([NodeReport(member, {}, options, error)])


def with_option(name: str, value: str) -> Case:
    return lambda: node({**SOUND_OPTIONS, f"cluster-{name}": value})


def readable_config() -> list[Finding]:
    """Return the findings for a TOML file with a secret that everybody can read."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "gregor.toml"
        file.write_text(f"token_secret = '{GOOD_SECRET}'")
        file.chmod(0o644)
        return settings_findings.settings_findings(Settings(), {"GREGOR_CONFIG": str(file)})


async def never() -> list[Finding]:
    await asyncio.Event().wait()
    return []


def run(checking: Coroutine[Any, Any, list[Finding]]) -> list[Finding]:
    return asyncio.run(checking)


CASES: dict[CheckName, Case] = {
    "python": lambda: host(),
    "python-options": lambda: host(PYTHONDEVMODE="1"),
    "file-descriptors": lambda: host(open_files=1024),
    "certificates": lambda: host(authorities=0),
    "tokens": lambda: settings(),
    "token-audience": lambda: settings(token_jwks="https://idp.example/keys"),
    "jwks": lambda: settings_findings.jwks_finding(b'{"keys":[{"kid":"a","kty":"oct","k":"YQ"}]}', allows_weak=False),
    "secrets": lambda: settings(token_secret="hunter2"),
    "plaintext": lambda: settings(redis_url="redis://:password@redis.example"),
    "config-file": readable_config,
    "development": lambda: settings(clock_offset_s=60),
    "origins": lambda: settings(origins="http://app.example"),
    "admin-port": lambda: exposed("8.8.8.8", admin_port=8709, host="0.0.0.0"),
    "metrics-public": lambda: settings(metrics_public=True, host="0.0.0.0"),
    "trusted-proxies": lambda: settings(trusted_proxies="10.0.0.0/8,0.0.0.0/0"),
    "public-url": lambda: settings(smtp_url="smtp://relay.example"),
    "app-url": lambda: settings(vapid_key_file="/k", vapid_subject="mailto:ops@example.com"),
    "vapid-subject": lambda: settings(vapid_key_file="/k", vapid_subject="mailto:ops@example.com"),
    "categories": lambda: settings(categories="/nothing.toml"),
    "redis": lambda: run(redis_findings(Settings(redis_url="redis://127.0.0.1:1"), Deadline(0, 0.1))),
    "version": lambda: server_findings.version_finding({"redis_version": "7.0.1"}),
    "role": lambda: server_findings.role_finding({"role": "slave", "master_host": "10.0.0.2"}),
    "eviction": lambda: server_findings.eviction_finding({"maxmemory_policy": "allkeys-lru", "maxmemory": "1"}),
    "evicted-keys": lambda: server_findings.evicted_keys_finding({"evicted_keys": "7"}),
    "memory": lambda: server_findings.memory_finding({"used_memory": "96", "maxmemory": "100"}),
    "persistence": lambda: server_findings.persistence_finding({"aof_enabled": "1", "aof_last_write_status": "err"}),
    "replication": lambda: server_findings.replication_finding({"slave0": "state=online", "slave1": "state=online"}),
    "clients": lambda: server_findings.clients_finding({"connected_clients": "9000", "maxclients": "10000"}),
    "latency": lambda: server.latency_finding(0.05),
    "clock": lambda: server.clock_finding(-2.0),
    "pubsub": lambda: run(run_checks([RemoteCheck("pubsub", never, "fix")], Deadline(0, 0))),
    "databases": lambda: deployment_findings.databases_finding([1], "gregor"),
    "acl": lambda: server.access_finding("default", is_open=False, is_local=False),
    "options": lambda: node(None),
    "timeout": lambda: server_findings.timeout_finding({"timeout": "300"}),
    "tcp-keepalive": lambda: server_findings.keepalive_finding({"tcp-keepalive": "0"}),
    "appendfsync": lambda: server_findings.appendfsync_finding({"appendfsync": "no"}),
    "pubsub-buffer": lambda: server_findings.pubsub_buffer_finding(
        {"client-output-buffer-limit": "normal 0 0 0 pubsub 33554432 8388608 60"}
    ),
    "sentinels": lambda: server.sentinels_finding({"10.0.0.1:26379": RedisUnavailable("it does not answer")}),
    "queue": lambda: server.queue_finding({"redis_version": "8.0.2", "aof_enabled": "0"}),
    "nodes": lambda: node(error="connection refused"),
    "coverage": lambda: node(error="connection refused"),
    "replicas": lambda: node(SOUND_OPTIONS),
    "require-full-coverage": with_option("require-full-coverage", "yes"),
    "node-timeout": with_option("node-timeout", "15000"),
    "allow-reads-when-down": with_option("allow-reads-when-down", "yes"),
    "allow-pubsubshard-when-down": with_option("allow-pubsubshard-when-down", "no"),
    "partitions": lambda: deployment_findings.partitions_finding(1024, 4096),
    "formats": lambda: deployment_findings.formats_finding(WrittenFormat(99, "9.0.0")),
    "processes": lambda: deployment_findings.processes_finding(DeploymentFormats(WrittenFormat(2, "0.2.0"), [INGEST])),
    "services": lambda: deployment_findings.services_finding([INGEST]),
    "service-keys": lambda: deployment_findings.service_keys_finding(0),
    "providers": lambda: run(
        provider_findings(Settings(vapid_key_file=Path("/k")), {"GREGOR_UNKNOWN": "1"}, Deadline(0, 1))
    ),
    "apns": lambda: provider_finding({"provider": "apns", "state": "wrong", "fix": "correct it"}),
    "fcm": lambda: provider_finding({"provider": "fcm", "state": "wrong", "fix": "correct it"}),
    "webpush": lambda: provider_finding({"provider": "webpush", "state": "wrong", "fix": "correct it"}),
    "email": lambda: provider_finding({"provider": "email", "state": "wrong", "fix": "correct it"}),
}


def found(check: CheckName) -> Finding:
    """Return the finding of the case of a check."""
    result = CASES[check]()
    [finding] = [each for each in ([result] if isinstance(result, Finding) else result) if each.check == check]
    return finding


def test_every_check_has_a_case() -> None:
    assert set(CASES) == set(CHECK_NAMES)
    assert len(CHECK_NAMES) >= 30


@pytest.mark.parametrize("check", CHECK_NAMES)
def test_check_finds_its_problem_and_names_the_fix(check: CheckName) -> None:
    finding = found(check)

    assert finding.verdict in ("warn", "fail")
    assert finding.found and finding.fix


def test_documentation_lists_every_check() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+) \| (.+) \|$", PAGE.read_text("utf-8"), re.MULTILINE)

    assert [name for name, _, _ in rows] == list(CHECK_NAMES)


# ---- more than one case


@pytest.mark.parametrize(
    ("given", "public_address", "verdict"),
    [
        ({}, "8.8.8.8", "ok"),
        ({"host": "0.0.0.0"}, None, "warn"),
        ({"host": "0.0.0.0", "admin_port": 8709}, "10.0.0.7", "ok"),
        ({"host": "0.0.0.0", "admin_port": 8709}, "8.8.8.8", "warn"),
        ({"host": "::", "admin_port": 8709}, "2a00:1450::1", "warn"),
        ({"host": "0.0.0.0", "admin_port": 8709, "admin_host": "10.0.0.7"}, "8.8.8.8", "ok"),
        ({"admin_port": 8709, "admin_host": "8.8.4.4"}, None, "warn"),
        ({"admin_port": 8709, "admin_host": "gregor.internal"}, "8.8.8.8", "ok"),
    ],
)
def test_public_admin_port_is_a_warning(given: dict[str, Any], public_address: str | None, verdict: str) -> None:
    assert settings_findings.admin_port_finding(Settings.model_validate(given), public_address).verdict == verdict


@pytest.mark.parametrize(
    ("host", "public_address", "found"),
    [
        ("0.0.0.0", None, "on every address of this host, port 8709: permit the port to probes and Prometheus only"),
        ("::", "10.0.0.7", "on every address of this host, port 8709: permit the port to probes and Prometheus only"),
        ("10.0.0.7", None, "on 10.0.0.7:8709"),
    ],
)
def test_admin_port_on_every_address_is_named(host: str, public_address: str | None, found: str) -> None:
    given = Settings.model_validate({"host": host, "admin_port": 8709})
    finding = settings_findings.admin_port_finding(given, public_address)

    assert finding == Finding("admin-port", "ok", f"probes and metrics are {found}")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "no key for device tokens is set, so none is accepted"),
        ({"token_secret": GOOD_SECRET}, "every token that is signed with GREGOR_TOKEN_SECRET is accepted"),
        ({"token_secret": GOOD_SECRET, "token_aud": "gregor"}, "only tokens with the audience gregor are accepted"),
        ({"token_secret": GOOD_SECRET, "token_iss": "idp"}, "only tokens of the issuer idp are accepted"),
        (
            {"token_jwks": "https://idp.example/keys", "token_aud": "gregor", "token_iss": "idp"},
            "only tokens with the audience gregor of the issuer idp are accepted",
        ),
    ],
)
def test_accepted_tokens_are_named(given: dict[str, str], says: str) -> None:
    [finding] = [each for each in settings(**given) if each.check == "token-audience"]

    assert finding == Finding("token-audience", "ok", says)


def test_files_of_single_secrets_are_not_called_safe(tmp_path: Path) -> None:
    """Mounted secrets are readable in every container, so their modes are no finding."""
    secret = tmp_path / "token"
    secret.write_text(GOOD_SECRET)
    secret.chmod(0o644)
    [finding] = [each for each in settings(token_secret_file=secret) if each.check == "config-file"]

    assert finding.verdict == "ok"
    assert "the modes of secrets in files (GREGOR_…_FILE) are not checked" in finding.found


@pytest.mark.parametrize(
    ("user", "is_open", "is_local", "verdict"),
    [
        ("default", True, True, "ok"),
        ("default", True, False, "warn"),
        ("default", False, False, "warn"),
        ("gregor-ingest", True, False, "warn"),
        ("gregor-ingest", False, False, "ok"),
    ],
)
def test_open_or_shared_redis_is_a_warning(user: str, is_open: bool, is_local: bool, verdict: str) -> None:
    assert server.access_finding(user, is_open=is_open, is_local=is_local).verdict == verdict


@pytest.mark.parametrize(
    ("used", "limit", "verdict"),
    [("10", "0", "warn"), ("79", "100", "ok"), ("80", "100", "warn"), ("95", "100", "fail")],
)
def test_memory_is_compared_with_its_limit(used: str, limit: str, verdict: str) -> None:
    assert server_findings.memory_finding({"used_memory": used, "maxmemory": limit}).verdict == verdict


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        ({}, "ok"),
        ({"public_url": "https://gregor.example"}, "warn"),
        ({"public_url": "https://gregor.example", "trusted_proxies": "10.0.0.0/8"}, "ok"),
        ({"public_url": "https://gregor.example", "proxy_protocol": True}, "ok"),
        ({"trusted_proxies": "::/0"}, "fail"),
    ],
)
def test_proxies_are_trusted_by_network(given: dict[str, Any], verdict: str) -> None:
    assert settings_findings.proxies_finding(Settings.model_validate(given)).verdict == verdict


async def test_unreadable_key_set_is_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    assert [each.verdict for each in await key_set_findings(Settings(token_jwks=str(file)))] == ["fail"]
    file.write_text("[]")
    assert [each.verdict for each in await key_set_findings(Settings(token_jwks=str(file)))] == ["fail"]
    key = {"kid": "a", "kty": "oct", "k": base64.urlsafe_b64encode(GOOD_SECRET.encode()).decode().rstrip("=")}
    file.write_text(json.dumps({"keys": [key]}))
    assert await key_set_findings(Settings(token_jwks=str(file))) == [Finding("jwks", "ok", "1 keys are usable")]


async def test_hung_check_does_not_delay_the_others() -> None:
    async def answers() -> list[Finding]:
        return [Finding("clock", "ok", "now")]

    async def breaks() -> list[Finding]:
        raise RedisUnavailable("it is gone")

    checks = [
        RemoteCheck("redis", never, "start it"),
        RemoteCheck("clock", answers, ""),
        RemoteCheck("acl", breaks, "load it"),
    ]
    now = asyncio.get_running_loop().time()
    found = await run_checks(checks, Deadline.after(0.05))

    assert [(each.check, each.verdict) for each in found] == [("redis", "fail"), ("clock", "ok"), ("acl", "fail")]
    assert found[0].found.startswith("no answer within") and found[0].fix == "start it"
    assert found[2] == Finding("acl", "fail", "it is gone", "load it")
    assert asyncio.get_running_loop().time() - now < 5


def test_age_of_a_process_is_known() -> None:
    """The deadline of the command includes the start of Python."""
    code = "from gregor.cli.doctor.remote_checks import process_age_s; print(process_age_s())"
    began = time.monotonic()
    age_s = float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)

    assert 0.05 < age_s <= time.monotonic() - began + 0.02


@pytest.mark.parametrize(
    ("subject", "verdicts"),
    [
        (None, ("fail", "fail")),
        ("http://keybase.io", ("fail", "fail")),
        ("mailto:<a@keybase.io>", ("fail", "fail")),
        ("mailto:ops@localhost", ("fail", "warn")),
        ("mailto:ops@keybase.io", ("ok", "ok")),
    ],
)
def test_development_permits_a_private_contact(subject: str | None, verdicts: tuple[str, str]) -> None:
    for allows_weak, verdict in zip((False, True), verdicts, strict=True):
        given = Settings(vapid_key_file=Path("/k"), vapid_subject=subject, allow_weak_secrets=allows_weak)
        finding = settings_findings.vapid_finding(given)

        assert finding.verdict == verdict
        assert ("mailto:you@your-domain" in finding.fix) == (verdict != "ok")


def test_certificates_of_a_directory_are_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """OpenSSL reads a directory of certificates on use; until then, a context has none."""
    (tmp_path / "4a6481c9.0").write_text("a certificate")
    monkeypatch.setenv("SSL_CERT_FILE", "/missing")
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))

    assert host_findings.this_host().authorities == 1
