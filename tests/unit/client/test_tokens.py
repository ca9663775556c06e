"""Device tokens minted by the client are accepted by the services."""

from datetime import timedelta

from gregor.auth.device_tokens import TokenVerifier
from gregor.client import mint_device_token
from gregor.config.settings import load_settings

SECRET = "a-secret-of-at-least-32-bytes-for-hs256"
NOW_S = 1_800_000_000.25


async def test_minted_token_is_accepted_with_all_claims() -> None:
    environ = {"GREGOR_TOKEN_SECRET": SECRET, "GREGOR_TOKEN_AUD": "app", "GREGOR_TOKEN_ISS": "login"}

    token = mint_device_token(
        *(SECRET, "alice", "phone"), expires_in=timedelta(hours=1), category_prefixes=["user"], systems=["kbfs"],
        audience="app", issuer="login", now=NOW_S,
    )  # fmt: skip

    caller = await TokenVerifier(load_settings(environ)).verify(token, round(NOW_S * 1e6))
    assert (caller.uid, caller.device, caller.category_filter, caller.systems) == (
        "alice",
        "phone",
        ("user",),
        ("kbfs",),
    )
    assert (caller.iat_us, caller.exp_us) == (round(NOW_S * 1e6), 1_800_003_600_000_000)


async def test_token_without_limits_sees_everything() -> None:
    token = mint_device_token(SECRET, "alice", "phone", expires_in=60, now=NOW_S)

    caller = await TokenVerifier(load_settings({"GREGOR_TOKEN_SECRET": SECRET})).verify(token, round(NOW_S * 1e6))

    assert (caller.category_filter, caller.systems) == (None, None)
