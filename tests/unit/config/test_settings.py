"""Settings: names, defaults, formats, and error messages."""

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from gregor.config.secret_files import SECRET_FIELDS
from gregor.config.settings import (
    SETTINGS_OF_THE_CONTRACT,
    VARIABLES,
    Settings,
    SettingsError,
    load_settings,
    mask_password,
    mask_url,
    parse_duration,
    reread_secret,
    setting_rows,
)
from gregor.core.limits import Limits

DOCS = Path(__file__).parents[3] / "docs" / "reference" / "settings.md"


def error_of(environ: dict[str, str], toml: Path | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ, toml)
    return str(caught.value)


def test_defaults_equal_the_limits_of_the_core() -> None:
    assert load_settings({}).limits == Limits()


def test_every_limit_but_nesting_has_a_setting() -> None:
    halved = {
        variable: f"{int(default) // 2 or 2}" if default.isdigit() else "3d"
        for variable, default, _ in setting_rows()
        if re.match(r"GREGOR_(MAX|HISTORY|EXTERNAL|DEVICE|USER|RESYNC|RETENTION)", variable)
    }

    limits = load_settings(halved).limits

    untouched = [name for name in Limits.__slots__ if getattr(limits, name) == getattr(Limits(), name)]
    assert untouched == ["nesting"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30d", 2_592_000), ("12h", 43_200), ("90s", 90), ("90", 90), ("1.5h", 5_400), ("-20", -20), ("2w", 1_209_600)],
)
def test_a_duration_has_a_unit_or_is_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "3x", "1d12h", "1e3", "nan", "12 h", True, None])
def test_invalid_duration_is_rejected(text: object) -> None:
    with pytest.raises(ValueError, match="write 30d"):
        parse_duration(text)


@pytest.mark.parametrize("count", ["64", "1024", "4096", "16384"])
def test_partitions_are_one_of_four_numbers(count: str) -> None:
    assert load_settings({"GREGOR_PARTITIONS": count}).partitions == int(count)


@pytest.mark.parametrize("count", ["0", "128", "1024.0", "many", "-64"])
def test_other_partition_counts_are_refused(count: str) -> None:
    expected = f"GREGOR_PARTITIONS: '{count}' is refused: write 1024, 4096 or 16384 (or 64 for tests)"

    assert error_of({"GREGOR_PARTITIONS": count}) == expected


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("REMINDERS", 31),
        *((name, 65_535) for name in ("CREATIONS", "IDS", "INTERVALS", "SKIP", "LIVE", "SPANS", "SPANS_PER_PREFIX")),
        *((name, 16_777_215) for name in ("BODY_BYTES", "LIVE_BYTES")),
    ],
)
def test_limits_above_the_stored_form_are_refused(name: str, most: int) -> None:
    """An item with 32 reminders made the sync object of its user invalid JSON."""
    assert load_settings({f"GREGOR_MAX_{name}": str(most)})
    assert f"write {most} or less" in error_of({f"GREGOR_MAX_{name}": str(most + 1)})


def test_durations_become_microseconds_in_limits() -> None:
    assert load_settings({"GREGOR_RETENTION": "12h"}).limits.retention_us == 43_200_000_000


def test_lists_are_comma_separated() -> None:
    settings = load_settings({"GREGOR_ORIGINS": "https://a.example, http://localhost:*"})

    assert settings.origins == ("https://a.example", "http://localhost:*")


def test_rates_of_channels(tmp_path: Path) -> None:
    file = tmp_path / "gregor.toml"
    file.write_text("[delivery_rates]\nemail = 0.5\n")

    assert load_settings({}).delivery_rates == {}
    assert load_settings({"GREGOR_DELIVERY_RATES": "apns=500, email=0.5"}).delivery_rates == {"apns": 500, "email": 0.5}
    assert load_settings({}, file).delivery_rates == {"email": 0.5}


def test_empty_variable_counts_as_unset() -> None:
    assert load_settings({"GREGOR_REDIS_URL": "", "GREGOR_RETENTION": ""}) == Settings()


