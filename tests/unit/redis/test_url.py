"""Redis URLs: what they mean, and that credentials are never shown."""

import pytest

from gregor.redis.url import RedisUrl


@pytest.mark.parametrize(
    ("url", "hosts", "db", "shown"),
    [
        ("redis://cache", (("cache", 6379),), 0, "cache:6379"),
        ("redis://", (("localhost", 6379),), 0, "localhost:6379"),
        ("redis://10.0.0.1:7000/12", (("10.0.0.1", 7000),), 12, "10.0.0.1:7000"),
        ("redis://cache:1?db=3", (("cache", 1),), 3, "cache:1"),
        ("redis://[::1]:7000/1", (("::1", 7000),), 1, "[::1]:7000"),
        ("redis://[::1]", (("::1", 6379),), 0, "[::1]:6379"),
        ("rediss://cache", (("cache", 6379),), 0, "cache:6379"),
    ],
)
def test_url_with_server_and_database(url: str, hosts: object, db: int, shown: str) -> None:
    address = RedisUrl.parse(url)

    assert (address.hosts, address.db, str(address), address.service) == (hosts, db, shown, None)
    assert (address.tls is not None) == url.startswith("rediss:")


@pytest.mark.parametrize(
    ("url", "path", "password"),
    [("unix:///run/redis.sock?db=2", "/run/redis.sock", None), ("unix://u:p%2F@/a%20b?db=2", "/a b", "p/")],
)
def test_url_with_unix_socket(url: str, path: str, password: str | None) -> None:
    address = RedisUrl.parse(url)

    assert (address.path, str(address), address.db, address.password) == (path, path, 2, password)


def test_url_with_sentinels() -> None:
    address = RedisUrl.parse("redis+sentinel://:secret@one,two:5000/gregor/4")

    assert address.hosts == (("one", 26379), ("two", 5000))
    assert (address.service, address.db, address.password) == ("gregor", 4, "secret")
    assert str(address) == "gregor of sentinels one:26379,two:5000"


@pytest.mark.parametrize("scheme", ["redis+cluster", "rediss+cluster"])
def test_url_with_nodes_of_a_cluster(scheme: str) -> None:
    address = RedisUrl.parse(f"{scheme}://me:secret@one,two:7000")

    assert address.hosts == (("one", 6379), ("two", 7000))
    assert (address.is_cluster, address.service, address.db) == (True, None, 0)
    assert (address.tls is not None) == scheme.startswith("rediss")
    assert str(address) == "cluster of one:6379,two:7000"
    node = address.server("10.0.0.1", 7001)
    assert (str(node), node.is_cluster, node.username, node.password) == ("10.0.0.1:7001", False, "me", "secret")
    assert node.tls is address.tls
    assert "secret" not in repr(address) + str(address)


def test_sentinels_have_their_own_credentials() -> None:
    address = RedisUrl.parse(
        "rediss+sentinel://app:data@one,two/gregor/0?sentinel_username=w&sentinel_password=s%2Bcret&ssl_cert_reqs=none"
    )

    one, _ = address.sentinels()
    assert (one.username, one.password, one.service) == ("w", "s+cret", None)
    server = address.server("10.0.0.1", 6379)
    assert (server.hosts, server.username, server.password) == ((("10.0.0.1", 6379),), "app", "data")
    assert one.tls is server.tls is address.tls is not None
    assert "cret" not in repr(address) + str(address) + repr(one) + repr(server)


def test_sentinels_get_no_password_of_the_servers() -> None:
    [sentinel] = RedisUrl.parse("redis+sentinel://app:data@one/gregor").sentinels()

    assert (sentinel.username, sentinel.password) == (None, None)


def test_credentials_are_parsed_and_never_shown() -> None:
    address = RedisUrl.parse("redis://me:p%40ss@cache:1/0")

    assert (address.username, address.password) == ("me", "p@ss")
    assert "p@ss" not in repr(address) + str(address)
    assert "me" not in repr(address) + str(address)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://u:hush@cache", "must begin with"),
        ("cache:6379", "must begin with"),
        ("redis+cluster://u:hush@one,two/3", "a Redis Cluster has only database 0: remove database 3"),
        ("redis+cluster://u:hush@one?db=1", "a Redis Cluster has only database 0: remove database 1"),
        ("redis+cluster://u:hush@one?ssl_cert_reqs=none", "unknown option: ssl_cert_reqs"),
        ("redis://u:hush@cache:port", "no valid port"),
        ("redis://u:hush@cache:99999", "no valid port"),
        ("redis://u:hush@cache:1/db", "no valid database"),
        ("redis://u:hush@cache:1/1/2", "no valid database"),
        ("redis://u:hush@cache:1?ssl_ca_certs=x", "unknown option: ssl_ca_certs"),
        ("redis://u:hush@one,two", "several servers"),
        ("redis+sentinel://u:hush@one,two", "lacks a service name"),
        ("rediss+sentinel://u:hush@one,two", "lacks a service name: rediss"),
        ("redis+sentinel://u:hush@one/s?sentinel_username=u", "sentinel_username without a sentinel_password"),
        ("redis+sentinel://one/s?ssl_ca_certs=x&sentinel_password=hush", "unknown option: ssl_ca_certs"),
        ("redis://one/0?sentinel_password=hush", "unknown option: sentinel_password"),
        ("redis://u:hush@h\u2100:1/0", "malformed"),
        ("rediss://u:hush@h/0?ssl_ca_certs=/missing", "ssl_ca_certs.* cannot be read"),
    ],
)
def test_invalid_url_is_reported_without_credentials(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as raised:
        RedisUrl.parse(url)

    assert "hush" not in str(raised.value)
