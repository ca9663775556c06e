"""The plan and the output of `gregor dev`."""

import json
import os
import socket
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from gregor.config.settings import load_settings
from gregor.dev.errors import DevError
from gregor.dev.fake_providers import FakeProviders
from gregor.dev.output import command_as_typed, ready_line, ready_text
from gregor.dev.plan import DevPlan, DevSecrets, clear_data, locked
from gregor.net.origins import Origins

REDIS = "redis://127.0.0.1:7000/0"


def plan(environ: dict[str, str] | None = None, base: int = 9_700, ingests: int = 1, gateways: int = 1) -> DevPlan:
    settings = load_settings(environ or {})
    return DevPlan(settings, base, ingests, gateways, settings.queue_url, "secret")


def test_ports_of_further_processes_are_ten_higher() -> None:
    made = plan(ingests=2, gateways=3)

    assert made.ingest_urls == ["http://127.0.0.1:9700", "http://127.0.0.1:9710"]
    assert made.gateway_urls == ["ws://127.0.0.1:9701", "ws://127.0.0.1:9711", "ws://127.0.0.1:9721"]
    assert made.stream_urls == ["http://127.0.0.1:9702", "http://127.0.0.1:9712", "http://127.0.0.1:9722"]


def test_processes_get_ports_redis_and_secret() -> None:
    ingest, first, second, scheduler, delivery = plan(gateways=2).services(REDIS)

    assert (ingest.module, ingest.environ["GREGOR_INGEST_PORT"]) == ("gregor_ingest", "9700")
    assert (second.environ["GREGOR_GATEWAY_PORT"], second.environ["GREGOR_STREAM_PORT"]) == ("9711", "9712")
    assert {service.environ["GREGOR_REDIS_URL"] for service in (ingest, first, second)} == {REDIS}
    assert {service.environ["GREGOR_TOKEN_SECRET"] for service in (ingest, first, second)} == {"secret"}
    assert second.probes == ["http://127.0.0.1:9711/readyz", "http://127.0.0.1:9712/readyz"]
    assert (scheduler.module, scheduler.environ["GREGOR_SCHEDULER_PORT"]) == ("gregor_scheduler", "9703")
    assert (delivery.module, delivery.environ["GREGOR_DELIVERY_PORT"]) == ("gregor_delivery", "9704")
    assert delivery.environ["GREGOR_DELIVERY_CONSOLE"] == "true"


def test_services_follow_the_file_of_the_token_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("redis://127.0.0.1:1/0")
    given = {"GREGOR_TOKEN_SECRET_FILE": str(path), "GREGOR_REDIS_URL_FILE": str(path)}
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    for service in plan(given).services(REDIS):
        settings = load_settings(service.environ)
        assert (settings.redis_url, settings.redis_url_file) == (REDIS, None)
        assert settings.token_secret_file == path


def test_development_defaults_do_not_override_settings() -> None:
    filled = plan().services(REDIS)[0].environ
    origins = Origins(filled["GREGOR_ORIGINS"].split(","))
    for page in ("http://localhost:3000", "https://localhost", "http://127.0.0.1:5173", "https://127.0.0.1:8443"):
        assert origins.allows(page, "")
    assert not origins.allows("http://app.example", "")
    assert filled["GREGOR_LOG_FORMAT"] == "console"
    assert filled["GREGOR_ALLOW_WEAK_SECRETS"] == "true"

    chosen = plan({"GREGOR_ORIGINS": "https://a.example", "GREGOR_DRAIN_SECONDS": "9"})
    assert "GREGOR_ORIGINS" not in chosen.services(REDIS)[0].environ
    assert chosen.drain_s == 9


def test_each_process_has_its_own_admin_port() -> None:
    services = plan({"GREGOR_ADMIN_PORT": "9000"}, ingests=2, gateways=2).services(REDIS)

    assert len({service.environ["GREGOR_ADMIN_PORT"] for service in services}) == 6
    for service in services[:4]:
        # The public ports have no probes then.
        assert service.probes == [f"http://127.0.0.1:{service.environ['GREGOR_ADMIN_PORT']}/readyz"]


def test_environment_of_a_process_is_valid() -> None:
    for service in plan(gateways=2).services(REDIS):
        load_settings({name: value for name, value in service.environ.items() if name.startswith("GREGOR_")})


def test_port_in_use_is_an_error() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]

        with pytest.raises(DevError, match=f"port {port} is in use .* --port-base"):
            plan(base=port).check_ports()


def test_port_above_65535_is_an_error() -> None:
    with pytest.raises(DevError, match="too high"):
        plan(base=65_000, gateways=55).check_ports()


def test_wildcard_host_is_called_by_loopback() -> None:
    assert plan({"GREGOR_HOST": "0.0.0.0"}).ingest_urls == ["http://127.0.0.1:9700"]
    assert plan({"GREGOR_HOST": "::1"}).ingest_urls == ["http://[::1]:9700"]