def test_queue_url_defaults_to_redis_url() -> None:
    assert load_settings({"GREGOR_REDIS_URL": "redis://a:1/0"}).queue == "redis://a:1/0"
    assert load_settings({"GREGOR_QUEUE_URL": "redis://b:2/0"}).queue == "redis://b:2/0"


def test_other_variables_are_ignored() -> None:
    assert load_settings({"GREGOR_URL": "x", "GREGOR_KEY": "y", "PATH": "/bin"}) == Settings()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"GREGOR_INGEST_PRT": "1"}, "GREGOR_INGEST_PRT is not a setting; do you mean GREGOR_INGEST_PORT?"),
        ({"GREGOR_ZZZ": "1"}, "GREGOR_ZZZ is not a setting; docs/reference/settings.md lists them"),
        (
            {"GREGOR_RETENTION": "3x"},
            "GREGOR_RETENTION: '3x' is refused: not a duration; write 30d, 12h, 90s, or seconds",
        ),
        ({"GREGOR_ADMIN_PORT": "70000"}, "GREGOR_ADMIN_PORT: '70000' is refused: write 65535 or less"),
        ({"GREGOR_MAX_LIVE": "12h"}, "GREGOR_MAX_LIVE: '12h' is refused: write a whole number"),
        ({"GREGOR_MAX_LIVE": "0"}, "GREGOR_MAX_LIVE: '0' is refused: write 1 or more"),
        ({"GREGOR_DEVICE_RATE": "fast"}, "GREGOR_DEVICE_RATE: 'fast' is refused: write a number"),
        ({"GREGOR_DEVICE_RATE": "0"}, "GREGOR_DEVICE_RATE: '0' is refused: write more than 0"),
        ({"GREGOR_DELIVERY_CONSOLE": "maybe"}, "GREGOR_DELIVERY_CONSOLE: 'maybe' is refused: write true or false"),
        ({"GREGOR_PUBLIC_URL": "me"}, "GREGOR_PUBLIC_URL: '…' is refused: write https://gregor.example.com"),
        ({"GREGOR_FCM_URL": "me"}, "GREGOR_FCM_URL: '…' is refused: write https://fcm.example.com"),
        ({"GREGOR_APNS_URL": "me"}, "GREGOR_APNS_URL: '…' is refused: write https://apns.example.com"),
        ({"GREGOR_TRACE_URL": "me"}, "GREGOR_TRACE_URL: '…' is refused: write http://127.0.0.1:4318"),
        ({"GREGOR_INGEST_AUDIENCE": "x"}, "GREGOR_INGEST_AUDIENCE: 'x' is refused: write 'all' or 'devices'"),
        (
            {"GREGOR_WEBPUSH_HOSTS": "push.example,https://push.example"},
            "GREGOR_WEBPUSH_HOSTS: 'push.example,https://push.example' is refused: a host is push.example",
        ),
        ({"GREGOR_WEBPUSH_HOSTS": "*"}, "GREGOR_WEBPUSH_HOSTS: '*' is refused: a host is push.example"),
        ({"GREGOR_TOKEN_JWKS": "http://x"}, "keys are fetched over https only"),
        (
            {"GREGOR_REDIS_URL": "redis+cluster://a:1"},
            "GREGOR_QUEUE_URL is required if GREGOR_REDIS_URL is a cluster: name a single Redis (redis://…)",
        ),
        (
            {"GREGOR_REDIS_URL": "rediss+cluster://a/1", "GREGOR_QUEUE_URL": "redis://q"},
            "GREGOR_REDIS_URL: 'rediss+cluster://a/1' is refused: a Redis Cluster has only database 0: remove database",
        ),
        (
            {"GREGOR_QUEUE_URL": "redis+cluster://:hunter2@a:1"},
            "GREGOR_QUEUE_URL: 'redis+cluster://:…@a:1' is refused: queues and streams cannot be in a cluster",
        ),
        (
            {"GREGOR_REDIS_URL": "http://a"},
            "GREGOR_REDIS_URL: 'http://a' is refused: not a Redis URL; write redis://host",
        ),
        (
            {"GREGOR_REDIS_URL": "redis://:hunter2@a/0?foo=1"},
            "GREGOR_REDIS_URL: 'redis://:…@a/0' is refused: the Redis URL has an unknown option: foo",
        ),
        (
            {"GREGOR_QUEUE_URL": "rediss://a?ssl_ca_certs=/nope"},
            "GREGOR_QUEUE_URL: 'rediss://a' is refused: a file of the Redis URL (ssl_ca_certs) cannot be read: "
            "No such file or directory",
        ),
        (
            {"GREGOR_DELIVERY_RATES": "apns=fast"},
            "'apns=fast' is refused: the rate of apns is a number above 0, as in apns=10",
        ),
        (
            {"GREGOR_DELIVERY_RATES": "apns=0"},
            "'apns=0' is refused: the rate of apns is a number above 0, as in apns=10",
        ),
        ({"GREGOR_DELIVERY_RATES": "pigeon=1"}, "channels are apns, fcm, webpush, email, webhook"),
        ({"GREGOR_ADMIN_HOST": "10.0.0.7"}, "GREGOR_ADMIN_HOST needs GREGOR_ADMIN_PORT: without it, the public ports"),
        ({"GREGOR_STREAM_PORT": "8701"}, "GREGOR_GATEWAY_PORT and GREGOR_STREAM_PORT are both 8701: choose two ports"),
        ({"GREGOR_ORIGINS": "https://a.example, app.example"}, "an origin is https://app.example, with a port or :*"),
        (
            {"GREGOR_ORIGINS": "https://a.example/path"},
            "GREGOR_ORIGINS: 'https://a.example/path' is refused: an origin",
        ),
        ({"GREGOR_CONFIG": "/nowhere.toml"}, "GREGOR_CONFIG: /nowhere.toml cannot be read: No such file or directory"),
    ],
)
def test_error_names_setting_value_and_fix(environ: dict[str, str], expected: str) -> None:
    line = error_of(environ)

    assert expected in line
    assert "\n" not in line


