"""Web Push encryption: the example of RFC 8291, appendix A."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gregor.auth.push_tokens import SubscriptionKeys
from gregor.auth.vapid import base64url, from_base64url
from gregor_delivery.channels.webpush.encryption import encrypt

P256DH = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
COMPRESSED = base64url(b"\2" + from_base64url(P256DH)[1:33])
"""The same point, in 33 bytes."""
AUTH = "BTBZMqHH6r4Tts7J_aSIgg"
SENDER = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"
SALT = "DGv6ra1nlYgDCS1FRnbzlw"
MESSAGE = (
    "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_"
    "yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
)


def test_rfc_8291_example() -> None:
    sender = ec.derive_private_key(int.from_bytes(from_base64url(SENDER), "big"), ec.SECP256R1())

    body = encrypt(
        b"When I grow up, I want to be a watermelon",
        SubscriptionKeys.read(P256DH, AUTH),
        sender,
        from_base64url(SALT),
    )

    assert base64url(body) == MESSAGE


@pytest.mark.parametrize(
    ("p256dh", "auth"),
    [
        (P256DH, "AAAA"),
        (P256DH[:-4], AUTH),
        (COMPRESSED, AUTH),
        ("BA" + P256DH[2:], AUTH),
        ("ü", AUTH),
        (P256DH, "*" * 22),
    ],
)
def test_invalid_keys_are_rejected(p256dh: str, auth: str) -> None:
    with pytest.raises(ValueError):
        SubscriptionKeys.read(p256dh, auth)
