"""The AsyncAPI document of the frames: its examples, and the frames of a real session."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

import gregor_ingest
from gregor.core.errors import Problem
from gregor_gateway.protocol.client_frames import read_frame
from tests.unit.gateway.conftest import Gateway

DOCUMENT: dict[str, Any] = json.loads(
    (Path(gregor_ingest.__file__).parent / "pages" / "asyncapi.json").read_text("utf-8")
)
MESSAGES: dict[str, Any] = DOCUMENT["components"]["messages"]
OPERATIONS: dict[str, Any] = DOCUMENT["operations"]


def names(operation: str) -> list[str]:
    """Return the messages of an operation."""
    return [each["$ref"].rpartition("/")[2] for each in OPERATIONS[operation]["messages"]]


CLIENT, SERVER = names("receiveFrames"), names("sendFrames")
VALIDATORS = {
    name: jsonschema_rs.Draft7Validator(
        {
            "allOf": [{"$ref": f"#/components/messages/{name}/payload"}],
            "components": DOCUMENT["components"],
        }
    )
    for name in MESSAGES
}


def matching(frame: Any, among: list[str]) -> list[str]:
    """Return the messages whose schema a frame satisfies."""
    return [name for name in among if VALIDATORS[name].is_valid(frame)]


def test_every_reference_leads_somewhere() -> None:
    def check(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(target := value.get("$ref"), str):
                found: Any = DOCUMENT
                for part in target.removeprefix("#/").split("/"):
                    found = found[part]
            for each in value.values():
                check(each)
        elif isinstance(value, list):
            for each in value:
                check(each)

    check(DOCUMENT)
    assert set(CLIENT) | set(SERVER) | {"close"} == set(MESSAGES)


@pytest.mark.parametrize("name", MESSAGES)
def test_example_matches_its_message_only(name: str) -> None:
    [example] = MESSAGES[name]["examples"]

    assert matching(example["payload"], CLIENT if name in CLIENT else [*SERVER, "close"]) == [name]


@pytest.mark.parametrize("name", CLIENT)
def test_client_frame_is_accepted_as_described(name: str) -> None:
    frame = MESSAGES[name]["examples"][0]["payload"]
    read_frame(frame)
    strange = {**frame, "strange": 1}

    assert not VALIDATORS[name].is_valid(strange)
    if name != "message":  # the members of a message are checked when it is planned
        with pytest.raises(Problem):
            read_frame(strange)


async def test_frames_of_a_session_match_the_document(gateway: Gateway) -> None:
    phone = gateway.dial()
    await phone.until("full")
    await gateway.create("aa", "bb")
    await phone.until("create")
    await gateway.send({"action": "delete"}, system="kbfs.favorites")
    await phone.until("action")
    phone.send(ref=1, system="gregor", body={"dismiss": {"ids": ["aa"]}})
    await phone.until("receipt")
    phone.send(ref=2, system="gregor", body={"dismiss": {"ids": []}}, strange=1)
    await phone.until("problem")
    phone.send(ping=3)
    await phone.until("pong")
    phone.send(token=gateway.token())
    await phone.until("token")
    await gateway.send({"flush": True})
    await phone.until("flush")

    found = [matching(frame, SERVER) for frame in phone.frames]

    assert all(len(each) == 1 for each in found), [
        frame for frame, each in zip(phone.frames, found, strict=True) if len(each) != 1
    ]
    seen = {name for each in found for name in each}
    assert seen >= {"sync", "change", "external", "receipt", "problem", "serverPong", "serverToken", "flush"}
