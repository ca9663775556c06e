"""SSE, long poll and posted frames: the same frames and the same resume as over WebSocket."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support.cluster import Cluster
from tests.support.stream_device import StreamDevice


@pytest.fixture
def auth(cluster: Cluster, uid: str) -> dict[str, str]:
    """Return the header of the user's phone."""
    return {"Authorization": f"Bearer {cluster.token(uid, 'phone')}"}


@pytest.fixture
async def stream_api(cluster: Cluster, auth: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the first gateway's stream port, with the token of the user's phone."""
    async with httpx.AsyncClient(base_url=cluster.stream_urls[0], headers=auth, timeout=60, trust_env=False) as client:
        yield client


async def create(api: httpx.AsyncClient, uid: str, *ids: str, **members: Any) -> None:
    body = {"create": {id_: {"category": "mail", **members} for id_ in ids}}
    answer = await api.post(f"/v1/users/{uid}/messages", json={"system": "gregor", "body": body})
    assert answer.status_code == 200, answer.text


async def test_stream_carries_frames_and_positions(
    cluster: Cluster, api: httpx.AsyncClient, uid: str, auth: dict[str, str]
) -> None:
    await create(api, uid, "a")
    async with StreamDevice(cluster.stream_urls[0], headers=auth) as stream:
        await stream.until('"sync"')
        await create(api, uid, "b")
        await stream.until('"b"')

        assert stream.answer_headers["Content-Type"].startswith("text/event-stream")
        assert stream.answer_headers["Cache-Control"] == "no-store"
        assert stream.answer_headers["X-Accel-Buffering"] == "no"
        assert stream.retry_ms is not None
        assert 1_000 <= stream.retry_ms <= 5_000
        assert "welcome" in stream.events[0][1]
        assert stream.events[0][0] is None
        assert [event_id for event_id, frame in stream.events if "seq" in frame] == [
            stream.events[1][1]["cursor"],
            stream.mirror.cursor,
        ]
        assert sorted(stream.mirror.items) == ["a", "b"]


async def test_stream_resumes_on_another_gateway(
    cluster: Cluster, api: httpx.AsyncClient, uid: str, auth: dict[str, str]
) -> None:
    await create(api, uid, "a", body="x" * 500)
    async with StreamDevice(cluster.stream_urls[0], headers=auth) as stream:
        await stream.until('"sync"')
        cursor, digest = str(stream.events[-1][0]), stream.mirror.digest
    await create(api, uid, "b")

    async with StreamDevice(cluster.stream_urls[1], headers=auth | {"Last-Event-ID": cursor}) as by_header:
        delta = await by_header.until('"sync"')
    async with StreamDevice(cluster.stream_urls[1], {"cursor": cursor, "digest": digest}, auth) as by_query:
        again = await by_query.until('"sync"')

    assert delta["sync"] == "delta"
    assert list(delta["body"]["create"]) == ["b"]
    assert again == delta


async def test_replaced_stream_is_refused_by_every_gateway(cluster: Cluster, uid: str, auth: dict[str, str]) -> None:
    query = {"session": "tab"}
    async with StreamDevice(cluster.stream_urls[0], query, auth) as old:
        await old.until('"sync"')
        async with StreamDevice(cluster.stream_urls[1], query, auth) as newer:
            await old.until("4504")
            for url in cluster.stream_urls:
                async with StreamDevice(url, query, auth) as again:
                    assert again.status == 204
            assert not newer.is_ended


async def test_poll_with_current_cursor_waits(
    cluster: Cluster, api: httpx.AsyncClient, stream_api: httpx.AsyncClient, uid: str
) -> None:
    await create(api, uid, "a")
    first = (await stream_api.get("/v1/poll", params={"wait": 30})).json()
    assert first["frames"][0]["sync"] == "full"
    assert first["uncounted"] == []

    nothing = (await stream_api.get("/v1/poll", params={"cursor": first["cursor"], "wait": 0})).json()
    assert nothing["frames"] == []

    await create(api, uid, "b")
    found = (await stream_api.get("/v1/poll", params={"cursor": first["cursor"], "wait": 30})).json()

    assert list(found["frames"][0]["body"]["create"]) == ["b"]
    assert found["cursor"].endswith("-2")


async def test_poll_takes_no_longer_than_its_wait(
    stream_api: httpx.AsyncClient, api: httpx.AsyncClient, uid: str
) -> None:
    await create(api, uid, "a")
    cursor = (await stream_api.get("/v1/poll")).json()["cursor"]

    answer = await stream_api.get("/v1/poll", params={"cursor": cursor, "wait": 1})

    assert answer.json()["frames"] == []
    assert 0.9 <= answer.elapsed.total_seconds() < 5


async def test_posted_message_appears_on_the_stream(cluster: Cluster, uid: str, auth: dict[str, str]) -> None:
    async with StreamDevice(cluster.stream_urls[0], {"session": "tab-1"}, auth) as stream:
        await stream.until('"sync"')
        frames = [
            {"ref": 1, "system": "gregor", "body": {"create": {"mine": {"category": "mail"}}}},
            {"ref": 2, "system": "gregor", "body": {}},
            {"ack": 1},
            {"foreground": True},
        ]
        async with httpx.AsyncClient(headers=auth, trust_env=False) as client:
            for url in cluster.stream_urls:  # the first gateway has the session; the second one forwards the frame
                answer = await client.post(f"{url}/v1/frames", params={"session": "tab-1"}, json=frames)
                assert answer.status_code == 200, answer.text
                answers = {entry["ref"]: entry for entry in answer.json()}
                assert answers[1]["receipt"]["seq"] == 1
                assert answers[2]["problem"]["code"] == "invalid"
            unknown = await client.post(
                f"{cluster.stream_urls[0]}/v1/frames", params={"session": "none"}, json={"ack": 1}
            )
        await stream.until('"mine"')

        assert unknown.status_code == 404
        assert list(stream.mirror.items) == ["mine"]
        assert sum("create" in frame.get("body", {}) for frame in stream.frames) == 1


async def test_ticket_opens_one_stream(
    cluster: Cluster, api: httpx.AsyncClient, uid: str, auth: dict[str, str]
) -> None:
    await create(api, uid, "a")
    async with cluster.api(auth["Authorization"].removeprefix("Bearer ")) as device_api:
        made = await device_api.post("/v1/tickets", json={})
    assert made.status_code == 201
    ticket = made.json()["ticket"]

    async with StreamDevice(cluster.stream_urls[0], {"ticket": ticket}) as stream:
        await stream.until('"sync"')
        following = stream.frames[0]["welcome"]["ticket"]
        cursor = stream.mirror.cursor
    async with StreamDevice(cluster.stream_urls[0], {"ticket": ticket}) as spent:
        assert spent.status in (200, 204, 401)
        if spent.status == 200:
            await spent.until('"close"')
        assert spent.mirror.cursor is None
    async with StreamDevice(cluster.stream_urls[1], {"ticket": following, "cursor": cursor}) as stream:
        assert (await stream.until('"sync"'))["sync"] == "unchanged"


async def test_observer_sees_all_items_without_presence(cluster: Cluster, api: httpx.AsyncClient, uid: str) -> None:
    await create(api, uid, "for-phone", for_device="phone")
    ticket = (await api.post("/v1/tickets", json={"uid": uid, "observe": True})).json()["ticket"]

    async with StreamDevice(cluster.stream_urls[0], {"ticket": ticket}) as stream:
        await stream.until('"sync"')
        presence = (await api.post("/v1/presence", json={"uids": [uid]})).json()

        assert list(stream.mirror.items) == ["for-phone"]
        assert presence[uid]["online"] is False


async def test_token_in_the_query_is_refused(cluster: Cluster, uid: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{cluster.stream_urls[0]}/v1/poll", params={"token": cluster.token(uid, "phone")})

    assert answer.status_code in (401, 422)


async def test_cookie_opens_streams_only(cluster: Cluster, api: httpx.AsyncClient, uid: str) -> None:
    cookie = {"Cookie": f"gregor_token={cluster.token(uid, 'phone')}", "Sec-Fetch-Site": "same-origin"}
    async with httpx.AsyncClient(headers=cookie, trust_env=False) as client:
        poll = await client.get(f"{cluster.stream_urls[0]}/v1/poll")
        frames = await client.post(f"{cluster.stream_urls[0]}/v1/frames?session=x", json={"ack": 1})
        state = await client.get(f"{cluster.ingest_urls[0]}/v1/users/{uid}/state")

    assert poll.status_code == 200
    assert (frames.status_code, state.status_code) == (401, 401)


async def test_presence_is_the_or_over_connections(cluster: Cluster, api: httpx.AsyncClient, uid: str) -> None:
    async def presence() -> dict[str, Any]:
        answer: dict[str, Any] = (await api.post("/v1/presence", json={"uids": [uid]})).json()[uid]
        return answer

    auth = {"Authorization": f"Bearer {cluster.token(uid, 'phone')}"}
    assert (await presence())["online"] is False
    async with StreamDevice(cluster.stream_urls[0], {"session": "one"}, auth) as one:
        await one.until('"sync"')
        assert (await presence()) | {"last_seen": 0} == {"online": True, "foreground": False, "last_seen": 0}
        async with StreamDevice(cluster.stream_urls[1], {"session": "two", "foreground": "true"}, auth) as two:
            await two.until('"sync"')
            assert (await presence())["foreground"] is True
