"""What a backend uses: messages to users, reads of their state, over HTTP (protocol.md, "Ingest API").

    async with Producer("http://127.0.0.1:8700", key) as producer:
        await producer.create("alice", "user.joined", {"keybase": "kbob"}, expires="+86400")
        print(await producer.state("alice"))

Every message is written so that sending it again changes nothing (semantics.md L2); so a call that got no answer, or
one of the codes that ask for it, is tried again by itself.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from gregor.core.limits import Limits

from .messages import Message, creation, dismissal, gregor, needs_id, snoozed
from .outbox import is_retryable
from .problem import MessageRejected, Unreachable

LINES = Limits().batch
FANOUT = Limits().batch_fanout
CALL_BYTES = Limits().batch_bytes // 2
"""Half of what a server takes by default: fewer lines to say again when one call fails."""
FIRST_PAUSE_S = 0.2
MOST_PAUSE_S = 10.0

Line = dict[str, Any]
"""One line of `send_many`: `{"uid" | "uids", "system", "body"}`, perhaps `"id"` and `"device"`."""


class Producer:
    """One backend. An async context manager; safe to share between tasks."""

    def __init__(self, url: str, key: str, *, tries: int = 8, timeout_s: float = 30.0) -> None:
        """`url`: of ingest. `key`: a service key. A call is tried up to `tries` times, half a minute in all."""
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"), headers={"Authorization": f"Bearer {key}"}, timeout=timeout_s
        )
        self._tries = tries

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    # Messages.

    async def send(self, uid: str, message: Message) -> dict[str, Any]:
        """Send one message to one user; its receipt. Raises `MessageRejected`, `Unreachable`."""
        return await self._json("POST", _user(uid, "messages"), content=_dump(_repeatable(message)))

    async def create(self, uid: str, category: str, body: Any = None, *, id_: str | None = None, **fields: Any) -> str:
        """Create an item (fields as in `messages.creation`); its id, random where not given."""
        chosen = id_ or secrets.token_hex(8)
        await self.send(uid, creation(chosen, category, body, **fields))
        return chosen

    async def dismiss(self, uid: str, *ids: str, **interval: Any) -> dict[str, Any]:
        """Dismiss ids, or all of a `category` or `category_prefix` (but `skip`), for all devices; the receipt."""
        return await self.send(uid, dismissal(ids, **interval))

    async def snooze(self, uid: str, id_: str, until: float) -> str:
        """Put an item off: it leaves now, and a copy comes at `until` (Unix seconds). The copy's id, to `cancel` it.

        The copy is accepted before the item is dismissed: whatever fails between loses nothing, and the same call again
        finishes it. `ValueError` where the item expires before; `MessageRejected` where there is no such live item.
        """
        found = await self.item(uid, id_)
        if found.get("gone") is not None:
            raise MessageRejected({"status": 404, "code": "not_found", "detail": f"{id_} is not live"})
        receipt = await self.send(uid, snoozed(id_, found["item"], until))
        await self.dismiss(uid, id_)
        return str(receipt["id"])

    async def cancel(self, uid: str, message_id: str) -> bool:
        """Take back a message that was sent with `not_before`; whether it still waited."""
        try:
            await self._call("DELETE", _user(uid, f"messages/{quote(message_id, safe='')}"))
        except MessageRejected as refusal:
            if refusal.code != "not_found":
                raise
            return False
        return True

    async def flush(self, uid: str) -> dict[str, Any]:
        """Have every device of the user take a full copy (scope `admin`)."""
        return await self.send(uid, gregor(flush=True))

    async def send_many(self, lines: Iterable[Line]) -> list[dict[str, Any]]:
        """Send many messages in few calls; in order, `{"line", "uid", "receipt" | "problem"}` for each (line, uid).

        What the server asks to send again is sent again; a refusal is a value and spoils no other line.
        """
        jobs = [
            (number, {**_repeatable(_content(line)), "uid": uid})
            for number, line in enumerate(lines)
            for uid in (line["uids"] if "uids" in line else [line["uid"]])
        ]
        entries: list[dict[str, Any] | None] = [None] * len(jobs)
        for attempt in range(self._tries):
            open_ = [place for place, entry in enumerate(entries) if entry is None or _again(entry)]
            if not open_:
                break
            if attempt:
                await asyncio.sleep(_pause_s(attempt, None))
            for places in _calls([(place, _dump(jobs[place][1])) for place in open_]):
                answers = await self._batch(b"\n".join(text for _, text in places))
                for (place, _), answer in zip(places, answers, strict=True):
                    entries[place] = {**answer, "line": jobs[place][0]}
        return [entry for entry in entries if entry is not None]

    # Reads.

    async def state(
        self, uid: str, *, device: str | None = None, category_prefix: Sequence[str] = (), at: float | None = None
    ) -> dict[str, Any]:
        """The live items of a user (as one device sees them, or all): `{"cursor", "digest", "badge", "items"}`."""
        query = {"device": device, "category_prefix": list(category_prefix), "at": at}
        return await self._json("GET", _user(uid, "state"), params=_given(query))

    async def sync(self, uid: str, cursor: str | None = None, digest: str | None = None, **view: Any) -> dict[str, Any]:
        """The sync object that leads from `cursor` to now; `view`: `device`, `category_prefix`."""
        return await self._json("GET", _user(uid, "sync"), params=_given({"cursor": cursor, "digest": digest, **view}))

    async def item(self, uid: str, id_: str) -> dict[str, Any]:
        """One item, live or gone, with its timeline."""
        return await self._json("GET", _user(uid, f"items/{quote(id_, safe='')}"))

    async def history(self, uid: str, *, category_prefix: Sequence[str] = (), page: int = 100) -> AsyncIterator[Line]:
        """Every entry of a user's history, newest first, page by page."""
        url = _user(uid, "history")
        query: dict[str, Any] | None = _given({"category_prefix": list(category_prefix), "limit": page})
        while True:
            answer = await self._call("GET", url, params=query)
            for entry in answer.json()["entries"]:
                yield entry
            following = answer.links.get("next", {}).get("url")
            if following is None:
                return
            url, query = str(answer.url.join(following)), None

    # Calls.

    async def _batch(self, ndjson: bytes) -> list[dict[str, Any]]:
        headers = {"Content-Type": "application/x-ndjson"}
        answer = await self._call("POST", "/v1/messages", content=ndjson, headers=headers)
        return [json.loads(line) for line in answer.content.splitlines() if line]

    async def _json(self, method: str, url: str, **request: Any) -> dict[str, Any]:
        answer: dict[str, Any] = (await self._call(method, url, **request)).json()
        return answer

    async def _call(self, method: str, url: str, **request: Any) -> httpx.Response:
        """The answer, after as many tries as it takes; `MessageRejected` for a final refusal, else `Unreachable`."""
        request.setdefault("headers", {"Content-Type": "application/json"} if "content" in request else {})
        said = ""
        for attempt in range(1, self._tries + 1):
            retry_after = None
            try:
                answer = await self._http.request(method, url, **request)
            except httpx.TransportError as error:
                said = str(error) or type(error).__name__
            else:
                if answer.is_success:
                    return answer
                problem = _problem(answer)
                if not is_retryable(problem):
                    raise MessageRejected(problem)
                said, retry_after = f"{problem.get('code')}: {problem.get('detail')}", answer.headers.get("Retry-After")
            if attempt < self._tries:
                await asyncio.sleep(_pause_s(attempt, retry_after))
        raise Unreachable(f"{method} {url}: {said}")


