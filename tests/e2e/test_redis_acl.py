"""All services run with the Redis user of docs/security.md, on Redis and Valkey."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from gregor.dev.embedded_redis import HOST
from tests.support.cluster import ROOT, Cluster
from tests.support.servers import BINARIES, exchange
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice

pytestmark = pytest.mark.e2e


def documented_rules() -> list[str]:
    page = (ROOT / "docs" / "security.md").read_text("utf-8")
    found = re.search(r"^ACL SETUSER gregor on >PASSWORD (.+)$", page, re.MULTILINE)
    assert found is not None
    return found[1].split()


class LimitedCluster(Cluster):
    """A cluster whose services log in as the user `gregor` with the documented rules."""

    def _environ(self, **more: str) -> dict[str, str]:
        url = f"redis://gregor:secret@{HOST}:{self.server.port}/0"
        return super()._environ(**{"GREGOR_REDIS_URL": url, **more})


@pytest.mark.parametrize("binary", BINARIES)
async def test_documented_redis_rules_are_enough(binary: str, tmp_path: Path) -> None:
    """Creation, live frames, expiry, a delivery, a flush and the deletion of a user need no other permission."""
    options = ["--user", "gregor", "on", ">secret", *documented_rules()]
    with LimitedCluster(
        tmp_path / "c", server=binary, server_options=options, gateways=1, ingests=1, schedulers=1, deliveries=1
    ) as cluster:
        async with (
            cluster.api() as api,
            WireDevice(cluster.gateway_urls[0], cluster.token("alice", "phone"), {}) as device,
        ):
            item: dict[str, Any] = {"category": "mail", "body": 1, "times": {"expires": cluster.now_s() + 1.5}}
            answer = await api.post(
                "/v1/users/alice/messages", json={"system": "gregor", "body": {"create": {"aa": item}}}
            )
            assert answer.status_code == 200
            await wait_until(lambda: "expired" in str(device.frames), "the item expires", 20)
            assert (await api.post("/v1/users/alice/flush", json={})).is_success
            assert (await api.delete("/v1/users/alice")).is_success
        cluster.gregor("doctor", "--redis", cluster._environ()["GREGOR_REDIS_URL"])
        assert cluster.server.say("ACL", "LOG") == "*0\r\n"
        for words in (("CONFIG", "GET", "*"), ("KEYS", "*"), ("FLUSHALL",), ("GET", "other:key"), ("SHUTDOWN",)):
            denied = exchange(cluster.server.port, "ACL", "DRYRUN", "gregor", *words)
            assert "no permissions" in denied
