"""Notification types: entries read, changed, rolled back and tried (architecture.md §8)."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from gregor.core.errors import FieldError, Problem, field_problem
from gregor.core.ids import is_dotted
from gregor.core.json_text import canonical_json, escape_pointer
from gregor.registries.categories import CategoryEditor
from gregor.registries.category_files import read_checked
from gregor.rendering.renderer import Renderer, TemplateItem
from gregor_ingest.context import IngestContext
from gregor_ingest.guarded_route import Context, GuardedRoute
from gregor_ingest.request import read_json, read_model, validate_model
from gregor_ingest.responses import body_of, documented, json_response
from gregor_ingest.schemas.examples import CATEGORIES, ENTRY, PREVIEW
from gregor_ingest.schemas.requests import Flag, Language, RequestModel, Whole

router: Final = APIRouter(route_class=GuardedRoute, tags=["categories"])

MOST_BYTES: Final = 1_048_576
"""Bytes of a whole set of entries, as JSON."""
_BODY: Final = ("malformed_json", "message_too_large", "unsupported_media_type", "schema")
_ENTRY_SCHEMA: Final = {"type": "object", "description": "The fields of one entry: docs/reference/categories.md."}
_SET_SCHEMA: Final = {
    "type": "object",
    "required": ["categories"],
    "properties": {
        "version": {"type": "integer", "description": "Ignored on the way in."},
        "categories": {"type": "object", "additionalProperties": _ENTRY_SCHEMA},
    },
}

DryRun = Annotated[Flag, Query(description="Only check: what is wrong is answered, nothing changes.")]


class Rollback(RequestModel):
    """Which version is to hold again."""

    version: Whole = Field(ge=1, description="One of the last 50.")


class Preview(RequestModel):
    """What is to be rendered."""

    body: Any = Field(None, description="The body of an item of this category.")
    locale: Language | None = None


@router.get(
    "/v1/categories",
    operation_id="listCategories",
    summary="All entries",
    responses=documented(200, "The entries as they were written, and their version.", CATEGORIES),
    response_class=Response,
)
async def list_categories(context: Context) -> Response:
    """The set that holds; version 0 and no entries where none was ever applied."""
    present = await _editor(context).current()
    return json_response({"version": present.version, "categories": present.entries})


@router.put(
    "/v1/categories",
    operation_id="applyCategories",
    summary="Apply a whole set of entries",
    responses=documented(200, "What holds now.", CATEGORIES, *_BODY),
    openapi_extra=body_of(_SET_SCHEMA, {"categories": CATEGORIES["categories"]}),
    response_class=Response,
)
async def apply_categories(request: Request, context: Context, dry_run: DryRun = False) -> Response:
    """Replaces all entries, in all processes within a second. Refused whole, with every mistake, where one is wrong."""
    entries, pointer = _set_of(await read_json(request, context, most=MOST_BYTES))
    editor = _editor(context)
    try:
        if dry_run:
            await asyncio.to_thread(read_checked, entries)
            version = (await editor.current()).version
        else:
            version = await editor.apply(entries, context.clock.now_us())
    except Problem as problem:
        raise _moved(problem, "", pointer) from None
    await context.categories.refresh()
    return json_response({"version": version, "categories": entries})


@router.post(
    "/v1/categories/rollback",
    operation_id="rollBackCategories",
    summary="Make an older version hold again",
    responses=documented(200, "What holds now: a new version.", CATEGORIES, *_BODY, "missing_field", "not_found"),
    openapi_extra=body_of(Rollback.model_json_schema(), {"version": 1}),
    response_class=Response,
)
async def roll_back(request: Request, context: Context, dry_run: DryRun = False) -> Response:
    """The entries of one of the last 50 versions, as a new version."""
    asked = await read_model(request, context, Rollback)
    editor = _editor(context)
    if dry_run:
        kept = await editor.at_version(asked.version)
        await asyncio.to_thread(read_checked, kept.entries)
        return json_response({"version": (await editor.current()).version, "categories": kept.entries})
    await editor.roll_back(asked.version, context.clock.now_us())
    await context.categories.refresh()
    present = await editor.current()
    return json_response({"version": present.version, "categories": present.entries})


@router.get(
    "/v1/categories/{name}",
    operation_id="readCategory",
    summary="One entry",
    responses=documented(200, "The entry as it was written.", ENTRY, "not_found"),
    response_class=Response,
)
async def read_category(name: str, context: Context) -> Response:
    """What this entry says; what it inherits is in the entries above it."""
    entry = (await _editor(context).current()).entries.get(_category(name))
    if entry is None:
        raise Problem("not_found", "There is no entry of this name.")
    return json_response(entry)


@router.put(
    "/v1/categories/{name}",
    operation_id="putCategory",
    summary="Put one entry",
    responses=documented(200, "The entry.", ENTRY, *_BODY),
    openapi_extra=body_of(_ENTRY_SCHEMA, ENTRY),
    response_class=Response,
)
async def put_category(name: str, request: Request, context: Context, dry_run: DryRun = False) -> Response:
    """Makes or replaces this entry, in all processes within a second."""
    entry = await read_json(request, context)
    editor, category = _editor(context), _category(name)
    try:
        if dry_run:
            await asyncio.to_thread(read_checked, {**(await editor.current()).entries, category: entry})
        else:
            await editor.put(category, entry, context.clock.now_us())
    except Problem as problem:
        raise _moved(problem, "/" + escape_pointer(category), "") from None
    await context.categories.refresh()
    return json_response(entry)


@router.delete(
    "/v1/categories/{name}",
    operation_id="deleteCategory",
    summary="Delete one entry",
    status_code=204,
    responses=documented(204, "It is gone, also where there was none.", None, "schema"),
    response_class=Response,
)
async def delete_category(name: str, context: Context, dry_run: DryRun = False) -> Response:
    """Items of the category stay; they have what they inherit. Refused where an entry below needs what this says."""
    editor, category = _editor(context), _category(name)
    if dry_run:
        present = await editor.current()
        left = {other: entry for other, entry in present.entries.items() if other != category}
        await asyncio.to_thread(read_checked, left)
    else:
        await editor.delete(category, context.clock.now_us())
    await context.categories.refresh()
    return Response(status_code=204)


@router.post(
    "/v1/categories/{name}/preview",
    operation_id="previewCategory",
    summary="See what an item would say",
    responses=documented(200, "The words; null for what the category has not.", PREVIEW, *_BODY, "missing_field"),
    openapi_extra=body_of(Preview.model_json_schema(), {"body": {"keybase": "kbob"}, "locale": "it"}),
    response_class=Response,
)
async def preview(name: str, request: Request, context: Context) -> Response:
    """Title, text, link, subject and HTML of an item (or a summary) with this body, by the entries that hold."""
    asked = validate_model(Preview, await read_json(request, context, empty={}))
    category = _category(name)
    await context.categories.refresh()
    entries, faults = context.categories.current, []
    policy, item = (
        entries.resolve(category),
        TemplateItem("preview", category, asked.body, context.clock.now_us() / 1_000_000),
    )
    is_summary = policy.aggregate is not None and item.summary is not None
    if policy.body_schema is not None and not is_summary:
        faults = policy.body_schema.errors(canonical_json(asked.body), "/body")
    renderer = Renderer(entries, lambda _, field, reason: faults.append(FieldError(f"/{field}", reason)))
    rendered, mail = renderer.rendered(item, asked.locale), renderer.mail(item, asked.locale)
    if faults:
        raise Problem("schema", f"{faults[0].pointer}: {faults[0].detail}", tuple(faults))
    return json_response(
        {
            "title": rendered and rendered["title"],
            "text": rendered and rendered["text"],
            "link": rendered and rendered["link"],
            "subject": mail and mail.subject,
            "html": mail and mail.html,
        }
    )


def _editor(context: IngestContext) -> CategoryEditor:
    return CategoryEditor(context.store.categories, read_checked)


def _category(name: str) -> str:
    if not is_dotted(name):
        raise Problem("invalid_id", "The name in the path is no category: dotted segments, such as user.joined.")
    return name


def _set_of(document: Any) -> tuple[Any, str]:
    """The entries of a request, with or without ``categories`` around them, and the pointer to them."""
    if isinstance(document, dict) and "categories" in document and document.keys() <= {"categories", "version"}:
        return document["categories"], "/categories"
    if not isinstance(document, dict) or not document:
        raise field_problem("schema", "", 'A whole set is {"categories": {…}}, with an entry for each name.')
    return document, ""


def _moved(problem: Problem, inside: str, to: str) -> Problem:
    """The problem with pointers into what was sent; of what was not sent, the detail says where it is."""
    errors = []
    for error in problem.errors:
        is_inside = error.pointer == inside or error.pointer.startswith(inside + "/")
        detail = error.detail if is_inside else f"{error.pointer}: {error.detail}"
        errors.append(FieldError(to + error.pointer.removeprefix(inside) if is_inside else to, detail))
    if not errors:
        return problem
    return Problem(problem.code, f"{errors[0].pointer or 'The document'}: {errors[0].detail}", tuple(errors))