@pytest.mark.parametrize("text", ["a = " + "[" * 10_000, "max_live = " + "9" * 6_000], ids=["deep", "long number"])
def test_file_that_toml_cannot_read_is_an_error(text: str, tmp_path: Path) -> None:
    file = tmp_path / "gregor.toml"
    file.write_text(text)

    assert f"GREGOR_CONFIG: {file} cannot be read" in error_of({"GREGOR_CONFIG": str(file)})


def test_cluster_needs_a_queue_outside_of_it() -> None:
    settings = load_settings({"GREGOR_REDIS_URL": "redis+cluster://a,b", "GREGOR_QUEUE_URL": "redis://queue"})

    assert (settings.redis_url, settings.queue) == ("redis+cluster://a,b", "redis://queue")


def test_all_errors_are_reported_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({"GREGOR_RETENTION": "x", "GREGOR_ADMIN_PORT": "x", "GREGOR_NONE": "x"})

    assert len(caught.value.problems) == 3


def test_secrets_appear_in_no_message() -> None:
    secret = "hunter2"
    environ = {"GREGOR_TOKEN_SECRET": secret, "GREGOR_REDIS_URL": f"redis://:{secret}@h/0"}

    shown = repr(load_settings(environ)) + error_of({"GREGOR_REDIS_URL": f"redis+cluster://:{secret}@h"})

    assert secret not in shown + mask_password(environ["GREGOR_REDIS_URL"])


def test_variable_overrides_toml_file(tmp_path: Path) -> None:
    file = tmp_path / "gregor.toml"
    file.write_text('retention = "12h"\nmax_live = 5\norigins = ["https://a.example"]\n')

    settings = load_settings({"GREGOR_MAX_LIVE": "7"}, file)

    assert (settings.retention_s, settings.max_live, settings.origins) == (43_200, 7, ("https://a.example",))
    assert load_settings({"GREGOR_CONFIG": str(file)}).max_live == 5


