"""Category entries over HTTP: reading and changing them, and their effect on messages and reads."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from gregor.reference.store import MemoryStore
from tests.support.api import NOW_S, Api, code_of

JOINED = {"title": "{{ body.keybase }} just joined", "expires_after": "365d", "remind_after": ["4d"], "push": {}}
SET = {"user.joined": JOINED, "sys": {"counts_in_badge": False}}


async def apply(api: Api, entries: dict[str, Any] = SET) -> int:
    answer = await api.call("PUT", "/v1/categories", json={"categories": entries})
    assert answer.status_code == 200, answer.text
    version: int = answer.json()["version"]
    return version


async def state(api: Api, **query: Any) -> dict[str, Any]:
    document: dict[str, Any] = (await api.call("GET", "/v1/users/alice/state", params=query)).json()
    return document


async def test_set_is_applied_listed_and_replaced(api: Api) -> None:
    assert (await api.call("GET", "/v1/categories")).json() == {"version": 0, "categories": {}}

    put = await api.call("PUT", "/v1/categories", json={"categories": SET})
    assert put.json() == {"version": 1, "categories": SET}
    assert (await api.call("GET", "/v1/categories")).json() == {"version": 1, "categories": SET}

    await apply(api, {"follow": {"title": "x"}})
    assert (await api.call("GET", "/v1/categories")).json()["categories"] == {"follow": {"title": "x"}}


async def test_set_may_lack_the_categories_member(api: Api) -> None:
    assert (await api.call("PUT", "/v1/categories", json=SET)).json()["version"] == 1
    read = (await api.call("GET", "/v1/categories")).json()

    assert (await api.call("PUT", "/v1/categories", json=read)).json() == read
    assert code_of(await api.call("PUT", "/v1/categories", json={})) == (422, "schema")
    assert (await api.call("PUT", "/v1/categories", json={"categories": {}})).json()["version"] == 2


async def test_entry_is_put_read_and_deleted(api: Api) -> None:
    path = "/v1/categories/user.joined"
    assert code_of(await api.call("GET", path)) == (404, "not_found")

    assert (await api.call("PUT", path, json=JOINED)).json() == JOINED
    assert (await api.call("GET", path)).json() == JOINED
    assert (await api.call("GET", "/v1/categories")).json() == {"version": 1, "categories": {"user.joined": JOINED}}

    for _ in range(2):
        assert (await api.call("DELETE", path)).status_code == 204
    assert code_of(await api.call("GET", path)) == (404, "not_found")
    assert (await api.call("GET", "/v1/categories")).json()["version"] == 2


async def test_invalid_set_changes_nothing_and_has_pointers(api: Api) -> None:
    await apply(api)
    bad = {"titel": "x", "text": "one\ntwo {{ body.x | uper }}"}

    alone = await api.call("PUT", "/v1/categories/follow", json=bad)
    whole = await api.call("PUT", "/v1/categories", json={"categories": {"follow": bad}})
    bare = await api.call("PUT", "/v1/categories", json={"follow": bad})

    told = [
        {"pointer": "/titel", "detail": 'Unknown field; did you mean "title"?'},
        {"pointer": "/text", "detail": "line 2: Unknown filter uper; did you mean upper?"},
    ]
    assert code_of(alone) == (422, "schema")
    assert alone.json()["errors"] == told
    for answer, inside in ((whole, "/categories/follow"), (bare, "/follow")):
        assert answer.json()["errors"] == [{**each, "pointer": inside + each["pointer"]} for each in told]
    assert (await api.call("GET", "/v1/categories")).json() == {"version": 1, "categories": SET}


async def test_entry_that_another_needs_is_not_deleted(api: Api) -> None:
    await apply(api, {"a": {"title": "x"}, "a.b": {"push": {}}})

    deleted = await api.call("DELETE", "/v1/categories/a")
    put = await api.call("PUT", "/v1/categories/a", json={"text": "y"})

    assert code_of(deleted) == code_of(put) == (422, "schema")
    assert put.json()["errors"][0]["pointer"] == ""
    assert put.json()["errors"][0]["detail"].startswith("/a.b/push: push needs a title")


async def test_dry_run_of_categories_changes_nothing(api: Api) -> None:
    await apply(api)
    query = {"dry_run": "true"}

    good = await api.call("PUT", "/v1/categories", json={"categories": {"a": {"title": "x"}}}, params=query)
    bad = await api.call("PUT", "/v1/categories/a", json={"titel": "x"}, params=query)
    fine = await api.call("PUT", "/v1/categories/a", json={"title": "x"}, params=query)
    gone = await api.call("DELETE", "/v1/categories/sys", params=query)
    back = await api.call("POST", "/v1/categories/rollback", json={"version": 1}, params=query)
    never = await api.call("POST", "/v1/categories/rollback", json={"version": 9}, params=query)

    assert good.json() == {"version": 1, "categories": {"a": {"title": "x"}}}
    assert back.json() == {"version": 1, "categories": SET}
    assert (code_of(bad), code_of(never)) == ((422, "schema"), (404, "not_found"))
    assert (fine.status_code, gone.status_code) == (200, 204)
    for unclear in ("1", "TRUE", "yes", ""):
        answer = await api.call("DELETE", "/v1/categories/sys", params={"dry_run": unclear})
        assert code_of(answer) == (422, "invalid")
    assert (await api.call("GET", "/v1/categories")).json() == {"version": 1, "categories": SET}


async def test_rollback_makes_a_new_version(api: Api) -> None:
    await apply(api)
    await apply(api, {"user.joined": {"title": "wrong"}})

    back = await api.call("POST", "/v1/categories/rollback", json={"version": 1})

    assert back.json() == {"version": 3, "categories": SET}
    again = await api.call("POST", "/v1/categories/rollback", content=b'{"version":1.0}')
    assert again.json() == {"version": 3, "categories": SET}
    assert code_of(await api.call("POST", "/v1/categories/rollback", json={"version": 9})) == (404, "not_found")
    assert code_of(await api.call("POST", "/v1/categories/rollback", json={})) == (422, "missing_field")


async def test_repeated_set_makes_no_new_version(api: Api) -> None:
    assert await apply(api) == await apply(api) == 1
    # Values that are equal in Python, but not in JSON.
    sent = await api.call("PUT", "/v1/categories/sys", json={"counts_in_badge": 0})
    assert code_of(sent) == (422, "schema")


async def test_invalid_category_name_is_refused(api: Api) -> None:
    for name in ("a..b", "a:b", "a."):
        assert code_of(await api.call("PUT", f"/v1/categories/{name}", json={})) == (422, "invalid_id")


async def test_preview_renders_an_item(api: Api) -> None:
    entry = {
        **JOINED,
        "text": "{{ body.x }}",
        "link": "app://people/{{ body.x }}",
        "email": {"html": "<b>{{ title }}</b>"},
        "locales": {"it": {"title": "è"}},
    }
    await apply(api, {"user.joined": entry})
    path = "/v1/categories/user.joined/preview"

    plain = await api.call("POST", path, json={"body": {"keybase": "<kb>", "x": 1}})
    italian = await api.call("POST", path, json={"body": {}, "locale": "it-IT"})
    unknown = await api.call("POST", "/v1/categories/other/preview", json={"body": None})

    title = "<kb> just joined"
    assert plain.json() == {
        "title": title,
        "text": "1",
        "link": "app://people/1",
        "subject": title,
        "html": "<b>&lt;kb&gt; just joined</b>",
    }
    assert italian.json()["title"] == "è"
    assert unknown.json() == {
        **dict.fromkeys(("title", "text", "link", "subject", "html")),
        "warnings": ['"other" has no entry; it has the defaults'],
    }


async def test_preview_below_an_entry_names_it(api: Api) -> None:
    await apply(api)

    answer = await api.call("POST", "/v1/categories/user.joined.late/preview", json={"body": {"keybase": "kbob"}})

    assert answer.json()["title"] == "kbob just joined"
    assert answer.json()["warnings"] == ['"user.joined.late" has no entry; it inherits from "user.joined"']


async def test_preview_renders_a_summary_without_schema(api: Api) -> None:
    many = {"window": "10m", "at_least": 3, "title": "{{ count }}: {{ items | map(attribute='id') | join(' ') }}"}
    await apply(api, {"user.joined": {**JOINED, "aggregate": many, "body_schema": {"required": ["keybase"]}}})
    sample = [{"id": "a", "body": None}, {"id": "b", "body": None}]
    body = {"summary": {"count": 7, "since": 5, "sample": sample}}

    answer = await api.call("POST", "/v1/categories/user.joined/preview", json={"body": body})

    assert answer.json()["title"] == "7: a b"


async def test_preview_reports_rendering_errors(api: Api) -> None:
    entry = {"title": "x\n{{ 1 / body.n }}", "body_schema": {"required": ["n"]}}
    await apply(api, {"a": entry})

    failed = await api.call("POST", "/v1/categories/a/preview", json={"body": {"n": 0}})
    misfit = await api.call("POST", "/v1/categories/a/preview", json={"body": {}})

    [error] = failed.json()["errors"]
    assert error["pointer"] == "/title"
    assert error["detail"].startswith("line 2: ") and "division by zero" in error["detail"]
    assert misfit.json()["errors"][0]["pointer"] == "/body/n"


async def test_preview_refuses_a_body_that_takes_too_long_to_check(api: Api) -> None:
    await apply(api, {"a": {"body_schema": {"items": {"enum": [number + 0.5 for number in range(1_000)]}}}})
    answer = await api.call("POST", "/v1/categories/a/preview", json={"body": [999.5] * 2_000})
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/body"]
    assert "takes too long to check" in answer.json()["detail"]


async def test_preview_does_not_block_other_requests(api: Api) -> None:
    """The event loop runs on while the templates of a preview use all of their CPU time."""
    step = "{% if b | upper | lower == 'q' %}q{% endif %}"
    busy = "{% for a in body %}{% for b in body %}" + step + "{% endfor %}{% endfor %}"
    await apply(api, {"a": {"title": busy, "text": busy, "link": busy}})
    begun, longest_s, last = time.monotonic(), 0.0, time.monotonic()
    preview = asyncio.create_task(api.call("POST", "/v1/categories/a/preview", json={"body": ["x" * 90] * 150}))

    while not preview.done():
        await asyncio.sleep(0)
        longest_s, last = max(longest_s, time.monotonic() - last), time.monotonic()

    assert "too many steps" in preview.result().text
    assert longest_s < (last - begun) / 2


async def test_items_get_default_times_of_the_category(api: Api) -> None:
    await apply(api)
    await api.create("alice", "aa", times={"created": NOW_S})
    await api.create("alice", "bb", times={"created": NOW_S, "expires": "+60", "remind_at": ["+30"]})
    await api.create("alice", "cc", category="other", times={"created": NOW_S})
    await api.create("alice", "dd", times={"created": NOW_S, "expires": None, "remind_at": []})

    items = (await state(api))["items"]

    typed = {"created": NOW_S, "expires": NOW_S + 365 * 86_400, "remind_at": [NOW_S + 4 * 86_400]}
    assert items["aa"]["times"] == items["dd"]["times"] == typed
    assert items["bb"]["times"] == {"created": NOW_S, "expires": NOW_S + 60, "remind_at": [NOW_S + 30]}
    assert items["cc"]["times"] == {"created": NOW_S}


async def test_repeat_is_a_duplicate_after_a_new_set(api: Api) -> None:
    await api.create("alice", "aa", body={"keybase": "kb"})
    await apply(api)

    again = await api.create("alice", "aa", body={"keybase": "kb"})
    as_it_went_out = await api.create("alice", "aa", times={"expires": "+31536000"}, body={"keybase": "kb"})

    assert again.json()["ignored"] == {"aa": "duplicate"}
    assert as_it_went_out.json()["ignored"] == {"aa": "conflict"}


async def test_body_schema_error_has_a_pointer(api: Api) -> None:
    schema = {
        "type": "object",
        "required": ["keybase"],
        "properties": {"n": {"type": "array", "items": {"type": "integer"}}},
    }
    await apply(api, {"user": {"body_schema": schema}})

    missing = await api.create("alice", "aa", body={})
    wrong = await api.create("alice", "a/a".replace("/", "."), body={"keybase": "kb", "n": [1, "2"]})
    fine = await api.create("alice", "aa", body={"keybase": "kb", "n": [1]})
    other = await api.create("alice", "bb", category="other", body=1)

    assert code_of(missing) == code_of(wrong) == (422, "schema")
    assert [error["pointer"] for error in missing.json()["errors"]] == ["/body/create/aa/body/keybase"]
    assert [error["pointer"] for error in wrong.json()["errors"]] == ["/body/create/a.a/body/n/1"]
    assert (fine.status_code, other.status_code) == (200, 200)


async def test_batch_applies_category_entries(api: Api) -> None:
    await apply(api, {"user": {"body_schema": {"type": "object"}, "expires_after": 60}})
    create = {"aa": {"category": "user", "times": {"created": NOW_S}, "body": {}}}
    lines = [
        {"uid": "alice", "system": "gregor", "body": {"create": create}},
        {"uid": "bob", "system": "gregor", "body": {"create": {"aa": {"category": "user", "body": 1}}}},
    ]

    good, bad = (await api.call("POST", "/v1/messages", json=lines)).json()

    assert (await state(api))["items"]["aa"]["times"]["expires"] == NOW_S + 60
    assert good["receipt"]["created"] == ["aa"]
    assert bad["problem"]["code"] == "schema"


async def test_badge_counts_only_counting_categories(api: Api) -> None:
    await apply(api)
    for item_id, category in (("a", "user.joined"), ("b", "sys"), ("c", "sys.quiet"), ("d", "system")):
        await api.create("alice", item_id, category)

    assert (await state(api))["badge"] == 2
    assert (await state(api, category="sys"))["badge"] == 0


async def test_render_adds_texts_in_the_language(api: Api) -> None:
    entry = {
        "title": "{{ body.k }} joined",
        "link": "app://{{ body.k }}",
        "locales": {"it": {"title": "ecco {{ body.k }}"}},
    }
    await apply(api, {"user.joined": entry})
    await api.create("alice", "aa", body={"k": "kb"})
    await api.create("alice", "bb", category="plain")

    plain, italian = await state(api), await state(api, render="it_IT")
    past = await state(api, render="en", at=NOW_S)
    full = (await api.call("GET", "/v1/users/alice/sync", params={"render": "de"})).json()
    empty = (await api.call("GET", "/v1/users/bob/sync", params={"render": "de"})).json()

    item = (await api.call("GET", "/v1/users/alice/items/aa", params={"render": "it"})).json()
    history = (await api.call("GET", "/v1/users/alice/history", params={"render": "it"})).json()

    assert item["rendered"] == history["rendered"] == italian["rendered"]
    assert "rendered" not in plain
    assert italian["rendered"] == {"aa": {"title": "ecco kb", "text": None, "link": "app://kb"}}
    assert italian["items"] == plain["items"] and italian["digest"] == plain["digest"]
    assert past["rendered"] == full["rendered"] == {"aa": {"title": "kb joined", "text": None, "link": "app://kb"}}
    assert "rendered" not in empty


async def test_etag_depends_on_language_and_entries(api: Api) -> None:
    await apply(api)
    await api.create("alice", "aa", body={"keybase": "kb"})

    async def status(etag: str, **query: str) -> int:
        answer = await api.call("GET", "/v1/users/alice/state", params=query, headers={"If-None-Match": etag})
        return answer.status_code

    tag = (await api.call("GET", "/v1/users/alice/state", params={"render": "it"})).headers["etag"]
    assert await status(tag, render="it") == 304
    assert await status(tag) == await status(tag, render="en") == 200
    await apply(api, {"user.joined": {"title": "new"}})
    assert await status(tag, render="it") == 200


async def test_other_process_loads_the_new_set() -> None:
    async with Api() as one, Api(store=one.store) as other:
        assert isinstance(one.store, MemoryStore)
        await apply(one)
        await other.app.state.context.categories.refresh()
        await other.create("alice", "aa", times={"created": NOW_S})

        assert (await state(other))["items"]["aa"]["times"]["expires"] == NOW_S + 365 * 86_400


@pytest.mark.parametrize("path", ["/v1/categories", "/v1/categories/user.joined"])
async def test_too_large_set_is_refused(api: Api, path: str) -> None:
    assert code_of(await api.call("PUT", path, json={"a": {"text": "x" * 1_100_000}})) == (413, "message_too_large")


async def test_oldest_items_over_max_live_are_displaced(api: Api) -> None:
    await apply(api, {"news": {"max_live": 2}})

    for number in range(4):
        created = {"created": NOW_S - 60 + number}
        await api.create("alice", f"n{number}", "news.sport", times=created)

    assert list((await state(api))["items"]) == ["n2", "n3"]
    gone = (await api.call("GET", "/v1/users/alice/items/n0")).json()["gone"]
    assert gone["reason"] == "displaced"
