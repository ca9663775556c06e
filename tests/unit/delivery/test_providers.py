"""Channels created from the settings; mail requires unsubscribe links."""

from __future__ import annotations

from typing import Any

import pytest

from gregor.auth.unsubscribe_links import link_keys, mail_links, unsubscribe_links
from gregor.clock import ManualClock
from gregor.config.settings import load_settings
from gregor.core.notify.unsubscribe_token import derive_key, parse_token
from gregor_delivery.channels.console import ConsoleChannel
from gregor_delivery.channels.registry import channels, mail_host
from gregor_delivery.channels.smtp.channel import EmailChannel

MAIL = {
    "GREGOR_SMTP_URL": "smtp://user:hunter2@relay.example?tls=implicit",
    "GREGOR_MAIL_FROM": "Gregor <no-reply@gregor.example>",
    "GREGOR_PUBLIC_URL": "https://gregor.example/api/",
    "GREGOR_TOKEN_SECRET": "of tokens",
}


def email(environ: dict[str, str]) -> Any:
    return channels(load_settings(environ), ManualClock(0))["email"]


async def test_channel_console_or_none() -> None:
    assert isinstance(email(MAIL), EmailChannel)
    assert email({}) is None
    assert isinstance(email({"GREGOR_DELIVERY_CONSOLE": "true"}), ConsoleChannel)
    await email(MAIL).open()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"GREGOR_SMTP_URL": "http://:hunter2@relay.example"}, "GREGOR_SMTP_URL: "),
        ({"GREGOR_MAIL_FROM": ""}, "GREGOR_MAIL_FROM: "),
        ({"GREGOR_MAIL_FROM": "nobody"}, "GREGOR_MAIL_FROM: "),
    ],
)
async def test_bad_setting_is_named_without_password(changes: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError) as caught:
        await email({**MAIL, **changes}).open()

    assert str(caught.value).startswith(said)
    assert "hunter2" not in str(caught.value) + repr(load_settings(MAIL))


@pytest.mark.parametrize(
    ("missing", "said"), [("GREGOR_PUBLIC_URL", "GREGOR_PUBLIC_URL: "), ("GREGOR_TOKEN_SECRET", "GREGOR_LINK_SECRET: ")]
)
def test_mail_requires_unsubscribe_links(missing: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        mail_links(load_settings({**MAIL, missing: ""}))

    assert str(caught.value).startswith(said)
    assert mail_links(load_settings({})) is None, "without a relay nothing is missing"


def test_unsubscribe_links_use_the_public_url() -> None:
    links = unsubscribe_links(load_settings(MAIL))
    assert links is not None
    url = links.link("alice", ["news"])

    assert url.startswith("https://gregor.example/api/v1/unsubscribe/")
    assert parse_token(link_keys(load_settings(MAIL)), url.rpartition("/")[2]) == ("alice", ("news",))


def test_links_of_older_secrets_stay_valid() -> None:
    keys = link_keys(load_settings({**MAIL, "GREGOR_LINK_SECRET": "new, old"}))

    assert keys == tuple(map(derive_key, ("new", "old", "of tokens")))
    links = unsubscribe_links(load_settings({**MAIL, "GREGOR_LINK_SECRET": "new,old"}))
    assert links is not None and links.key == derive_key("new")


def test_message_id_has_the_domain_of_the_sender() -> None:
    assert mail_host(load_settings(MAIL)) == "gregor.example"
    assert mail_host(load_settings({})) == "localhost"
