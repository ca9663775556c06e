"""What `gregor dev` is going to run, before anything is started."""

import json
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from gregor.cli.errors import Failure
from gregor.config.settings import load_settings
from gregor.dev.fake_providers import FakeProviders
from gregor.dev.output import command_as_typed, ready_line, ready_words
from gregor.dev.plan import Plan, Secrets, held
from gregor.net.origins import Origins

REDIS = "redis://127.0.0.1:7000/0"


def plan(environ: dict[str, str] | None = None, base: int = 9_700, ingests: int = 1, gateways: int = 1) -> Plan:
    settings = load_settings(environ or {})
    return Plan(settings, base, ingests, gateways, settings.queue_url, "secret")


def test_each_further_process_has_its_ports_ten_higher() -> None:
    made = plan(ingests=2, gateways=3)

    assert made.ingest_urls == ["http://127.0.0.1:9700", "http://127.0.0.1:9710"]
    assert made.gateway_urls == ["ws://127.0.0.1:9701", "ws://127.0.0.1:9711", "ws://127.0.0.1:9721"]
    assert made.stream_urls == ["http://127.0.0.1:9702", "http://127.0.0.1:9712", "http://127.0.0.1:9722"]


def test_each_process_is_told_its_ports_the_redis_and_the_secret() -> None:
    ingest, first, second, scheduler, delivery = plan(gateways=2).services(REDIS)

    assert (ingest.module, ingest.environ["GREGOR_INGEST_PORT"]) == ("gregor_ingest", "9700")
    assert (second.environ["GREGOR_GATEWAY_PORT"], second.environ["GREGOR_STREAM_PORT"]) == ("9711", "9712")
    assert {service.environ["GREGOR_REDIS_URL"] for service in (ingest, first, second)} == {REDIS}
    assert {service.environ["GREGOR_TOKEN_SECRET"] for service in (ingest, first, second)} == {"secret"}
    assert second.probes == ["http://127.0.0.1:9711/readyz", "http://127.0.0.1:9712/readyz"]
    assert (scheduler.module, scheduler.environ["GREGOR_SCHEDULER_PORT"]) == ("gregor_scheduler", "9703")
    assert (delivery.module, delivery.environ["GREGOR_DELIVERY_PORT"]) == ("gregor_delivery", "9704")
    assert delivery.environ["GREGOR_DELIVERY_CONSOLE"] == "true"


def test_what_development_needs_is_filled_in_and_what_is_set_stays() -> None:
    filled = plan().services(REDIS)[0].environ
    origins = Origins(filled["GREGOR_ORIGINS"].split(","))
    for page in ("http://localhost:3000", "https://localhost", "http://127.0.0.1:5173", "https://127.0.0.1:8443"):
        assert origins.allows(page, "")
    assert not origins.allows("http://app.example", "")
    assert filled["GREGOR_LOG_FORMAT"] == "console"

    chosen = plan({"GREGOR_ORIGINS": "https://a.example", "GREGOR_DRAIN_SECONDS": "9"})
    assert "GREGOR_ORIGINS" not in chosen.services(REDIS)[0].environ
    assert chosen.drain_s == 9


def test_every_process_gets_an_admin_port_of_its_own() -> None:
    services = plan({"GREGOR_ADMIN_PORT": "9000"}, ingests=2, gateways=2).services(REDIS)

    assert len({service.environ["GREGOR_ADMIN_PORT"] for service in services}) == 6


def test_the_environment_of_a_process_is_accepted_by_the_settings() -> None:
    for service in plan(gateways=2).services(REDIS):
        load_settings({name: value for name, value in service.environ.items() if name.startswith("GREGOR_")})


def test_a_port_that_is_taken_is_told_in_plain_words() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]

        with pytest.raises(Failure, match=f"port {port} is taken .* --port-base"):
            plan(base=port).check_ports()


def test_ports_beyond_the_last_are_refused() -> None:
    with pytest.raises(Failure, match="too high"):
        plan(base=65_000, gateways=55).check_ports()


