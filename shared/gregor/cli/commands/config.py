"""`gregor config`: the effective settings before a service starts with them, and an example of all settings."""

import json
import os
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import SecretStr

from gregor.auth.unsubscribe_links import mail_links
from gregor.auth.vapid import VapidKey, subject_problem
from gregor.cli.errors import CommandError
from gregor.cli.local import service_settings
from gregor.cli.target import Json
from gregor.config.env_file import example_env_file
from gregor.config.secret_strength import ALLOWING
from gregor.config.settings import VARIABLES, Settings, has_url, mask_url
from gregor.config.weak_secrets import refuse_weak_secrets
from gregor.core.errors import Problem
from gregor.registries.category_files import initial_entries

# Only delivery can check these, and the command line imports no service.
_UNCHECKED: Final = ("apns_key_file", "apns_cert_file", "fcm_credentials_file", "smtp_url", "mail_from")

config = typer.Typer(help="Check or list the settings.", no_args_is_help=True, rich_markup_mode=None)


@config.callback()
def _group() -> None:
    """Check or list the settings."""


@config.command()
def check(
    file: Annotated[Path | None, typer.Option(help="TOML file (else the one that GREGOR_CONFIG names).")] = None,
    as_json: Json = False,
) -> None:
    """Read the settings as a service does, and print them.

    Exit status 1 if a setting is invalid, or if a service would refuse its secrets, categories or VAPID key. Secrets
    are not shown. The settings of APNs, FCM and e-mail are not checked: gregor doctor checks them as delivery does.
    """
    settings = service_settings(os.environ, file)
    shown = {variable: _shown(settings, field) for variable, field in VARIABLES.items()}
    if as_json:
        typer.echo(json.dumps(shown))
    else:
        width = max(map(len, shown))
        for variable, value in shown.items():
            typer.echo(f"{variable:<{width}}  {_value_text(value)}")
    _check_start(settings)
    if settings.vapid_key_file is not None:
        subject = settings.vapid_subject or ""
        if problem := subject_problem(subject, allows_private=True):
            raise CommandError(problem)
        if not settings.allow_weak_secrets and (problem := subject_problem(subject)):
            raise CommandError(f"{problem}; {ALLOWING}")
        try:
            VapidKey.read(settings.vapid_key_file, subject)
        except ValueError as error:
            raise CommandError(str(error)) from error
        if settings.app_url is None:
            typer.echo("GREGOR_APP_URL is not set: Safari shows a Web Push only by a service worker.", err=True)
    if settings.token_secret is None and settings.token_jwks is None:
        missing = "no key for device tokens is set; set GREGOR_TOKEN_SECRET or GREGOR_TOKEN_JWKS"
        typer.echo(f"{missing}, otherwise ingest and gateway refuse every device", err=True)
    unchecked = [variable for variable, field in VARIABLES.items() if field in _UNCHECKED and getattr(settings, field)]
    if unchecked:
        typer.echo(f"not checked: {', '.join(unchecked)}; gregor doctor checks the providers", err=True)


@config.command()
def example() -> None:
    """Print all settings with their defaults and meanings, as a file of environment variables."""
    typer.echo(example_env_file(), nl=False)


def _check_start(settings: Settings) -> None:
    """Raise CommandError if each setting is valid, but a service would not start with them."""
    try:
        refuse_weak_secrets(settings)
        mail_links(settings)
        if settings.categories is not None:
            initial_entries(Path(settings.categories))
    except Problem as problem:
        raise CommandError(f"GREGOR_CATEGORIES: {problem.detail}") from problem
    except ValueError as error:  # SettingsError is a subclass
        raise CommandError(str(error)) from error


def _value_text(value: object) -> str:
    """Return a value in the form of its variable; `-` if it is not set."""
    match value:
        case bool():
            return str(value).lower()
        case list():
            words = ",".join(map(str, value))
        case dict():
            words = ",".join(f"{name}={each:g}" for name, each in value.items())
        case _:
            words = "" if value is None else str(value)
    return words or "-"


def _shown(settings: Settings, field: str) -> object:
    value = getattr(settings, field)
    match value:
        case SecretStr():
            return "…"
        case tuple():
            return list(value)
        case Path():
            return str(value)
        case str():
            is_path = field == "token_jwks" and "://" not in value
            return mask_url(field, value) if has_url(field) and not is_path else value
        case float() if value.is_integer():
            return int(value)
        case _:
            return value
