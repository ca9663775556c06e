"""`gregor token mint`: device tokens for development; in production the application's login service mints them."""

import os
from collections.abc import Sequence
from typing import Annotated

import typer

from gregor.cli.environment import duration_setting, is_on, now_s, secret_setting, setting
from gregor.cli.errors import CommandError
from gregor.cli.state_file import read_running
from gregor.cli.times import duration_option
from gregor.client.tokens import mint_device_token
from gregor.config.secret_strength import ALLOWING, FIX, weakness_of
from gregor.core.ids import is_name, is_user_id, name_error, normalize_prefix, user_id_error

token = typer.Typer(help="Device tokens, for development.", no_args_is_help=True, rich_markup_mode=None)
DEFAULT_MAX_AGE_S = 30 * 86_400


@token.callback()
def _group() -> None:
    """Device tokens, for development."""


@token.command()
def mint(
    user: Annotated[str, typer.Option("--user", help="The user, `sub` of the token.")],
    device: Annotated[str, typer.Option("--device", help="The device.")],
    expires_in: Annotated[str, typer.Option("--expires-in", help="Lifetime: 1h, 30d, or seconds.")] = "1d",
    cat: Annotated[list[str] | None, typer.Option("--cat", help="Limit to a category prefix (repeatable).")] = None,
    system: Annotated[
        list[str] | None, typer.Option("--system", help="External system to receive (repeatable).")
    ] = None,
) -> None:
    """Print a device token.

    It is signed with the first secret of GREGOR_TOKEN_SECRET, else with that of the running gregor dev.
    """
    if not is_user_id(user):
        raise typer.BadParameter(user_id_error(user), param_hint="--user")
    if not is_name(device):
        raise typer.BadParameter(name_error(device), param_hint="--device")
    for option, prefixes in (("--cat", cat), ("--system", system)):
        if any(normalize_prefix(prefix) is None for prefix in prefixes or ()):
            raise typer.BadParameter("a prefix consists of dotted segments, such as user.joined", param_hint=option)
    lifetime_s = round(duration_option(expires_in, "--expires-in"))
    if lifetime_s < 1:
        text = f"{expires_in!r} is refused: the token would expire at once; write at least 1 s, such as 1h"
        raise typer.BadParameter(text, param_hint="--expires-in")
    max_age_s = duration_setting("TOKEN_MAX_AGE")
    if lifetime_s > (max_age_s := DEFAULT_MAX_AGE_S if max_age_s is None else max_age_s):
        text = f"the services refuse tokens valid for more than {max_age_s / 86_400:g} days (GREGOR_TOKEN_MAX_AGE)"
        raise typer.BadParameter(text, param_hint="--expires-in")
    typer.echo(mint_token(user, device, lifetime_s, category_prefixes=cat, systems=system))


def mint_token(
    user: str,
    device: str,
    lifetime_s: int,
    category_prefixes: Sequence[str] | None = None,
    systems: Sequence[str] | None = None,
) -> str:
    """Return a device token that the services of this environment, or of the running `gregor dev`, accept.

    Raises CommandError if no secret is known, or if services refuse it because it can be guessed.
    """
    secret, audience, issuer = secret_setting("TOKEN_SECRET"), setting("TOKEN_AUD"), setting("TOKEN_ISS")
    running = read_running(os.environ, os.environ.get("GREGOR_URL")) or read_running(os.environ)
    if secret is not None:
        is_allowed = (running is not None and secret == running.token_secret) or is_on("ALLOW_WEAK_SECRETS")
        if not is_allowed and (why := weakness_of(secret.encode())) is not None:
            raise CommandError(f"GREGOR_TOKEN_SECRET: it {why}, so the services refuse it; {FIX}; {ALLOWING}")
    elif running is None:
        raise CommandError("no secret to sign with: set GREGOR_TOKEN_SECRET, or start `gregor dev`")
    else:
        secret, audience, issuer = running.token_secret, running.token_aud, running.token_iss
    return mint_device_token(
        *(secret, user, device),
        expires_in=lifetime_s,
        category_prefixes=category_prefixes or None,
        systems=systems or None,
        audience=audience,
        issuer=issuer,
        now=now_s(),
    )
