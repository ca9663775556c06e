"""Categories: read, replace, roll back and preview their entries."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from msgspec import UNSET

from gregor.core.categories.body_schema import MAX_VALUE_WORK
from gregor.core.categories.policy import CategoryPolicies, CategoryPolicy, no_entry_text
from gregor.core.errors import FieldError, Problem, field_problem
from gregor.core.ids import is_dotted
from gregor.core.items.read_cost import PREVIEW_WEIGHT
from gregor.core.json_text import canonical_json, escape_pointer
from gregor.registries.categories import CategoryEditor
from gregor.registries.category_files import read_checked
from gregor.rendering.renderer import Renderer, TemplateItem
from gregor_ingest.context import IngestContext
from gregor_ingest.guarded_route import Context, CurrentReadLimiter, GuardedRoute
from gregor_ingest.request import BODY_ERRORS, read_json, read_model
from gregor_ingest.responses import documented, json_response, request_body
from gregor_ingest.schemas.documents import CategoryEntrySchema, CategorySetSchema
from gregor_ingest.schemas.examples import CATEGORIES, ENTRY, PREVIEW
from gregor_ingest.schemas.fields import Flag
from gregor_ingest.schemas.requests import PreviewItem, RollbackCategories
from gregor_ingest.schemas.responses import CategoriesResponse, PreviewResponse

router: Final = APIRouter(route_class=GuardedRoute, tags=["categories"])

MAX_SET_BYTES: Final = 1_048_576
"""Size limit of a whole set of entries, as JSON."""
_PATH: Final = "/v1/categories/{name}"

DryRun = Annotated[Flag, Query(description="Only validate: report errors, and change nothing.")]


@router.get(
    "/v1/categories",
    operation_id="listCategories",
    summary="List the category entries",
    responses=documented(200, "The entries as they were written, and their version.", CategoriesResponse, CATEGORIES),
    response_class=Response,
)
async def list_categories(context: Context) -> Response:
    """Return the current set. It has version 0 and no entries if none was ever applied."""
    current = await _editor(context).current()
    return json_response(CategoriesResponse(current.version, current.entries))


@router.put(
    "/v1/categories",
    operation_id="applyCategories",
    summary="Replace all category entries",
    responses=documented(200, "The current set.", CategoriesResponse, CATEGORIES, *BODY_ERRORS, "schema"),
    openapi_extra=request_body(CategorySetSchema, {"categories": CATEGORIES["categories"]}),
    response_class=Response,
)
async def apply_categories(request: Request, context: Context, dry_run: DryRun = False) -> Response:
    """Replace all entries, in all processes within a second. If one is invalid, nothing changes."""
    entries, pointer = _entries_of(await read_json(request, context, max_bytes=MAX_SET_BYTES))
    editor = _editor(context)
    try:
        if dry_run:
            # In a thread, because compiling the templates and schemas of many entries would block the event loop.
            await asyncio.to_thread(read_checked, entries)
            version = (await editor.current()).version
        else:
            version = await editor.apply(entries, context.clock.now_us())
    except Problem as problem:
        raise _with_pointers(problem, "", pointer) from None
    await context.categories.refresh()
    return json_response(CategoriesResponse(version, entries))


@router.post(
    "/v1/categories/rollback",
    operation_id="rollBackCategories",
    summary="Restore an earlier version",
    responses=documented(
        200,
        "The current set: a new version.",
        CategoriesResponse,
        CATEGORIES,
        *BODY_ERRORS,
        "schema",
        "missing_field",
        "not_found",
    ),
    openapi_extra=request_body(RollbackCategories, {"version": 1}),
    response_class=Response,
)
async def roll_back(request: Request, context: Context, dry_run: DryRun = False) -> Response:
    """Apply the entries of one of the last 50 versions again, as a new version."""
    body = await read_model(request, context, RollbackCategories)
    editor = _editor(context)
    if dry_run:
        earlier = await editor.at_version(body.version)
        await asyncio.to_thread(read_checked, earlier.entries)
        return json_response(CategoriesResponse((await editor.current()).version, earlier.entries))
    await editor.roll_back(body.version, context.clock.now_us())
    await context.categories.refresh()
    current = await editor.current()
    return json_response(CategoriesResponse(current.version, current.entries))


@router.get(
    _PATH,
    operation_id="readCategory",
    summary="Get a category entry",
    responses=documented(200, "The entry as it was written.", "Category", ENTRY, "not_found"),
    response_class=Response,
)
async def read_category(name: str, context: Context) -> Response:
    """Return the entry itself. Inherited values are in the entries above it."""
    entry = (await _editor(context).current()).entries.get(_category(name))
    if entry is None:
        raise Problem("not_found", "No entry has this name; the category inherits all values.")
    return json_response(entry)


@router.put(
    _PATH,
    operation_id="putCategory",
    summary="Put a category entry",
    responses=documented(200, "The entry.", "Category", ENTRY, *BODY_ERRORS, "schema"),
    openapi_extra=request_body(CategoryEntrySchema, ENTRY),
    response_class=Response,
)
async def put_category(name: str, request: Request, context: Context, dry_run: DryRun = False) -> Response:
    """Create or replace an entry, in all processes within a second."""
    entry = await read_json(request, context)
    editor, category = _editor(context), _category(name)
    try:
        if dry_run:
            await asyncio.to_thread(read_checked, {**(await editor.current()).entries, category: entry})
        else:
            await editor.put(category, entry, context.clock.now_us())
    except Problem as problem:
        raise _with_pointers(problem, "/" + escape_pointer(category), "") from None
    await context.categories.refresh()
    return json_response(entry)


@router.delete(
    _PATH,
    operation_id="deleteCategory",
    summary="Delete a category entry",
    status_code=204,
    responses=documented(204, "The entry is deleted, or never existed.", None, None, "schema"),
    response_class=Response,
)
async def delete_category(name: str, context: Context, dry_run: DryRun = False) -> Response:
    """Delete an entry. Items of the category stay. Refused if an entry below needs a value of this one."""
    editor, category = _editor(context), _category(name)
    if dry_run:
        current = await editor.current()
        remaining = {other: entry for other, entry in current.entries.items() if other != category}
        await asyncio.to_thread(read_checked, remaining)
    else:
        await editor.delete(category, context.clock.now_us())
    await context.categories.refresh()
    return Response(status_code=204)


@router.post(
    f"{_PATH}/preview",
    operation_id="previewCategory",
    summary="Preview the texts of an item",
    responses=documented(
        200,
        "The texts; null if the category has no such text.",
        PreviewResponse,
        PREVIEW,
        *BODY_ERRORS,
        "schema",
        "missing_field",
    ),
    openapi_extra=request_body(PreviewItem, {"body": {"keybase": "kbob"}, "locale": "it"}),
    response_class=Response,
)
async def preview(name: str, request: Request, context: Context, limiter: CurrentReadLimiter) -> Response:
    """Render title, text, link, subject and HTML of an item, or a summary, with this body."""
    body = await read_model(request, context, PreviewItem, empty={})
    category = _category(name)
    await limiter.charge(PREVIEW_WEIGHT)
    # This process may not have the latest entries yet, but a preview right after a change must show it.
    await context.categories.refresh()
    policies = context.categories.current
    policy = policies.resolve(category)
    item = TemplateItem("preview", category, body.body, context.clock.now_us() / 1_000_000)
    # A schema and five templates may take half a second together; other requests must not wait for them.
    return json_response(await asyncio.to_thread(_rendered, policies, policy, item, body.locale))


def _rendered(
    policies: CategoryPolicies, policy: CategoryPolicy, item: TemplateItem, locale: str | None
) -> PreviewResponse:
    """Return all texts of an item. Raises ``Problem`` ``schema`` with every error."""
    errors: list[FieldError] = []
    is_summary = policy.aggregate is not None and item.summary is not None
    if policy.body_schema is not None and not is_summary:
        content = canonical_json(item.body)
        if policy.body_schema.value_work(content) > MAX_VALUE_WORK:
            raise field_problem("schema", "/body", "This body takes too long to check: it has too many values.")
        errors = policy.body_schema.errors(content, "/body")
    renderer = Renderer(policies, lambda _, field, reason: errors.append(FieldError(f"/{field}", reason)))
    texts, mail = renderer.render_texts(item, locale), renderer.render_email(item, locale)
    if errors:
        raise Problem("schema", f"{errors[0].pointer}: {errors[0].detail}", tuple(errors))
    return PreviewResponse(
        title=texts["title"] if texts else None,
        text=texts["text"] if texts else None,
        link=texts["link"] if texts else None,
        subject=mail.subject if mail else None,
        html=mail.html if mail else None,
        warnings=UNSET if item.category in policies.named else [no_entry_text(item.category, policies.named)],
    )


# --- Helpers


def _editor(context: IngestContext) -> CategoryEditor:
    return CategoryEditor(context.store.categories, read_checked)


def _category(name: str) -> str:
    if not is_dotted(name):
        raise Problem(
            "invalid_id", "The name in the path is not a valid category: use dotted segments, such as user.joined."
        )
    return name


def _entries_of(document: Any) -> tuple[Any, str]:
    """Return the entries of a request body, and the JSON Pointer to them. ``categories`` around them is optional."""
    if isinstance(document, dict) and "categories" in document and document.keys() <= {"categories", "version"}:
        return document["categories"], "/categories"
    if not isinstance(document, dict) or not document:
        raise field_problem("schema", "", 'The body must be {"categories": {…}}, with an entry for each category.')
    return document, ""


def _with_pointers(problem: Problem, inside: str, to: str) -> Problem:
    """Return the problem with pointers into the request body; an error in another entry is named in the detail."""
    errors = []
    for error in problem.errors:
        is_inside = error.pointer == inside or error.pointer.startswith(inside + "/")
        detail = error.detail if is_inside else f"{error.pointer}: {error.detail}"
        errors.append(FieldError(to + error.pointer.removeprefix(inside) if is_inside else to, detail))
    if not errors:
        return problem
    return Problem(problem.code, f"{errors[0].pointer or 'The document'}: {errors[0].detail}", tuple(errors))