def test_unknown_toml_name_suggests_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "gregor.toml"
    file.write_text("max_lives = 5\n")

    assert error_of({}, file) == f"{file}: max_lives is not a setting; do you mean max_live?"


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://:p@ss@host:6379/0", "redis://:…@host:6379/0"),
        ("redis://:p/a?s@host/0", "redis://:…@host/0"),
        ("https://user:canary@idp.example/jwks?api_key=canary", "https://user:…@idp.example/jwks"),
        ("https://canary@idp.example/jwks", "https://…@idp.example/jwks"),
        ("user:canary@host", "…"),
        ("canary", "…"),
        ("redis:canary", "…"),
        ("redis:/canary", "…"),
        ("https://idp.example/jwks", "https://idp.example/jwks"),
    ],
)
def test_mask_hides_every_credential_of_a_url(url: str, masked: str) -> None:
    assert mask_password(url) == masked


@pytest.mark.parametrize(
    "name", ["REDIS_URL", "QUEUE_URL", "TOKEN_JWKS", "FCM_URL", "APNS_URL", "SMTP_URL", "PUBLIC_URL"]
)
def test_settings_error_shows_no_credentials(name: str) -> None:
    bare = () if name == "TOKEN_JWKS" else ("canary", "redis:canary")  # TOKEN_JWKS may be a path
    for value in (
        "ftp://user:can@ary@host/?api_key=canary",
        "user:canary@host",
        "http://canary@host",
        "https://user:canary/x@host",
        *bare,
    ):
        environ = {f"GREGOR_{name}": value, "GREGOR_INGEST_PORT": "x"}

        assert "canary" not in error_of(environ) and "ary@" not in error_of(environ)


@pytest.mark.parametrize(
    "url",
    [
        "https://",
        "https:///jwks",
        "https://[::1/jwks",
        "https://idp.example:x/jwks",
        "https://idp.example:0/jwks",
        "https://idp.example:99999/jwks",
        "https://idp.example:-1/jwks",
        "https://idp\0.example/jwks",
        "https://idp.example/jwks\n",
        "https://idp.example/" + "x" * 65_536,
    ],
)
def test_malformed_url_of_the_key_set_is_refused(url: str) -> None:
    error = error_of({"GREGOR_TOKEN_JWKS": url})

    assert "is refused: not a URL of a key server; write https://idp.example.com/jwks" in error
    assert "jwks" not in error.partition(" is refused")[0]


def test_key_set_instead_of_its_place_is_refused_and_hidden() -> None:
    error = error_of({"GREGOR_TOKEN_JWKS": '{"keys":[{"kty":"oct","k":"canary"}]}'})

    assert error.startswith("GREGOR_TOKEN_JWKS: '…' is refused: these are keys, not their place")
    assert "canary" not in error


def test_settings_error_hides_the_path_of_the_key_set() -> None:
    error = error_of({"GREGOR_TOKEN_JWKS": "http://user:canary@idp.example/canary/keys?canary"})

    assert error.startswith("GREGOR_TOKEN_JWKS: 'http://user:…@idp.example/…' is refused: keys are fetched over https")
    assert mask_url("public_url", "https://app.example/inbox") == "https://app.example/inbox"


SECRET_NAMES = [field.upper() for field in SECRET_FIELDS]


def secret_value(name: str) -> str:
    return {"TOKEN_JWKS": "https://user:canary@idp/keys"}.get(name, "redis://:canary@host:6379/1")


def plain(value: object) -> object:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_each_secret_can_be_in_a_file(name: str, tmp_path: Path) -> None:
    path, value = tmp_path / "secret", secret_value(name)
    path.write_text(f"{value}\n")

    assert plain(getattr(load_settings({f"GREGOR_{name}_FILE": str(path)}), name.lower())) == value
    both = error_of({f"GREGOR_{name}_FILE": str(path), f"GREGOR_{name}": value})
    assert both == f"GREGOR_{name} and GREGOR_{name}_FILE are both set; remove one of them"


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_unusable_secret_file_is_named_without_its_content(name: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    environ = {f"GREGOR_{name}_FILE": str(path)}

    assert error_of(environ).startswith(f"GREGOR_{name}_FILE: {path} cannot be read: No such file")
    for content in (b"", b" \n\n", b"canary\xff", b"canary" * 20_000):
        path.write_bytes(content)
        assert error_of(environ).startswith(f"GREGOR_{name}_FILE: {path} is ")
        assert "canary" not in error_of(environ)


@pytest.mark.parametrize("name", SECRET_NAMES)
@pytest.mark.parametrize(
    ("content", "character"),
    [
        (b"\xef\xbb\xbf%b\n", "a byte order mark (BOM)"),
        (b"%b \n", "a space"),
        (b" %b", "a space"),
        (b"%b\t\n", "a tab"),
        (b"%b\r", "U+000D"),
        (b"\xc2\xa0%b", "U+00A0"),
    ],
)
def test_invisible_character_around_a_secret_is_named(
    name: str, content: bytes, character: str, tmp_path: Path
) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content % secret_value(name).encode())

    shown = error_of({f"GREGOR_{name}_FILE": str(path)})

    assert shown.startswith(f"GREGOR_{name}_FILE: {path} has {character} before or after a secret; ")
    assert "canary" not in shown


