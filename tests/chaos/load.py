"""The load of a chaos run: writers over HTTP, devices that send, and readers. Everything is recorded."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx

from gregor.history.format import Outcome
from gregor.history.recorder import HistoryRecorder, outcome_of
from tests.chaos.random_messages import RandomMessages
from tests.chaos.recording_devices import RecordingDevice, WebSocketDevice

TRIES = 4
"""Attempts of a message whose outcome is unknown."""
REPEATS = 0.05
"""The share of acknowledged messages that a backend sends again: a repeat changes nothing."""
Document = dict[str, Any]


class Load:
    """Sends ``rate`` messages a second for ``uids`` to the ingest processes, and counts the outcomes.

    ``replicated``: the share of a backend's messages that ask for this durability.
    """

    def __init__(
        self,
        uids: Sequence[str],
        ingests: Sequence[str],
        key: str,
        devices: Sequence[RecordingDevice],
        recorder: HistoryRecorder,
        seed: int,
        *,
        rate: float,
        replicated: float = 0.0,
    ) -> None:
        self.outcomes: Counter[str] = Counter()
        self.is_over = False
        self._uids = uids
        self._recorder = recorder
        self._dice = random.Random(seed)
        self._rate = rate
        self._replicated = replicated
        self._messages = RandomMessages(uids, self._dice)
        self._senders = [device for device in devices if isinstance(device, WebSocketDevice)]
        headers = {"Authorization": f"Bearer {key}"}
        limits = httpx.Limits(max_connections=40)
        self._clients = [
            httpx.AsyncClient(base_url=url, headers=headers, timeout=8, trust_env=False, limits=limits)
            for url in ingests
        ]
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Send until ``is_over``; then wait for the last answers."""
        due = time.monotonic()
        while not self.is_over:
            due += self._dice.expovariate(self._rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if len(self._tasks) < 400:
                self._spawn()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=60)

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            await client.aclose()

    def _spawn(self) -> None:
        dice, kind = self._dice, self._dice.random()
        uid = dice.choice(self._uids)
        if kind < 0.06:
            work = self._read(uid)
        elif kind < 0.25 and self._senders:
            device = dice.choice(self._senders)
            work = self._send_by(device, self._messages.of(device.uid, device.name))
        else:
            work = self._send(uid, self._messages.of(uid))
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- messages

    async def _send(self, uid: str, message: Document) -> None:
        durability = "replicated" if self._dice.random() < self._replicated else None
        for _ in range(TRIES):
            outcome = await self._try(uid, message, durability)
            if outcome == "ok" and "not_before" not in message and self._dice.random() < REPEATS:
                await self._try(uid, message, durability)
            if outcome != "unknown" or self._dice.random() < 0.1:
                return
            await asyncio.sleep(self._dice.uniform(0.3, 1.5))

    async def _try(self, uid: str, message: Document, durability: str | None) -> Outcome:
        """Send a message once, and record the attempt."""
        headers = {} if durability is None else {"Gregor-Durability": durability}
        client, began = self._dice.choice(self._clients), self._recorder.now()
        status: int | None = None
        receipt: Document | None = None
        try:
            answer = await client.post(f"/v1/users/{uid}/messages", json=message, headers=headers)
            status = answer.status_code
            receipt = answer.json() if status == 200 else None
        except (httpx.HTTPError, json.JSONDecodeError):
            status = None
        outcome = outcome_of(status)
        self._recorder.send(uid, message, began, outcome, receipt, durability=durability)
        self.outcomes[outcome if outcome != "unknown" else str(status or "no answer")] += 1
        self.outcomes["replicated"] += durability is not None and outcome == "ok"
        return outcome

    async def _send_by(self, device: WebSocketDevice, message: Document) -> None:
        for _ in range(TRIES):
            if await device.send(message):
                self.outcomes["by device"] += 1
                return
            await asyncio.sleep(self._dice.uniform(0.3, 1.5))

    # ---- reads

    async def _read(self, uid: str) -> None:
        await self.read_state(uid)

    async def read_state(self, uid: str) -> bytes | None:
        """Read and record the state of a user; None if it failed."""
        client, began = self._dice.choice(self._clients), self._recorder.now()
        try:
            answer = await client.get(f"/v1/users/{uid}/state")
        except httpx.HTTPError:
            self._recorder.read(uid, "state", began, "unknown")
            return None
        raw = answer.content if answer.status_code == 200 else None
        self._recorder.read(uid, "state", began, outcome_of(answer.status_code), raw)
        return raw

    async def digest(self, uid: str, device: str) -> str | None:
        """Return the server's digest of a device's view; None if the read failed."""
        try:
            answer = await self._clients[0].get(f"/v1/users/{uid}/state", params={"device": device})
        except httpx.HTTPError:
            return None
        return str(answer.json()["digest"]) if answer.status_code == 200 else None

    async def read_history(self, uid: str) -> None:
        """Read all pages of the history of a user, and record them as one read."""
        began, entries = self._recorder.now(), []
        url: str | None = f"/v1/users/{uid}/history?limit=1000"
        while url is not None:
            answer = await self._clients[0].get(url)
            entries += answer.json()["entries"]
            url = answer.links.get("next", {}).get("url")
        self._recorder.read(uid, "history", began, "ok", {"entries": entries})
