"""Passwords and TLS files of a Redis URL may change while a process runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from gregor.dev.fakes.tls import CertificateAuthority
from gregor.redis.address import AddressSource
from gregor.redis.client import RedisClient
from gregor.redis.connect import connect
from gregor.redis.connection import NullListener
from gregor.redis.errors import RedisUnavailable
from gregor.redis.pubsub import RedisPubSub
from gregor.redis.url import RedisUrl
from tests.support.servers import BINARIES, Relay, open_client, running_server
from tests.support.wait import wait_until


def new_authority(directory: Path) -> CertificateAuthority:
    directory.mkdir()
    return CertificateAuthority(directory)


def test_address_is_parsed_again_only_after_a_change(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    old, new = (new_authority(tmp_path / name).ca_file.read_bytes() for name in ("old", "new"))
    authority.write_bytes(old)
    source = AddressSource(f"rediss://host?ssl_ca_certs={authority}")
    first = source.current()

    assert source.current().tls is first.tls
    authority.write_bytes(new)
    second = source.current()
    assert second.tls is not first.tls
    authority.write_text("not a certificate")
    assert source.current() is second, "an unusable file changes nothing"


def test_unusable_url_keeps_the_address_before(caplog: pytest.LogCaptureFixture) -> None:
    url = "redis://:canary1@host/0"
    source = AddressSource(lambda: url)

    url = "redis://:canary2@host:none/0"
    assert source.current().password == "canary1"
    url = "redis://:canary3@host/0"
    assert source.current().password == "canary3"
    assert "redis.address_refused" in caplog.text and "canary" not in caplog.text


@pytest.mark.redis
@pytest.mark.parametrize("binary", BINARIES)
async def test_reconnection_uses_the_current_password(binary: str, tmp_path: Path) -> None:
    with running_server(binary, tmp_path, "--user", "gregor", "on", ">one", "~*", "&*", "+@all") as server:

        def url() -> str:
            return f"redis://gregor:{password}@127.0.0.1:{server.port}/0"

        password = "one"
        async with open_client(url, max_wait_s=10) as client:
            pubsub = RedisPubSub(url, client, probe_s=60)
            await pubsub.open()
            server.say("ACL", "SETUSER", "gregor", ">two", "<one")
            password = "two"
            server.say("CLIENT", "KILL", "TYPE", "normal")
            server.say("CLIENT", "KILL", "TYPE", "pubsub")

            await wait_until(lambda: client.reconnections and pubsub.reconnections, "both are connected again")
            assert await client.call("PING") == b"PONG"
            await pubsub.close()


@pytest.mark.redis
async def test_reconnection_trusts_the_current_authorities(tmp_path: Path) -> None:
    old, new, trusted = new_authority(tmp_path / "old"), new_authority(tmp_path / "new"), tmp_path / "trusted.pem"
    trusted.write_bytes(old.ca_file.read_bytes())
    with running_server(BINARIES[0], tmp_path) as server:
        async with Relay(server, tls=new.server_context()) as relay:
            client = RedisClient(f"rediss://127.0.0.1:{relay.port}/0?ssl_ca_certs={trusted}", max_wait_s=0.1)
            with pytest.raises(RedisUnavailable, match="certificate verify failed"):
                await client.open()
            trusted.write_bytes(new.ca_file.read_bytes())
            await client.open()
            assert await client.call("PING") == b"PONG"
            await client.close()


@pytest.mark.parametrize("address", [("127.0.0.1", 70_000), ("127.0.0.1", -1), ("a" * 64, 1), ("a\0b", 1)])
async def test_impossible_address_is_unavailable(address: tuple[str, int]) -> None:
    """A Sentinel or a cluster may name such an address. Any other error would end the loop that reconnects."""
    named = dataclasses.replace(RedisUrl.parse("redis://127.0.0.1:1"), hosts=(address,))

    with pytest.raises(RedisUnavailable, match="the address is invalid"):
        await connect(named, "test", NullListener(), 1.0)
