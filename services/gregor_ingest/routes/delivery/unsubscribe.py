"""The links under mails: a page that asks, and the one POST that ends the mails. Open: who has the link may.

Mail clients send the POST by themselves when their user asks for it (RFC 8058), with any body, without login, cookie or
origin. A GET ends nothing: programs that look for harm open every link of a mail.
"""

from __future__ import annotations

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
from gregor_ingest.context import IngestContext
from gregor_ingest.guarded_route import Context, OpenRoute
from gregor_ingest.responses import problems

router: Final = APIRouter(route_class=OpenRoute, tags=["contact"])

_PATH: Final = "/v1/unsubscribe/{token}"
MOST_BYTES: Final = 1_024
"""Of the body of a POST; what it says does not matter."""
TOKEN_SCHEMA: Final = {"type": "string", "maxLength": MAX_TOKEN_CHARACTERS, "pattern": "^[A-Za-z0-9_-]+$"}
_HEADERS: Final = {
    # A form may lead nowhere else, the page be in no frame, and the link, which is a key, be told to nobody.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "X-Robots-Tag": "noindex",
    "Vary": "Accept-Language",
}
_Token = Annotated[str, Path(description="As a mail has it.", json_schema_extra=dict(TOKEN_SCHEMA))]


def _page_answer(description: str) -> dict[str, object]:
    return {"description": description, "content": {"text/html": {"schema": {"type": "string"}}}}


_UNKNOWN: Final = _page_answer("The link is not valid; nothing was done.")


@router.get(
    _PATH,
    operation_id="askUnsubscribe",
    summary="The page of an unsubscribe link",
    responses={200: _page_answer("A page with one button, which sends the POST."), 404: _UNKNOWN},
    response_class=Response,
)
async def ask_unsubscribe(token: _Token, request: Request, context: Context) -> Response:
    """Asks, and changes nothing."""
    words = _words(request)
    found = parse_token(link_keys(context.settings), token)
    if found is None:
        return _unknown(words)
    _, categories = found
    kinds = "" if categories == (ALL_CATEGORIES,) else f'<p dir="ltr">{escape(", ".join(categories))}</p>\n'
    button = f'<form method="post"><button>{escape(words.unsubscribe)}</button></form>'
    return _page(words, words.ask, kinds + button)


@router.post(
    _PATH,
    operation_id="unsubscribe",
    summary="End mails",
    responses={
        200: _page_answer("No more mails of the categories that the link is for."),
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
    """One click (RFC 8058), with a body of any type up to 1 KiB. Repeating it is safe."""
    await _read_and_forget(request)
    words = _words(request)
    found = parse_token(link_keys(context.settings), token)
    if found is None:
        return _unknown(words)
    await _end(found, context)
    return _page(words, words.done)


async def _end(found: tuple[str, tuple[str, ...]], context: IngestContext) -> None:
    uid, categories = found
    await context.store.contacts.end_mails(uid, categories)


async def _read_and_forget(request: Request) -> None:
    def too_large() -> Problem:
        return Problem("message_too_large", f"The body is over {MOST_BYTES} bytes.")

    await read_body(headers_of(request.scope), request.receive, MOST_BYTES, too_large)


def _words(request: Request) -> Translation:
    return accepted_translation(request.headers.get("accept-language", ""))


def _unknown(words: Translation) -> Response:
    return _page(words, words.unknown, status=404)


def _page(words: Translation, heading: str, rest: str = "", status: int = 200) -> Response:
    context = {
        "lang": words.tag,
        "dir": words.direction,
        "title": escape(words.unsubscribe),
        "heading": escape(heading),
        "rest": rest,
    }
    html = re.sub(r"<!--(\w+)-->", lambda found: context[found[1]], _frame())
    return Response(html, status, _HEADERS, media_type="text/html")


@cache
def _frame() -> str:
    return files("gregor_ingest").joinpath("pages", "unsubscribe.html").read_text("utf-8")
