"""The OpenAPI document: what FastAPI derives of the ordinary routes, and by hand the two hot ones."""

from __future__ import annotations

import json
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from gregor import __version__
from gregor.core.errors import ERRORS
from gregor_ingest.auth import ACCESS_RULES, DELIVERY, DeviceAccess
from gregor_ingest.responses import documented, problems

from .examples import BATCH, BATCH_ANSWER, MESSAGE, RECEIPT
from .requests import CATEGORY_SCHEMA, NAME_SCHEMA, PREFIX_SCHEMA, USER_ID_SCHEMA
from .responses import ANSWERS, SCHEMAS

DESCRIPTION: Final = (
    "Keeps one JSON blob of badge-like state per user in sync over all devices and the server. "
    "Every endpoint but the probes needs Authorization: Bearer, a service key or a device token."
)

SECTIONS: Final = {
    "messages": "What backends and devices send.",
    "reads": "What a user has, and had.",
    "devices": "Who is there, and whose tokens hold.",
    "contact": "How a user may be reached, when, and what about.",
    "deliveries": "What was told to who was not looking, and why not.",
    "tickets": "Streams for pages that cannot set a header.",
    "categories": "Notification types.",
    "webhooks": "What happened, to backends.",
    "keys": "Service keys.",
    "administration": "Flush and forget.",
    "probes": "For those who run it.",
}
"""The tags in the order in which somebody new needs them; `/docs` follows it."""

_MESSAGE_CODES: Final = (
    "malformed_json", "category_not_allowed", "state_full", "too_many_dismissals", "id_reused", "message_too_large",
    "unsupported_media_type", "missing_field", "contradictory", "schema", "body_too_large", "too_many",
    "created_in_future", "end_in_future", "number_out_of_range", "time_out_of_range",
)  # fmt: skip
_IDEMPOTENCY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The message's id, in place of the field `id`.",
    "schema": NAME_SCHEMA,
}
_UID: Final = {"name": "uid", "in": "path", "required": True, "schema": USER_ID_SCHEMA}

PROBLEM_SCHEMA: Final = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": {"type": "string", "description": "Where the code is explained: /errors#<code>."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "enum": list(ERRORS)},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}
_TIME: Final = {"type": ["number", "null"], "minimum": 0, "maximum": (1 << 33) - 1}
_TIME_OR_OFFSET: Final = {
    "anyOf": [_TIME, {"type": "string", "pattern": r"^\+[0-9]{1,10}(\.[0-9]{1,6})?$"}],
}
_ITEM_SCHEMA: Final = {
    "type": "object",
    "required": ["category"],
    "additionalProperties": False,
    "properties": {
        "times": {
            "type": ["object", "null"],
            "additionalProperties": False,
            "properties": {
                "created": _TIME,
                "expires": _TIME_OR_OFFSET,
                "remind_at": {"type": ["array", "null"], "maxItems": 16, "items": _TIME_OR_OFFSET},
            },
        },
        "for_device": {"type": ["string", "null"], "description": "A device, `*` for each device, null for all."},
        "category": CATEGORY_SCHEMA,
        "body": {"description": "Any JSON, up to 16 KiB."},
    },
}
_DISMISS_SCHEMA: Final = {
    "type": ["object", "null"],
    "additionalProperties": False,
    "properties": {
        "ids": {"type": ["array", "null"], "items": NAME_SCHEMA},
        "intervals": {
            "type": ["array", "null"],
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "category": {**CATEGORY_SCHEMA, "type": ["string", "null"]},
                    "category_prefix": {**PREFIX_SCHEMA, "type": ["string", "null"]},
                    "begin": _TIME,
                    "end": _TIME,
                    "skip": {"type": ["array", "null"], "items": NAME_SCHEMA},
                },
            },
        },
    },
}
_BODY: Final = {
    "description": "For `gregor`: create, dismiss or flush. For any other system: any JSON.",
    "anyOf": [
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "create": {"type": ["object", "null"], "additionalProperties": {"$ref": "#/components/schemas/Item"}},
                "dismiss": {"$ref": "#/components/schemas/Dismissal"},
                "flush": {"type": ["boolean", "null"], "description": "`true`, alone in its message."},
            },
        },
        {},
    ],
}
_MEMBERS: Final = {
    "system": {**CATEGORY_SCHEMA, "description": "`gregor`, or an external system."},
    "body": _BODY,
    "id": {**NAME_SCHEMA, "type": ["string", "null"], "description": "The message's id: it is idempotent by it."},
    "device": {**NAME_SCHEMA, "type": ["string", "null"], "description": "Who sends (service keys)."},
    "not_before": {**_TIME, "description": "Accepted now, committed then: the answer is its `id` and this time."},
}
_MESSAGE_SCHEMA: Final = {
    "type": "object",
    "required": ["system", "body"],
    "additionalProperties": False,
    "properties": _MEMBERS,
}
_LINE_SCHEMA: Final = {
    "type": "object",
    "required": ["system", "body"],
    "additionalProperties": False,
    "properties": {
        **_MEMBERS,
        "uid": USER_ID_SCHEMA,
        "uids": {"type": "array", "minItems": 1, "maxItems": 1_000, "items": USER_ID_SCHEMA},
    },
}
_DRY_RUN: Final = {
    "name": "dry_run",
    "in": "query",
    "description": "`true`: tell what the message would do, and who would be told of it; do nothing.",
    "schema": {"type": "boolean", "default": False},
}