def test_json_line_has_all_members() -> None:
    line = json.loads(ready_line(plan(gateways=2), REDIS, "gk_a_b"))

    assert line == {
        "ingest": "http://127.0.0.1:9700",
        "demo": "http://127.0.0.1:9700/demo",
        "gateway": "ws://127.0.0.1:9701",
        "stream": "http://127.0.0.1:9702",
        "ingests": ["http://127.0.0.1:9700"],
        "gateways": ["ws://127.0.0.1:9701", "ws://127.0.0.1:9711"],
        "streams": ["http://127.0.0.1:9702", "http://127.0.0.1:9712"],
        "scheduler": "http://127.0.0.1:9703",
        "delivery": "http://127.0.0.1:9704",
        "redis": REDIS,
        "queue": REDIS,
        "key": "gk_a_b",
    }


def with_fakes(made: DevPlan) -> DevPlan:
    settings = {"GREGOR_FCM_URL": "http://127.0.0.1:1", "GREGOR_FCM_CREDENTIALS_FILE": "/tmp/fcm.json"}
    return replace(made, fakes=FakeProviders(settings, {"endpoint": "https://localhost:2/p"}, Path("/tmp/a.jsonl")))


def test_fake_providers_replace_real_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREGOR_APNS_KEY_FILE", "/real.p8")

    for service in with_fakes(plan()).services(REDIS):
        assert service.environ["GREGOR_FCM_URL"] == "http://127.0.0.1:1"
        assert "GREGOR_APNS_KEY_FILE" not in service.environ
    assert {service.environ["GREGOR_APNS_KEY_FILE"] for service in plan().services(REDIS)} == {"/real.p8"}


def test_fake_providers_are_in_the_output() -> None:
    made = with_fakes(plan())

    line = json.loads(ready_line(made, REDIS, "gk_a_b"))
    assert line["fakes"] == {"arrivals": "/tmp/a.jsonl", "subscription": {"endpoint": "https://localhost:2/p"}}
    assert "/v1/users/alice/devices/phone" in ready_text(made, REDIS, "gk_a_b", None)
    assert "/v1/users/alice/devices/phone" not in ready_text(plan(), REDIS, "gk_a_b", None)


def test_ready_text_has_key_and_commands_to_paste(tmp_path: Path) -> None:
    text = ready_text(plan(), REDIS, "gk_a_b", tmp_path / "dev-9700")

    assert "\n  export GREGOR_KEY=gk_a_b\n" in text
    assert "watch alice --device phone" in text
    assert "  demo     http://127.0.0.1:9700/demo  (two devices of one user: open it in a browser)" in text
    assert "  pages    http://127.0.0.1:9700/  (API reference: http://127.0.0.1:9700/docs)" in text
    assert f"kept in {tmp_path}/dev-9700  (--fresh " in text


def test_printed_curl_creates_a_new_item_each_time(tmp_path: Path) -> None:
    text = ready_text(plan(), REDIS, "gk_a_b", None)
    command = text[text.index("  curl") : text.index("\n  ", text.index("-d "))].replace("curl -s", "printf '%s\\n'")

    said = subprocess.run(
        ["bash", "-c", command],
        env={"GREGOR_KEY": "gk_a_b", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()

    assert said[0] == "http://127.0.0.1:9700/v1/users/alice/messages" and said[2] == "Authorization: Bearer gk_a_b"
    ((item_id, item),) = json.loads(said[-1])["body"]["create"].items()
    assert item_id.removeprefix("joined-").isdigit() and item["category"] == "user.joined"


@pytest.mark.parametrize(
    ("called", "found", "typed"),
    [
        ("/usr/bin/gregor", "/usr/bin/gregor", "gregor"),
        (".venv/bin/gregor", None, ".venv/bin/gregor"),
        ("/home/a/.venv/bin/gregor", "/usr/bin/gregor", ".venv/bin/gregor"),
        ("/opt/my tools/gregor", None, "'/opt/my tools/gregor'"),
    ],
)
def test_command_is_shown_as_typed(called: str, found: str | None, typed: str) -> None:
    assert command_as_typed(called, found, Path("/home/a")) == typed


def test_secrets_are_private_and_found_again(tmp_path: Path) -> None:
    made = DevSecrets()
    made.key = "gk_a_b"
    made.save(tmp_path)

    assert DevSecrets.load(tmp_path) == made
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600
    assert DevSecrets.load(None).token_secret != DevSecrets.load(None).token_secret


def test_unreadable_secrets_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text("{")

    with pytest.raises(DevError, match="cannot be read"):
        DevSecrets.load(tmp_path)


def test_data_directory_is_locked(tmp_path: Path) -> None:
    with locked(tmp_path / "data"), pytest.raises(DevError, match="in use by another"), locked(tmp_path / "data"):
        pass
    with locked(tmp_path / "data"):
        pass


def test_impossible_data_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(DevError, match="cannot be used"), locked(tmp_path / "file" / "data"):
        pass


def test_clear_data_removes_state_and_secrets_only(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "appendonly").write_text("x")
    (tmp_path / "notes").write_text("mine")
    DevSecrets().save(tmp_path)

    clear_data(tmp_path)

    assert [entry.name for entry in tmp_path.iterdir()] == ["notes"]
