"""The OpenAPI document: FastAPI describes the ordinary routes, the models give the schemas, hot routes are added.

Clients are generated from it (tests/generators), so operation ids and component names are part of the API.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gregor import __version__
from gregor_ingest.auth.rules import ACCESS_RULES, DELIVERY_ID, DeviceAccess
from gregor_ingest.responses import component_name, component_reference, documented, problems
from gregor_ingest.routes.messages.durability import VALUES

from . import device, documents, export, requests, responses, webhook
from .examples import BATCH, BATCH_ANSWER, MESSAGE, RECEIPT
from .fields import NAME_SCHEMA, USER_ID_SCHEMA

DESCRIPTION: Final = (
    "Keeps one JSON blob of badge-like state per user in sync over all devices and the server. "
    "Send `Authorization: Bearer` with a service key or a device token; each operation says which it accepts. "
    "Probes, metrics, the public key of Web Push and unsubscribe links need no token."
)
TAGS: Final = {
    "messages": "Create and dismiss items, and send messages of other systems.",
    "reads": "State, sync and history of a user.",
    "devices": "Registration of devices, presence, and revocation of device tokens.",
    "contact": "E-mail address, quiet hours, preferences, suppressed addresses, and unsubscribe links.",
    "deliveries": "Push notifications and e-mails: states, reasons and dead letters.",
    "tickets": "Tickets for streams of pages that cannot set a header.",
    "categories": "Notification types.",
    "webhooks": "Calls to backends after events.",
    "keys": "Service keys.",
    "administration": "Reset, export and delete users.",
    "probes": "Health and metrics, for operators.",
}
"""The tags, in the order in which a new user needs them."""

_MESSAGE_ERRORS: Final = (
    "malformed_json", "category_not_allowed", "state_full", "too_many_dismissals", "id_reused", "message_too_large",
    "unsupported_media_type", "missing_field", "contradictory", "schema", "body_too_large", "too_many",
    "created_in_future", "end_in_future", "number_out_of_range", "time_out_of_range", "no_replicas",
    "not_replicated",
)  # fmt: skip
_IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The id of the message, instead of the field `id`.",
    "schema": NAME_SCHEMA,
}
_DURABILITY: Final = {
    "name": "Gregor-Durability",
    "in": "header",
    "required": False,
    "description": "`replicated`: respond when replicas of the store have the message, too.",
    "schema": {"type": "string", "enum": list(VALUES), "default": "default"},
}
_UID: Final = {"name": "uid", "in": "path", "required": True, "schema": USER_ID_SCHEMA, "example": "alice"}
_DRY_RUN: Final = {
    "name": "dry_run",
    "in": "query",
    "description": "`true`: change nothing, and return what the message would do and whom it would notify.",
    "schema": {"type": "boolean", "default": False},
}


def _ndjson(values: list[Any]) -> str:
    return "".join(f"{json.dumps(value, ensure_ascii=False)}\n" for value in values)


_HOT_ROUTES: Final[dict[str, dict[str, Any]]] = {
    "/v1/users/{uid}/messages": {
        "operationId": "sendMessage",
        "summary": "Send a message",
        "description": "Create and dismiss items, reset the user, or send a message of another system. Safe to repeat.",
        "tags": ["messages"],
        "parameters": [_UID, _IDEMPOTENCY_KEY, _DURABILITY, _DRY_RUN],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": component_reference("Message"), "example": MESSAGE}},
        },
        "responses": documented(200, "The receipt: what the message did.", "Accepted", RECEIPT, *_MESSAGE_ERRORS),
    },
    "/v1/messages": {
        "operationId": "sendMessages",
        "summary": "Send a batch of messages",
        "description": "Each line goes to one or several users. An invalid line does not affect the others.",
        "tags": ["messages"],
        "parameters": [_DURABILITY],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"type": "array", "items": component_reference("Line")},
                    "example": BATCH,
                },
                "application/x-ndjson": {"schema": {"type": "string"}, "example": _ndjson(BATCH)},
            },
        },
        "responses": documented(
            200,
            "The receipt or the error of each pair of line and uid, in order, in the media type of the request.",
            "Outcomes",
            BATCH_ANSWER,
            "malformed_json",
            "batch_too_large",
            "unsupported_media_type",
            "no_replicas",
        ),
    },
}


def build_document(app: FastAPI, paths: set[str]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the endpoints at ``paths``."""
    document = get_openapi(
        title="Gregor", version=__version__, description=DESCRIPTION, openapi_version="3.1.0", routes=app.routes
    )
    document["info"]["license"] = {"name": "Apache-2.0", "identifier": "Apache-2.0"}
    # Relative: the document is served by the process that it describes.
    document["servers"] = [{"url": "/", "description": "The server of this document."}]
    _restore_nulls(app, document["paths"])
    described = document["paths"] | {
        path: document["paths"].get(path, {}) | {"post": operation}
        for path, operation in _HOT_ROUTES.items()
        if path in paths
    }
    document["paths"] = dict(sorted(described.items()))
    used = {tag for operations in described.values() for operation in operations.values() for tag in operation["tags"]}
    document["tags"] = [{"name": name, "description": text} for name, text in TAGS.items() if name in used]
    document["components"] = {"schemas": dict(sorted(_schemas().items())), "securitySchemes": _SECURITY_SCHEMES}
    document["components"]["headers"] = _RATE_LIMIT_HEADERS
    # Rules of the access table apply to all operations, so they are added at the end.
    _complete(document["paths"])
    if "/v1/messages" in document["paths"]:
        content = document["paths"]["/v1/messages"]["post"]["responses"]["200"]["content"]
        content["application/x-ndjson"] = {"schema": {"type": "string"}, "example": _ndjson(BATCH_ANSWER)}
    return document


