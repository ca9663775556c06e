"""The table of answers: a case for each row of ``gregor.redis.cluster.answers``."""

import re
from typing import Any

import pytest

from gregor.redis.cluster import answers
from gregor.redis.cluster.answers import Action, Decision, decide
from gregor.redis.errors import ReplyError

ASKED = ("here", 6379)

ROWS: dict[str, tuple[Any, Decision]] = {
    "value": (b"x", Decision(Action.RETURN)),
    "nothing": (None, Decision(Action.RETURN)),
    "MOVED": (ReplyError("MOVED 3999 10.0.0.7:6381"), Decision(Action.FOLLOW, ("10.0.0.7", 6381), refresh=True)),
    "MOVED to the": (ReplyError("MOVED 3999 here:6379"), Decision(Action.FOLLOW, ASKED, refresh=True)),
    "MOVED without host": (ReplyError("MOVED 3999 :6381"), Decision(Action.FOLLOW, ("here", 6381), refresh=True)),
    "MOVED to IPv6": (ReplyError("MOVED 3999 ::1:6381"), Decision(Action.FOLLOW, ("::1", 6381), refresh=True)),
    "ASK": (ReplyError("ASK 3999 10.0.0.7:6381"), Decision(Action.ASK, ("10.0.0.7", 6381))),
    "TRYAGAIN": (ReplyError("TRYAGAIN Multiple keys request"), Decision(Action.TRY_AGAIN)),
    "CLUSTERDOWN": (ReplyError("CLUSTERDOWN Hash slot not served"), Decision(Action.WAIT, refresh=True)),
    "LOADING": (ReplyError("LOADING Redis is loading"), Decision(Action.WAIT, refresh=True)),
    "MASTERDOWN": (ReplyError("MASTERDOWN Link with MASTER is down"), Decision(Action.WAIT, refresh=True)),
    "READONLY": (ReplyError("READONLY You can't write"), Decision(Action.WAIT, refresh=True)),
    "NOSCRIPT": (ReplyError("NOSCRIPT No matching script."), Decision(Action.LOAD)),
    "NOREPLICAS": (ReplyError("NOREPLICAS Not enough good replicas"), Decision(Action.RETURN, refresh=True)),
    "OOM": (ReplyError("OOM command not allowed"), Decision(Action.RETURN)),
    "other error": (ReplyError("WRONGTYPE Operation"), Decision(Action.RETURN)),
    "CROSSSLOT": (ReplyError("CROSSSLOT Keys in request"), Decision(Action.RETURN)),
}


@pytest.mark.parametrize("row", ROWS)
def test_reply_leads_to_its_decision(row: str) -> None:
    reply, expected = ROWS[row]

    assert decide(reply, ASKED) == expected


@pytest.mark.parametrize("text", ["MOVED", "MOVED x a:1", "MOVED 1 a", "MOVED 99999 a:1", "MOVED 1 a:0", "ASK 1 a:b"])
def test_malformed_redirect_is_returned(text: str) -> None:
    assert decide(ReplyError(text), ASKED) == Decision(Action.RETURN)


def test_every_documented_reply_has_a_case() -> None:
    codes = set(re.findall(r"``([A-Z]{3,})``", (answers.__doc__ or "").partition("All waiting")[0]))

    assert codes <= {row.partition(" ")[0] for row in ROWS}
