"""The OpenAPI document: complete, consistent, and true for real requests and responses."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gregor.core.categories.fields import CATEGORY_FIELDS
from gregor.core.categories.parse import parse_categories
from gregor.core.errors import ERRORS, Problem
from gregor_ingest.auth.rules import ACCESS_RULES
from gregor_ingest.schemas.documents import (
    AggregateFieldsSchema,
    CategoryEntrySchema,
    EmailFieldsSchema,
    PushFieldsSchema,
)
from gregor_ingest.schemas.examples import DEVICE, FRIEND, RECEIPT, STATE, SYNC
from tests.support.api import EVERY_SCOPE, Api

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


async def document_of(api: Api) -> dict[str, Any]:
    document: dict[str, Any] = (await api.call("GET", "/openapi.json", "")).json()
    return document


async def test_every_access_rule_is_in_the_document(api: Api) -> None:
    document = await document_of(api)
    described = {(method, path): operation for method, path, operation in operations(document)}

    assert document["openapi"] == "3.1.0"
    for rule in ACCESS_RULES:
        security = described[rule.method, rule.path]["security"]
        assert {"serviceKey": sorted(rule.scopes)} in security
        assert ({"deviceToken": []} in security) == (rule.device_access.value != "no")


async def test_operations_have_id_tag_and_summary(api: Api) -> None:
    found = operations(await document_of(api))
    ids = [operation["operationId"] for _, _, operation in found]

    assert len(set(ids)) == len(ids)
    for _, _, operation in found:
        assert operation["tags"] and operation["summary"] and operation["description"]


async def test_tags_are_described_and_ordered(api: Api) -> None:
    document = await document_of(api)

    used = {operation["tags"][0] for operations in document["paths"].values() for operation in operations.values()}
    sections = [tag["name"] for tag in document["tags"]]
    assert set(sections) == used
    assert (sections[0], sections[-1]) == ("messages", "probes")


async def test_responses_are_described_with_examples(api: Api) -> None:
    codes = set()
    for _, _, operation in operations(await document_of(api)):
        for status, answer in operation["responses"].items():
            assert answer["description"]
            problem = answer.get("content", {}).get("application/problem+json")
            if problem is not None:
                assert problem["schema"] == {"$ref": "#/components/schemas/Problem"}
                codes |= set(problem["examples"])
                assert {example["value"]["status"] for example in problem["examples"].values()} == {int(status)}

    assert codes <= set(ERRORS)
    assert set(ERRORS) - codes <= {"method_not_allowed"}


async def test_fastapi_validation_errors_are_removed(api: Api) -> None:
    assert "HTTPValidationError" not in json.dumps(await document_of(api))


async def test_references_resolve(api: Api) -> None:
    document = await document_of(api)
    text = json.dumps(document)

    for part in text.split('"$ref": "')[1:]:
        place: Any = document
        for step in part.partition('"')[0].removeprefix("#/").split("/"):
            place = place[step]


def schemas_in(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object below a value; schemas are among them."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from schemas_in(part)


async def test_discriminators_map_to_components(api: Api) -> None:
    document = await document_of(api)

    mappings = [schema["discriminator"]["mapping"] for schema in schemas_in(document) if "discriminator" in schema]
    assert mappings
    for mapping in mappings:
        for reference in mapping.values():
            assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


async def test_required_members_are_defined(api: Api) -> None:
    for schema in schemas_in((await document_of(api))["components"]):
        if isinstance(schema.get("required"), list):
            assert set(schema["required"]) <= set(schema["properties"])


async def test_const_has_a_type(api: Api) -> None:
    constants = [schema for schema in schemas_in((await document_of(api))["components"]) if schema.get("const") is True]

    assert constants
    assert all(schema.get("type") == "boolean" for schema in constants)


async def test_bounds_use_json_schema_keywords(api: Api) -> None:
    document = await document_of(api)

    spread = document["components"]["schemas"]["ResetAllUsers"]["properties"]["spread"]["anyOf"][0]
    assert (spread["minimum"], spread["maximum"]) == (0, 3_600)
    text = json.dumps(document)
    assert '"ge": ' not in text and '"le": ' not in text
    for path in ("/v1/deliveries/dead", "/v1/contact/suppressions"):
        (before,) = (each for each in document["paths"][path]["get"]["parameters"] if each["name"] == "before")
        assert before["schema"]["minLength"] == 1


async def test_open_operations_say_that_they_need_no_token(api: Api) -> None:
    document = await document_of(api)
    guarded = {(rule.method, rule.path) for rule in ACCESS_RULES}

    for method, path, operation in operations(document):
        assert (operation["security"] == []) == ((method, path) not in guarded)
        assert operation["description"].endswith("No token is needed.") == (operation["security"] == [])
    assert document["servers"] == [{"url": "/", "description": "The server of this document."}]


async def test_revocation_says_what_ends_and_when(api: Api) -> None:
    document = await document_of(api)
    operation = document["paths"]["/v1/users/{uid}/revoke"]["post"]
    members = document["components"]["schemas"]["RevokeTokens"]["properties"]

    for ended in ("connections at once", "no longer present", "push tokens", "Delayed messages"):
        assert ended in operation["description"]
    assert "at once, not at their time" in members["delayed"]["description"]
    assert "clock" in members["issued_before"]["description"]


async def test_request_schemas_are_closed(api: Api) -> None:
    """Unknown fields are refused, so the schemas must refuse them, too."""
    components = (await document_of(api))["components"]["schemas"]
    bodies = [
        content["schema"]
        for _, _, operation in operations(await document_of(api))
        for kind, content in operation.get("requestBody", {}).get("content", {}).items()
        if kind.endswith("json") and "x-ndjson" not in kind
    ]

    names = {schema["$ref"].rpartition("/")[2] for body in bodies for schema in schemas_in(body) if "$ref" in schema}
    names |= {"GregorMessage", "ExternalMessage", "GregorLine", "ExternalLine", "Item", "Dismissal", "Interval"}
    for name in names - {"Message", "Line"}:
        assert components[name].get("additionalProperties", True) is not True, name


@pytest.mark.parametrize(
    ("name", "document", "is_valid"),
    [
        ("DevicePatch", {"push": {"topic": "x"}}, True),
        ("DevicePatch", {"push": None, "locale": "it"}, True),
        ("DeviceRegistration", {"push": {"topic": "x"}}, False),
        ("ContactPatch", {"quiet_hours": {"from": "22:00"}}, True),
        ("ContactDocument", {"quiet_hours": {"from": "22:00"}}, False),
        ("ContactDocument", {"e-mail": "a@example.com"}, False),
        ("PreferencesPatch", {"user": None}, True),
        ("Message", {"system": "gregor", "body": {"create": {}}}, True),
        ("Item", {"category": "a", "times": {"expires": "+1.5d", "remind_at": ["+90"]}}, True),
        ("Item", {"category": "a", "times": {"expires": "1d"}}, False),
        ("Message", {"system": "gregor", "body": "text"}, False),
        ("Message", {"system": "Gregor", "body": {}}, False),
        ("Message", {"system": "kbfs", "body": "text"}, True),
    ],
)
async def test_request_schemas_accept_the_right_documents(api: Api, name: str, document: Any, is_valid: bool) -> None:
    components = (await document_of(api))["components"]

    schema = {"$ref": f"#/components/schemas/{name}", "components": components}
    assert jsonschema_rs.is_valid(schema, document) == is_valid


def test_category_entry_schema_matches_the_parser() -> None:
    tables = {"push": PushFieldsSchema, "email": EmailFieldsSchema, "aggregate": AggregateFieldsSchema}

    assert set(CategoryEntrySchema.__struct_fields__) == set(CATEGORY_FIELDS)
    for name, schema in tables.items():
        with pytest.raises(Problem) as caught:
            parse_categories({"a": {name: dict.fromkeys([*schema.__struct_fields__, "unknown"])}})
        assert [error.pointer for error in caught.value.errors if "Unknown" in error.detail] == [f"/a/{name}/unknown"]


async def test_request_examples_are_valid(api: Api) -> None:
    document = await document_of(api)
    webhook = (await api.call("POST", "/v1/webhooks", json={"url": "https://example.com/"})).json()["id"]
    for method, path, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if content is None:
            continue
        schema = {**content["schema"], "components": document["components"]}
        jsonschema_rs.validate(schema, content["example"])
        token = api.token() if path == "/v1/tickets" else api.key
        url = path.format(uid="alice", device="phone", key="k", name="user.joined", webhook=webhook)
        answer = await api.call(method, url, token, json=content["example"])
        assert answer.status_code < 300, (path, answer.text)


async def test_response_examples_are_valid(api: Api) -> None:
    document = await document_of(api)
    for _, _, operation in operations(document):
        for answer in operation["responses"].values():
            content = answer.get("content", {}).get("application/json")
            if content is not None:
                jsonschema_rs.validate({**content["schema"], "components": document["components"]}, content["example"])
    state = document["paths"]["/v1/users/{uid}/state"]["get"]["responses"]["200"]
    assert state["content"]["application/json"]["example"] == STATE


async def test_json_responses_have_a_schema(api: Api) -> None:
    """Only responses without a body, pages and metrics have none."""
    named, without = {}, set()
    for _, _, operation in operations(await document_of(api)):
        for status, answer in operation["responses"].items():
            kinds = set(answer.get("content", {})) - {"application/problem+json"}
            if "application/json" in kinds:
                named[operation["operationId"]] = answer["content"]["application/json"]["schema"]
            elif status.startswith("2"):
                assert kinds in (set(), {"text/html"}, {"text/plain"}, {"application/x-ndjson"}), operation[
                    "operationId"
                ]
                assert bool(kinds) == (status != "204"), operation["operationId"]
                without.add(operation["operationId"])

    assert all(schema["$ref"].startswith("#/components/schemas/") for schema in named.values())
    assert not named.keys() & without


async def test_components_are_used_and_strict(api: Api) -> None:
    document = await document_of(api)
    text = json.dumps(document)

    for name in document["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text, name
    for name, wrong in [
        ("StoredItem", {"times": {"created": 1}, "category": "a", "body": 1}),
        ("StoredItem", {**FRIEND, "times": {"created": 1, "remind_at": []}}),
        ("Receipt", {**RECEIPT, "unchanged": False}),
        ("Receipt", {**RECEIPT, "ignored": {"a": "gone"}}),
        ("State", {**STATE, "digest": "0"}),
        ("Sync", {**SYNC, "external_gap": False}),
        ("Device", {**DEVICE, "push": {"provider": "apns", "token": "a01d", "sandbox": False}}),
    ]:
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        assert not jsonschema_rs.is_valid(schema, wrong), (name, wrong)


@pytest.mark.parametrize("rule", ACCESS_RULES, ids=lambda rule: f"{rule.method} {rule.path}")
def test_generated_requests_get_documented_responses(rule: Any) -> None:
    api = Api()
    key = asyncio.run(api.make_key(*EVERY_SCOPE))
    schema = schemathesis.openapi.from_asgi("/openapi.json", api.app)

    @given(case=schema[rule.path][rule.method].as_strategy())
    @settings(max_examples=25, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def holds(case: Any) -> None:
        case.headers["Authorization"] = f"Bearer {key}"
        case.call_and_validate(checks=CHECKS)

    holds()