def test_a_service_that_listens_everywhere_is_called_on_this_machine() -> None:
    assert plan({"GREGOR_HOST": "0.0.0.0"}).ingest_urls == ["http://127.0.0.1:9700"]
    assert plan({"GREGOR_HOST": "::1"}).ingest_urls == ["http://[::1]:9700"]


def test_the_line_for_machines_has_the_members_of_the_contract() -> None:
    line = json.loads(ready_line(plan(gateways=2), REDIS, "gk_a_b"))

    assert line == {
        "ingest": "http://127.0.0.1:9700",
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


def with_fakes(made: Plan) -> Plan:
    settings = {"GREGOR_FCM_URL": "http://127.0.0.1:1", "GREGOR_FCM_CREDENTIALS_FILE": "/tmp/fcm.json"}
    return replace(made, fakes=FakeProviders(settings, {"endpoint": "https://localhost:2/p"}, Path("/tmp/a.jsonl")))


def test_with_fake_providers_every_process_is_led_to_them_and_to_no_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREGOR_APNS_KEY_FILE", "/real.p8")

    for service in with_fakes(plan()).services(REDIS):
        assert service.environ["GREGOR_FCM_URL"] == "http://127.0.0.1:1"
        assert "GREGOR_APNS_KEY_FILE" not in service.environ
    assert {service.environ["GREGOR_APNS_KEY_FILE"] for service in plan().services(REDIS)} == {"/real.p8"}


def test_with_fake_providers_the_line_says_where_arrivals_are_kept_and_the_words_how_to_see_one() -> None:
    made = with_fakes(plan())

    line = json.loads(ready_line(made, REDIS, "gk_a_b"))
    assert line["fakes"] == {"arrivals": "/tmp/a.jsonl", "subscription": {"endpoint": "https://localhost:2/p"}}
    assert "/v1/users/alice/devices/phone" in ready_words(made, REDIS, "gk_a_b")
    assert "/v1/users/alice/devices/phone" not in ready_words(plan(), REDIS, "gk_a_b")


def test_the_words_for_people_hold_the_key_and_commands_to_paste() -> None:
    words = ready_words(plan(), REDIS, "gk_a_b")

    assert "Authorization: Bearer gk_a_b" in words
    assert "watch alice --device phone" in words
    assert "curl -s http://127.0.0.1:9700/v1/users/alice/messages" in words


@pytest.mark.parametrize(
    ("called", "found", "typed"),
    [
        ("/usr/bin/gregor", "/usr/bin/gregor", "gregor"),
        (".venv/bin/gregor", None, ".venv/bin/gregor"),
        ("/home/a/.venv/bin/gregor", "/usr/bin/gregor", ".venv/bin/gregor"),
        ("/opt/my tools/gregor", None, "'/opt/my tools/gregor'"),
    ],
)
def test_the_command_is_shown_as_one_would_type_it(called: str, found: str | None, typed: str) -> None:
    assert command_as_typed(called, found, Path("/home/a")) == typed


def test_secrets_are_kept_for_this_user_alone_and_found_again(tmp_path: Path) -> None:
    made = Secrets()
    made.key = "gk_a_b"
    made.save(tmp_path)

    assert Secrets.load(tmp_path) == made
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600
    assert Secrets.load(None).token_secret != Secrets.load(None).token_secret


def test_kept_secrets_that_cannot_be_read_are_told_of(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text("{")

    with pytest.raises(Failure, match="cannot be read"):
        Secrets.load(tmp_path)


def test_a_data_directory_serves_one_gregor_at_a_time(tmp_path: Path) -> None:
    with held(tmp_path / "data"), pytest.raises(Failure, match="in use by another"), held(tmp_path / "data"):
        pass
    with held(tmp_path / "data"):
        pass


def test_a_data_directory_that_cannot_be_made_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(Failure, match="cannot be used"), held(tmp_path / "file" / "data"):
        pass