def test_invisible_character_in_a_later_secret_is_named(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("first secret\n\ufeffsecond secret\n")

    assert "byte order mark" in error_of({"GREGOR_TOKEN_SECRET_FILE": str(path)})


@pytest.mark.parametrize("name", ["REDIS_URL", "QUEUE_URL", "TOKEN_JWKS"])
def test_invalid_value_of_a_file_is_not_shown(name: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    for content in ("http://user:canary@host", '{"keys": ["canary"]}', "redis://a:canary@b\nredis://c:canary@d"):
        path.write_text(content)
        shown = error_of({f"GREGOR_{name}_FILE": str(path)})
        assert shown.startswith(f"GREGOR_{name}_FILE: {path}") and "canary" not in shown


def test_secrets_of_a_rotation_are_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("new, with a comma\r\n \nold\n")

    settings = load_settings({"GREGOR_TOKEN_SECRET_FILE": str(path), "GREGOR_LINK_SECRET_FILE": str(path)})

    assert settings.token_secrets == ("new, with a comma", "old")
    assert settings.link_secrets == ("new", "with a comma", "old")


def test_variable_overrides_both_forms_of_a_secret_in_toml(tmp_path: Path) -> None:
    file, secret = tmp_path / "gregor.toml", tmp_path / "secret"
    secret.write_text("of the file")
    file.write_text(f'token_secret_file = "{secret}"\nlink_secret = "of toml"\n')
    environ = {"GREGOR_CONFIG": str(file)}

    assert load_settings(environ).token_secrets == ("of the file",)
    overridden = environ | {"GREGOR_TOKEN_SECRET": "of the variable", "GREGOR_LINK_SECRET_FILE": str(secret)}
    assert load_settings(overridden).token_secrets == ("of the variable",)
    assert load_settings(overridden).link_secrets == ("of the file",)
    file.write_text(f'token_secret_file = "{secret}"\ntoken_secret = "of toml"\n')
    assert "are both set" in error_of(environ)


def test_secret_is_read_again_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("redis://:before@host/0")
    settings = load_settings({"GREGOR_REDIS_URL_FILE": str(path), "GREGOR_RETENTION": "1d"})

    path.write_text("redis://:after@host/0")
    again = reread_secret(settings, "redis_url")
    assert (again.redis_url, again.retention_s) == ("redis://:after@host/0", 86_400)
    path.write_text("http://:canary@host")
    with pytest.raises(SettingsError, match="GREGOR_REDIS_URL_FILE") as refused:
        reread_secret(settings, "redis_url")
    assert "canary" not in str(refused.value)


def test_published_settings_exist() -> None:
    assert not set(SETTINGS_OF_THE_CONTRACT) - set(VARIABLES)


def test_every_setting_is_documented() -> None:
    lines = DOCS.read_text("utf-8").splitlines()

    rows = [
        f"| `{variable}` | {f'`{default}`' if default else ''} | {sentence} |"
        for variable, default, sentence in setting_rows()
    ]

    assert [row for row in rows if row not in lines] == []
    assert [line for line in lines if line.startswith("| `GREGOR_") and line not in rows] == []


def test_web_push_host_formats() -> None:
    hosts = ("push.example", "*.push.example", "localhost:8443", "127.0.0.1:8443", "::1:8443")

    assert load_settings({"GREGOR_WEBPUSH_HOSTS": ", ".join(hosts)}).webpush_hosts == hosts
