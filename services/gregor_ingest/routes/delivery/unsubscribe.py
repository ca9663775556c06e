"""Unsubscribe links of e-mails: a confirmation page, and the POST that unsubscribes. The link itself is the credential.

Mail clients send the POST for their user (RFC 8058), with any body, and without login, cookie or origin. A GET changes
nothing, because virus scanners open every link of an e-mail.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from html import escape
from importlib.resources import files
from typing import Annotated, Final

from fastapi import APIRouter, Path, Request, Response

from gregor.auth.unsubscribe_links import link_keys
from gregor.core.errors import Problem
from gregor.core.notify.unsubscribe_token import ALL_CATEGORIES, MAX_TOKEN_CHARACTERS, parse_token
from gregor.rendering.translations import Translation, accepted_translation
from gregor.web.request import headers_of, read_body
from gregor_ingest.guarded_route import Context, OpenRoute
from gregor_ingest.responses import problems

router: Final = APIRouter(route_class=OpenRoute, tags=["contact"])

_PATH: Final = "/v1/unsubscribe/{token}"
MAX_BODY_BYTES: Final = 1_024
"""Size limit of the body of a POST. The content is ignored."""
TOKEN_SCHEMA: Final = {"type": "string", "maxLength": MAX_TOKEN_CHARACTERS, "pattern": "^[A-Za-z0-9_-]+$"}
_HEADERS: Final = {
    # The link is a credential: no Referer contains it, no frame may hold the page, the form posts only to this origin.
    # Not "same-origin": the request for the favicon would then have the link as its Referer.
    "Referrer-Policy": "strict-origin",
    "X-Robots-Tag": "noindex",
    "Vary": "Accept-Language",
}
_Token = Annotated[str, Path(description="The token of the link.", json_schema_extra=dict(TOKEN_SCHEMA))]


def _html_response(description: str) -> dict[str, object]:
    return {"description": description, "content": {"text/html": {"schema": {"type": "string"}}}}


_UNKNOWN: Final = _html_response("The link is invalid. Nothing was changed.")


@router.get(
    _PATH,
    operation_id="askUnsubscribe",
    summary="Show the unsubscribe page",
    responses={200: _html_response("A page with a button that sends the POST."), 404: _UNKNOWN},
    response_class=Response,
)
async def ask_unsubscribe(token: _Token, request: Request, context: Context) -> Response:
    """Ask for confirmation. Changes nothing."""
    texts = _translation(request)
    found = parse_token(link_keys(context.live_settings.current), token)
    if found is None:
        return _invalid_link(texts)
    _, categories = found
    listed = "" if categories == (ALL_CATEGORIES,) else f'<p dir="ltr">{escape(", ".join(categories))}</p>\n'
    button = f'<form method="post"><button>{escape(texts.unsubscribe)}</button></form>'
    return _page(texts, texts.ask, listed + button)


@router.post(
    _PATH,
    operation_id="unsubscribe",
    summary="Unsubscribe",
    responses={
        200: _html_response("The user gets no more e-mail of the categories of the link."),
        404: _UNKNOWN,
        **problems("message_too_large", "unavailable"),
    },
    openapi_extra={
        "requestBody": {
            "required": False,
            "content": {
                "application/x-www-form-urlencoded": {
                    "schema": {"type": "object"},
                    "example": {"List-Unsubscribe": "One-Click"},
                }
            },
        }
    },
    response_class=Response,
)
async def unsubscribe(token: _Token, request: Request, context: Context) -> Response:
    """Unsubscribe with one click (RFC 8058). The body may have any type, up to 1 KiB. Safe to repeat."""
    # First, so a body that is too large changes nothing.
    await _discard_body(request)
    texts = _translation(request)
    found = parse_token(link_keys(context.live_settings.current), token)
    if found is None:
        return _invalid_link(texts)
    uid, categories = found
    await context.unsubscriber.end_mails(uid, categories)
    return _page(texts, texts.done)


async def _discard_body(request: Request) -> None:
    def too_large() -> Problem:
        return Problem("message_too_large", f"The body has more than {MAX_BODY_BYTES} bytes.")

    await read_body(headers_of(request.scope), request.receive, MAX_BODY_BYTES, too_large)


def _translation(request: Request) -> Translation:
    return accepted_translation(request.headers.get("accept-language", ""))


def _invalid_link(texts: Translation) -> Response:
    return _page(texts, texts.unknown, status=404)


def _page(texts: Translation, heading: str, rest: str = "", status: int = 200) -> Response:
    placeholders = {
        "lang": texts.tag,
        "dir": texts.direction,
        "title": escape(texts.unsubscribe),
        "heading": escape(heading),
        "rest": rest,
    }
    style_hash = _style_hash()
    policy = (
        f"default-src 'none'; style-src '{style_hash}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    headers = {**_HEADERS, "Content-Security-Policy": policy}
    html = re.sub(r"<!--(\w+)-->", lambda found: placeholders[found[1]], _template())
    return Response(html, status, headers, media_type="text/html")


@cache
def _template() -> str:
    return files("gregor_ingest").joinpath("pages", "unsubscribe.html").read_text("utf-8")


@cache
def _style_hash() -> str:
    """Return the hash of the page's style, which allows it in the Content-Security-Policy."""
    style = _template().partition("<style>")[2].partition("</style>")[0]
    return "sha256-" + base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
