"""Pages for people: the table of errors, and the documentation of the API. They need no token and no network."""

from __future__ import annotations

from functools import cache
from html import escape
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Request, Response

from gregor.core.close_codes import CloseCode
from gregor.core.errors import ERRORS
from gregor_ingest.guarded_route import OpenRoute
from gregor_ingest.responses import json_response

router: Final = APIRouter(route_class=OpenRoute, include_in_schema=False)

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'; base-uri 'none'"
_HEADERS: Final = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}


@router.get("/errors", operation_id="errorsPage")
async def errors_page() -> Response:
    """Every error code, each with an anchor: where the `type` of a problem leads."""
    return Response(_errors_html(), media_type="text/html", headers=_HEADERS)


@router.get("/docs", operation_id="docsPage")
async def docs_page() -> Response:
    """The page that shows the OpenAPI document."""
    return Response(_file("docs.html"), media_type="text/html", headers=_HEADERS)


@router.get("/docs.js", operation_id="docsScript")
async def docs_script() -> Response:
    """The script of that page."""
    return Response(_file("docs.js"), media_type="text/javascript", headers=_HEADERS)


@router.get("/openapi.json", operation_id="openapi")
async def openapi(request: Request) -> Response:
    """The OpenAPI 3.1 document of what this process serves."""
    return json_response(request.app.openapi())


@cache
def _file(name: str) -> bytes:
    return files("gregor_ingest").joinpath("pages", name).read_bytes()


@cache
def _errors_html() -> str:
    rows = "".join(
        f'<tr id="{code}"><td><a href="#{code}"><code>{code}</code></a></td><td>{refusal.status}</td>'
        f"<td>{'yes' if refusal.retry else 'no'}</td><td>{escape(refusal.meaning)}</td></tr>\n"
        for code, refusal in ERRORS.items()
    )
    closes = "".join(
        f'<tr id="{code.value}"><td><code>{code.value}</code></td><td><code>{code.reason}</code></td>'
        f"<td>{'no' if code.is_final else 'yes'}</td><td>{escape(code.meaning)}</td></tr>\n"
        for code in CloseCode
    )
    return _file("errors.html").decode().replace("<!--errors-->", rows).replace("<!--closes-->", closes)
