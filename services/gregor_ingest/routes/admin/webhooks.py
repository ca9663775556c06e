"""Webhooks: create, list, change, rotate, delete."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response

from gregor.core.errors import Problem
from gregor.registries.webhooks import WebhookEditor
from gregor.web.request import JSON
from gregor_ingest.context import IngestContext
from gregor_ingest.guarded_route import Context, GuardedRoute
from gregor_ingest.request import BODY_ERRORS, MERGE_PATCH, read_json, read_model, validate_model
from gregor_ingest.responses import documented, json_response, request_body
from gregor_ingest.schemas.examples import NEW_WEBHOOK, WEBHOOK
from gregor_ingest.schemas.responses import NewWebhookResponse, WebhookResponse, WebhooksResponse
from gregor_ingest.schemas.webhook import (
    CreateWebhook,
    WebhookPatch,
    apply_webhook_patch,
    check_webhook_url,
    new_webhook_response,
    webhook_response,
)

router: Final = APIRouter(route_class=GuardedRoute, tags=["webhooks"])

ROTATION_OVERLAP_US: Final = 24 * 3_600 * 1_000_000
"""How long calls carry the signature of the old secret after a rotation."""
_PATH: Final = "/v1/webhooks/{webhook}"
_EXAMPLE: Final = {"url": "https://example.com/gregor", "events": ["item.dismissed"], "category_prefix": "user"}


@router.post(
    "/v1/webhooks",
    operation_id="createWebhook",
    summary="Create a webhook",
    status_code=201,
    responses=documented(
        201,
        "The webhook. Its secret is never shown again.",
        NewWebhookResponse,
        NEW_WEBHOOK,
        *BODY_ERRORS,
        "missing_field",
        "too_many",
        location="The address of the new webhook.",
    ),
    openapi_extra=request_body(CreateWebhook, _EXAMPLE),
    response_class=Response,
)
async def create_webhook(request: Request, context: Context) -> Response:
    """Create a webhook. The response is sent when every process calls it for new events, after half a second."""
    body = await read_model(request, context, CreateWebhook)
    check_webhook_url(body.url, is_loopback_allowed=context.settings.webhook_loopback)
    now_us = context.clock.now_us()
    made = await _editor(context).create(body.url, body.event_types, body.category_filter, body.name, now_us)
    # Otherwise an event right after this response could miss the webhook.
    await context.webhooks.wait_until_known()
    headers = {"Location": _PATH.format(webhook=made.id)}
    return json_response(new_webhook_response(made), 201, headers)


@router.get(
    "/v1/webhooks",
    operation_id="listWebhooks",
    summary="List the webhooks",
    responses=documented(200, "The webhooks, without their secrets.", WebhooksResponse, {"webhooks": [WEBHOOK]}),
    response_class=Response,
)
async def list_webhooks(context: Context) -> Response:
    """Return every webhook by id, including disabled ones."""
    _, webhooks = await context.store.webhooks.all()
    return json_response(WebhooksResponse([webhook_response(webhook) for webhook in webhooks]))


@router.get(
    _PATH,
    operation_id="getWebhook",
    summary="Get a webhook",
    responses=documented(200, "The webhook, without its secret.", WebhookResponse, WEBHOOK, "not_found"),
    response_class=Response,
)
async def get_webhook(webhook: str, context: Context) -> Response:
    """Return one webhook."""
    _, webhooks = await context.store.webhooks.all()
    for each in webhooks:
        if each.id == webhook:
            return json_response(webhook_response(each))
    raise _unknown_webhook()


@router.patch(
    _PATH,
    operation_id="patchWebhook",
    summary="Change a webhook",
    responses=documented(200, "The changed webhook.", WebhookResponse, WEBHOOK, *BODY_ERRORS, "not_found"),
    openapi_extra=request_body(WebhookPatch, {"enabled": True}, media_types=(JSON, MERGE_PATCH)),
    response_class=Response,
)
async def patch_webhook(webhook: str, request: Request, context: Context) -> Response:
    """Apply a merge patch (RFC 7396). The secret stays; `enabled: true` enables a webhook again after a 410."""
    patch = validate_model(WebhookPatch, await read_json(request, context, JSON, MERGE_PATCH))
    if patch.url is not None:
        check_webhook_url(patch.url, is_loopback_allowed=context.settings.webhook_loopback)
    now_us = context.clock.now_us()
    changed = await _editor(context).change(webhook, lambda stored: apply_webhook_patch(stored, patch, now_us))
    if changed is None:
        raise _unknown_webhook()
    await context.webhooks.wait_until_known()
    return json_response(webhook_response(changed))


@router.delete(
    _PATH,
    operation_id="deleteWebhook",
    summary="Delete a webhook",
    status_code=204,
    responses=documented(204, "The webhook is deleted, or never existed."),
    response_class=Response,
)
async def delete_webhook(webhook: str, context: Context) -> Response:
    """Delete a webhook and cancel its pending calls."""
    await context.store.webhooks.delete(webhook)
    await context.webhooks.refresh()
    return Response(status_code=204)


@router.post(
    f"{_PATH}/rotate",
    operation_id="rotateWebhook",
    summary="Rotate the secret of a webhook",
    responses=documented(
        200, "The new secret; the old one signs too for 24 hours.", NewWebhookResponse, NEW_WEBHOOK, "not_found"
    ),
    response_class=Response,
)
async def rotate_webhook(webhook: str, context: Context) -> Response:
    """Create a new secret. Calls carry the signatures of both for 24 hours, even if the secret is rotated again."""
    rotated = await _editor(context).rotate(webhook, context.clock.now_us(), ROTATION_OVERLAP_US)
    if rotated is None:
        raise _unknown_webhook()
    return json_response(new_webhook_response(rotated))


def _editor(context: IngestContext) -> WebhookEditor:
    return WebhookEditor(context.store.webhooks)


def _unknown_webhook() -> Problem:
    return Problem("not_found", "No webhook has this id.")
