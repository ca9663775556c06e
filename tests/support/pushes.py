"""Pushes and keys for tests of the channels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from services.delivery.channels.contract import Push

NOW_US = 1_457_056_447_000_000
DATA = {"v": 1, "uid": "alice", "kind": "item", "id": "aa", "category": "user.joined", "badge": 3, "cursor": "k3f9-12"}
_PUSH = Push(
    uid="alice",
    device="phone",
    token="a1b2c3",
    topic=None,
    sandbox=False,
    kind="alert",
    title="kbob just joined",
    text="You shared files with bob.",
    sound="default",
    badge=3,
    collapse_id="c0ffee",
    expires_us=None,
    urgent=False,
    data=DATA,
)


def push(**changes: Any) -> Push:
    """An alert to alice's phone, but for `changes`."""
    return replace(_PUSH, **changes)


def withdrawal(**changes: Any) -> Push:
    """A background push that withdraws two items, but for `changes`."""
    data = {**DATA, "kind": "withdraw", "id": None, "withdraw": ["aa", "bb"]}
    return push(**{"kind": "background", "title": "", "text": "", "sound": None, "data": data, **changes})


def write_key(path: Path) -> ec.EllipticCurvePublicKey:
    """A private key of P-256 in a file of PEM, as Apple gives them; its public half."""
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key.public_key()