def _lines(values: list[Any]) -> str:
    """The same as NDJSON."""
    return "".join(f"{json.dumps(value, ensure_ascii=False)}\n" for value in values)


_HOT: Final[dict[str, dict[str, Any]]] = {
    "/v1/users/{uid}/messages": {
        "operationId": "sendMessage",
        "summary": "Send one message",
        "description": "Creates, dismisses, flushes, or tells an external system. Repeating it is safe.",
        "tags": ["messages"],
        "parameters": [_UID, _IDEMPOTENCY, _DRY_RUN],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Message"}, "example": MESSAGE}},
        },
        "responses": documented(200, "The receipt: what it did.", RECEIPT, *_MESSAGE_CODES),
    },
    "/v1/messages": {
        "operationId": "sendMessages",
        "summary": "Send many messages",
        "description": "Each to one user or several. NDJSON is processed as it is read; a bad line spoils no other.",
        "tags": ["messages"],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"type": "array", "items": {"$ref": "#/components/schemas/Line"}},
                    "example": BATCH,
                },
                "application/x-ndjson": {"schema": {"type": "string"}, "example": _lines(BATCH)},
            },
        },
        "responses": documented(
            200,
            "In the request's type: for each (line, uid), in order, its receipt or its problem.",
            BATCH_ANSWER,
            "malformed_json",
            "batch_too_large",
            "unsupported_media_type",
        ),
    },
}


def document_of(app: FastAPI, paths: set[str]) -> dict[str, Any]:
    """The whole document, of the endpoints at ``paths``."""
    document = get_openapi(
        title="Gregor", version=__version__, description=DESCRIPTION, openapi_version="3.1.0", routes=app.routes
    )
    _as_written(app, document["paths"])
    described = document["paths"] | {path: {"post": operation} for path, operation in _HOT.items() if path in paths}
    document["paths"] = dict(sorted(described.items()))
    used = {tag for operations in described.values() for operation in operations.values() for tag in operation["tags"]}
    document["tags"] = [{"name": name, "description": words} for name, words in SECTIONS.items() if name in used]
    components = document.setdefault("components", {})
    components["schemas"] = {
        "Problem": PROBLEM_SCHEMA,
        "Item": _ITEM_SCHEMA,
        "Dismissal": _DISMISS_SCHEMA,
        "Message": _MESSAGE_SCHEMA,
        "Line": _LINE_SCHEMA,
        **SCHEMAS,
    }
    components["securitySchemes"] = {
        "serviceKey": {"type": "http", "scheme": "bearer", "bearerFormat": "gk_<id>_<secret>"},
        "deviceToken": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    }
    _complete(document["paths"])
    if "/v1/messages" in document["paths"]:
        _with_lines(document["paths"]["/v1/messages"]["post"])
    return document


def _with_lines(operation: dict[str, Any]) -> None:
    """A batch is answered as NDJSON where it came as NDJSON."""
    operation["responses"]["200"]["content"]["application/x-ndjson"] = {
        "schema": {"type": "string"},
        "example": _lines(BATCH_ANSWER),
    }


def _as_written(app: FastAPI, paths: dict[str, Any]) -> None:
    """Put answers and requests back as their routes have them: FastAPI takes every null out of the examples."""
    for route in app.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            for method in route.methods or ():
                operation = paths[route.path_format][method.lower()]
                operation["responses"] |= {str(status): answer for status, answer in route.responses.items()}
                operation |= route.openapi_extra or {}


def _complete(paths: dict[str, Any]) -> None:
    """What holds of every operation: who may call, names in the path, and no answer of FastAPI's own."""
    rows = {(row.method.lower(), row.path): row for row in ACCESS_RULES}
    for path, operations in paths.items():
        for method, operation in operations.items():
            row = rows.get((method, path))
            if row is not None:
                operation["security"] = [{"serviceKey": sorted(row.scopes)}]
                if row.device_access is not DeviceAccess.NOTHING:
                    operation["security"].append({"deviceToken": []})
            else:
                operation["responses"] |= _texts(problems("origin_not_allowed", "internal"))
            operation["responses"] = _shaped(_texts(operation["responses"]), ANSWERS.get(operation["operationId"]))
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path" and parameter["name"] not in ("token", DELIVERY):
                    parameter["schema"] = USER_ID_SCHEMA if parameter["name"] == "uid" else NAME_SCHEMA
                elif parameter["in"] == "query":
                    parameter["schema"] = _plain(parameter["schema"])


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a query parameter without its null, which no query can say."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    kept = {name: value for name, value in schema.items() if name not in ("anyOf", "title", "description", "default")}
    return {**(kinds[0] if kinds else {}), **kept} | ({"default": schema["default"]} if "default" in schema else {})


def _shaped(responses: dict[str, Any], name: str | None) -> dict[str, Any]:
    """The responses, where each that is JSON and no problem has the schema ``name``."""
    if name is None:
        return responses
    shaped = {}
    for status, answer in responses.items():
        content = {**answer.get("content", {})}
        if "application/json" in content:
            content["application/json"] = {
                **content["application/json"],
                "schema": {"$ref": f"#/components/schemas/{name}"},
            }
        shaped[status] = {**answer, "content": content} if content else answer
    return shaped


def _texts(responses: dict[Any, Any]) -> dict[str, Any]:
    kept = {str(status): answer for status, answer in responses.items() if "HTTPValidationError" not in str(answer)}
    return {status: kept[status] for status in sorted(kept)}
