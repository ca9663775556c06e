"""`gregor token mint`: device tokens for development; in production the application's own login service mints them."""

import os
from collections.abc import Sequence
from typing import Annotated

import typer

from gregor.auth.device_tokens import mint as signed_token
from gregor.cli.errors import Failure
from gregor.cli.state_file import read_running
from gregor.clock import SystemClock
from gregor.config.settings import load_settings, parse_duration
from gregor.core.ids import is_name, is_user_id, name_error, normalize_prefix, user_id_error

token = typer.Typer(help="Device tokens, for development.", no_args_is_help=True, rich_markup_mode=None)


@token.callback()
def _group() -> None:
    """Device tokens, for development."""


@token.command()
def mint(
    user: Annotated[str, typer.Option("--user", help="The user, `sub` of the token.")],
    device: Annotated[str, typer.Option("--device", help="The device.")],
    expires_in: Annotated[str, typer.Option("--expires-in", help="How long it is good: 1h, 30d, or seconds.")] = "1d",
    cat: Annotated[list[str] | None, typer.Option("--cat", help="Limit to a category prefix (repeatable).")] = None,
    system: Annotated[list[str] | None, typer.Option("--system", help="External system it hears (repeatable).")] = None,
) -> None:
    """Print a device token, alone.

    Signed with GREGOR_TOKEN_SECRET, else with the secret of the running gregor dev.
    """
    if not is_user_id(user):
        raise typer.BadParameter(user_id_error(user), param_hint="--user")
    if not is_name(device):
        raise typer.BadParameter(name_error(device), param_hint="--device")
    for option, prefixes in (("--cat", cat), ("--system", system)):
        if any(normalize_prefix(prefix) is None for prefix in prefixes or ()):
            raise typer.BadParameter("dotted segments are expected, such as user.joined", param_hint=option)
    try:
        lives_s = round(parse_duration(expires_in))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--expires-in") from error
    if lives_s > (most_s := load_settings(os.environ).token_max_age_s):
        words = f"over the {most_s / 86_400:g} days of GREGOR_TOKEN_MAX_AGE: nobody would accept it"
        raise typer.BadParameter(words, param_hint="--expires-in")
    typer.echo(mint_token(user, device, lives_s, category_filter=cat, systems=system))


def mint_token(
    user: str,
    device: str,
    lives_s: int,
    category_filter: Sequence[str] | None = None,
    systems: Sequence[str] | None = None,
) -> str:
    """A device token that the services of this environment, or of the running `gregor dev`, accept."""
    settings = load_settings(os.environ)
    if settings.token_secret is not None:
        secret, aud, iss = settings.token_secret.get_secret_value(), settings.token_aud, settings.token_iss
        offset_s = settings.clock_offset_s
    elif running := read_running(os.environ):
        secret, aud, iss = running.token_secret, running.token_aud, running.token_iss
        offset_s = running.clock_offset_s
    else:
        raise Failure("no secret to sign with: set GREGOR_TOKEN_SECRET, or start `gregor dev`")
    now_us = SystemClock(offset_s).now_us()
    return signed_token(
        secret, user, device, lives_s, category_filter or None, systems or None, now_us=now_us, aud=aud, iss=iss
    )