_RATE_LIMIT_HEADERS: Final = {
    "RateLimit-Policy": {
        "description": "The limits of the request: `q` may be sent at once, and again after `w` seconds.",
        "schema": {"type": "string"},
        "example": '"messages";q=50;w=5',
    },
    "RateLimit": {
        "description": "What is left: `r` more requests now, all again in `t` seconds; if `r` is 0, the next in `t`.",
        "schema": {"type": "string"},
        "example": '"messages";r=49;t=1',
    },
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}, "example": 1},
}
"""Headers of limited operations. A service key without a rate gets none but `Retry-After`."""

_SECURITY_SCHEMES: Final = {
    "serviceKey": {"type": "http", "scheme": "bearer", "bearerFormat": "gk_<id>_<secret>"},
    "deviceToken": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
}


# --- Components: the JSON Schemas of all models


def _schemas() -> dict[str, Any]:
    _, generated = msgspec.json.schema_components(
        [*_classes(documents, msgspec.Struct), *_classes(responses, msgspec.Struct), *_classes(export, msgspec.Struct)],
        ref_template="#/components/schemas/{name}",
    )
    # Two generators: msgspec for what the service encodes, pydantic for what it validates.
    models = [model for module in (requests, device, webhook) for model in _classes(module, BaseModel)]
    _, bodies = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    named = {component_name(name): _with_component_names(schema) for name, schema in generated.items()}
    schemas: dict[str, Any] = _without_titles(bodies["$defs"])
    return named | schemas | documents.COMPOSED | responses.COMPOSED | _export_line()


def _export_line() -> dict[str, Any]:
    """Return the component of any line of an export."""
    return {"ExportLine": {"oneOf": [component_reference(line) for line in export.LINES]}}


def _classes(module: ModuleType, base: type) -> Iterator[Any]:
    for value in vars(module).values():
        is_own = isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
        if is_own and not value.__name__.startswith("_") and value is not requests.RequestModel:
            yield value


def _with_component_names(schema: Any) -> Any:
    """Return a schema whose references use component names, without titles: these are class names."""
    if isinstance(schema, list):
        return [_with_component_names(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    renamed = {name: _with_component_names(part) for name, part in schema.items()}
    if isinstance(schema.get("$ref"), str):
        renamed["$ref"] = component_reference(schema["$ref"].rpartition("/")[2])["$ref"]
    if isinstance(schema.get("title"), str):
        del renamed["title"]
    if renamed.get("required") == []:
        del renamed["required"]
    return renamed


def _without_titles(schema: Any) -> Any:
    """Return a schema without the titles that pydantic makes from field names."""
    if isinstance(schema, list):
        return [_without_titles(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: _without_titles(part) for name, part in schema.items() if not (name == "title" and isinstance(part, str))
    }


# --- Operations


def _restore_nulls(app: FastAPI, paths: dict[str, Any]) -> None:
    """Put responses and request bodies back as the routes declare them: FastAPI removes null from examples."""
    for route in app.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            for method in route.methods or ():
                operation = paths[route.path_format][method.lower()]
                operation["responses"] |= {str(status): response for status, response in route.responses.items()}
                operation |= route.openapi_extra or {}


def _complete(paths: dict[str, Any]) -> None:
    """Add the security of every operation, complete its errors, and simplify its parameters."""
    rules = {(rule.method.lower(), rule.path): rule for rule in ACCESS_RULES}
    for path, operations in paths.items():
        for method, operation in operations.items():
            rule = rules.get((method, path))
            operation["security"] = []
            if rule is not None:
                operation["security"].append({"serviceKey": sorted(rule.scopes)})
                scopes = " or ".join(f"`{scope}`" for scope in sorted(rule.scopes))
                access = f"Service keys need the scope {scopes}."
                if rule.device_access is not DeviceAccess.NOTHING:
                    operation["security"].append({"deviceToken": []})
                    access += f" Device tokens: {rule.device_access.value}."
                operation["description"] = f"{operation['description']}\n\n{access}"
                _add_rate_limit_headers(operation["responses"])
            else:
                operation["description"] = f"{operation['description']}\n\nNo token is needed."
                operation["responses"] |= _by_status(problems("origin_not_allowed", "internal"))
            operation["responses"] = _by_status(operation["responses"])
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path" and parameter["name"] not in ("token", DELIVERY_ID):
                    parameter["schema"] = NAME_SCHEMA
                    if parameter["name"] == "uid":
                        parameter |= {"schema": USER_ID_SCHEMA, "example": "alice"}
                elif parameter["in"] == "query":
                    parameter["schema"] = _without_null(parameter["schema"])


def _add_rate_limit_headers(responses_by_status: dict[Any, Any]) -> None:
    """Add the headers of rate limits to the successes and to 429."""
    for status, response in responses_by_status.items():
        names = ["RateLimit", "RateLimit-Policy"] if str(status)[0] in "23" else []
        if str(status) == "429":
            names = ["RateLimit", "RateLimit-Policy", "Retry-After"]
        if names:
            references = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
            responses_by_status[status] = {**response, "headers": {**response.get("headers", {}), **references}}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a query parameter without null, which a query cannot express."""
    types = [part for part in schema.get("anyOf", ()) if part != {"type": "null"}]
    kept = {name: value for name, value in schema.items() if name not in ("anyOf", "title", "description", "default")}
    return {**(types[0] if types else {}), **kept} | ({"default": schema["default"]} if "default" in schema else {})


def _by_status(responses_by_status: dict[Any, Any]) -> dict[str, Any]:
    """Return the responses sorted by status, without FastAPI's own validation error."""
    kept = {
        str(status): response
        for status, response in responses_by_status.items()
        if "HTTPValidationError" not in str(response)
    }
    return {status: kept[status] for status in sorted(kept)}
