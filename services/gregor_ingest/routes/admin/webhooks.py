"""Webhooks: where backends are told what devices and time did (docs/how-to/webhooks.md)."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response

from gregor.core.errors import Problem
from gregor.registries.webhooks import WebhookEditor
from gregor.web.request import JSON
from gregor_ingest.context import IngestContext
from gregor_ingest.guarded_route import Context, GuardedRoute
from gregor_ingest.request import MERGE_PATCH, read_json, read_model, validate_model
from gregor_ingest.responses import body_of, documented, json_response
from gregor_ingest.schemas.examples import NEW_WEBHOOK, WEBHOOK
from gregor_ingest.schemas.webhook import NewWebhook, WebhookPatch, changed, check_url, shown, shown_with_secret

router: Final = APIRouter(route_class=GuardedRoute, tags=["webhooks"])

KEEP_US: Final = 24 * 3_600 * 1_000_000
"""How long the old secret of a rotated webhook signs beside the new one, as those of keys."""
_PATH: Final = "/v1/webhooks/{webhook}"
_BODY: Final = ("malformed_json", "message_too_large", "unsupported_media_type")
_SECRET: Final = {"Cache-Control": "no-store"}
_WISH: Final = {"url": "https://example.com/gregor", "events": ["item.dismissed"], "category_prefix": "user"}


@router.post(
    "/v1/webhooks",
    operation_id="createWebhook",
    summary="Make a webhook",
    status_code=201,
    responses=documented(
        201, "The webhook; its secret is never shown again.", NEW_WEBHOOK, *_BODY, "missing_field", "too_many"
    ),
    openapi_extra=body_of(NewWebhook.model_json_schema(), _WISH),
    response_class=Response,
)
async def create_webhook(request: Request, context: Context) -> Response:
    """It is called for what happens from then on: the answer comes when every process knows of it (half a second)."""
    asked = await read_model(request, context, NewWebhook)
    check_url(asked.url, is_loopback_allowed=context.settings.webhook_loopback)
    now_us = context.clock.now_us()
    made = await _editor(context).create(asked.url, asked.kinds, asked.prefixes, asked.name, now_us)
    await context.webhooks.wait_until_known()
    return json_response(shown_with_secret(made), 201, _SECRET)


@router.get(
    "/v1/webhooks",
    operation_id="listWebhooks",
    summary="All webhooks",
    responses=documented(200, "The webhooks, without their secrets.", {"webhooks": [WEBHOOK]}),
    response_class=Response,
)
async def list_webhooks(context: Context) -> Response:
    """Every webhook, by id; also those that are not called any more."""
    _, kept = await context.store.webhooks.all()
    return json_response({"webhooks": [shown(webhook) for webhook in kept]})


@router.get(
    _PATH,
    operation_id="getWebhook",
    summary="One webhook",
    responses=documented(200, "The webhook, without its secret.", WEBHOOK, "not_found"),
    response_class=Response,
)
async def get_webhook(webhook: str, context: Context) -> Response:
    """What is kept of a webhook."""
    _, kept = await context.store.webhooks.all()
    for each in kept:
        if each.id == webhook:
            return json_response(shown(each))
    raise _no_webhook()


@router.patch(
    _PATH,
    operation_id="patchWebhook",
    summary="Change a webhook",
    responses=documented(200, "The webhook as it is kept now.", WEBHOOK, *_BODY, "not_found"),
    openapi_extra=body_of(WebhookPatch.model_json_schema(), {"enabled": True}),
    response_class=Response,
)
async def patch_webhook(webhook: str, request: Request, context: Context) -> Response:
    """A merge patch (RFC 7396). The secret stays; `enabled: true` takes up one that a 410 ended."""
    patch = validate_model(WebhookPatch, await read_json(request, context, JSON, MERGE_PATCH))
    if patch.url is not None:
        check_url(patch.url, is_loopback_allowed=context.settings.webhook_loopback)
    now_us = context.clock.now_us()
    kept = await _editor(context).change(webhook, lambda known: changed(known, patch, now_us))
    if kept is None:
        raise _no_webhook()
    await context.webhooks.wait_until_known()
    return json_response(shown(kept))


@router.delete(
    _PATH,
    operation_id="deleteWebhook",
    summary="Delete a webhook",
    status_code=204,
    responses=documented(204, "It is gone, also where there was none."),
    response_class=Response,
)
async def delete_webhook(webhook: str, context: Context) -> Response:
    """It is called no more; what waits for it is cancelled."""
    await context.store.webhooks.delete(webhook)
    await context.webhooks.refresh()
    return Response(status_code=204)


@router.post(
    _PATH + "/rotate",
    operation_id="rotateWebhook",
    summary="Give a webhook a new secret",
    responses=documented(200, "The new secret; the old one signs beside it for 24 hours.", NEW_WEBHOOK, "not_found"),
    response_class=Response,
)
async def rotate_webhook(webhook: str, context: Context) -> Response:
    """Calls carry two signatures for 24 hours, so that the receiver may know either secret meanwhile."""
    kept = await _editor(context).rotate(webhook, context.clock.now_us(), KEEP_US)
    if kept is None:
        raise _no_webhook()
    return json_response(shown_with_secret(kept), headers=_SECRET)


def _editor(context: IngestContext) -> WebhookEditor:
    return WebhookEditor(context.store.webhooks)


def _no_webhook() -> Problem:
    return Problem("not_found", "There is no such webhook.")