def _user(uid: str, rest: str) -> str:
    return f"/v1/users/{quote(uid, safe='')}/{rest}"


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _given(query: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value not in (None, [])}


def _content(line: Line) -> Message:
    return {name: value for name, value in line.items() if name not in ("uid", "uids")}


def _repeatable(message: Message) -> Message:
    """The message with an id where only that makes a repeat harmless; a backend has no copy to take an `end` from."""
    if message.get("id") is None and needs_id(message):
        return {**message, "id": secrets.token_hex(16)}
    return message


def _again(entry: Mapping[str, Any]) -> bool:
    return "problem" in entry and is_retryable(entry["problem"])


def _calls(lines: Sequence[tuple[int, bytes]]) -> Iterable[list[tuple[int, bytes]]]:
    """The lines in groups that each fit one call."""
    group: list[tuple[int, bytes]] = []
    size = 0
    for line in lines:
        if group and (len(group) >= min(LINES, FANOUT) or size + len(line[1]) > CALL_BYTES):
            yield group
            group, size = [], 0
        group.append(line)
        size += len(line[1]) + 1
    if group:
        yield group


def _problem(answer: httpx.Response) -> dict[str, Any]:
    """The problem of an answer; a proxy's page counts by its status."""
    try:
        document = answer.json()
    except ValueError:
        document = None
    return document if isinstance(document, dict) else {"status": answer.status_code, "detail": answer.text[:200]}


def _pause_s(attempt: int, retry_after: str | None) -> float:
    """Full jitter below a bound that doubles; at least what the server asks for."""
    pause_s = random.uniform(0, min(MOST_PAUSE_S, FIRST_PAUSE_S * 2**attempt))
    return max(pause_s, float(retry_after)) if retry_after and retry_after.isdigit() else pause_s
