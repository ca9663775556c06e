"""Ordinary routes, guarded: the table decides before FastAPI reads anything; unknown query parameters are refused."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from gregor.core.categories.policy import is_locale
from gregor.core.errors import Problem
from gregor.core.ids import (
    BACKEND,
    MAX_FILTER_PREFIXES,
    Prefixes,
    intersect,
    is_name,
    name_error,
    normalize_prefix,
    normalize_prefixes,
)
from gregor.core.items.sync import View

from .auth import Actor, Authorizer, access_rule
from .context import IngestContext
from .request import parse_query
from .schemas.requests import NAME_SCHEMA, PREFIX_SCHEMA

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class GuardedRoute(APIRoute):
    """A route of the table. It cannot be built without a row (``KeyError``)."""

    def get_route_handler(self) -> Handler:
        """FastAPI's handler behind the gate."""
        handler = super().get_route_handler()
        rule = access_rule(next(iter(self.methods or ())), self.path)
        parameters = dict(_query_parameters(self.dependant))
        repeatable = frozenset(name for name, is_list in parameters.items() if is_list)

        async def guarded(request: Request) -> Response:
            request.scope["gregor.operation"] = self.operation_id
            authorizer: Authorizer = request.app.state.context.authorizer
            authorization = request.scope["gregor.headers"].get(b"authorization")
            device = request.query_params.get("device")
            request.state.actor = await authorizer.authorize(rule, authorization, request.path_params, device)
            parse_query(request.scope["query_string"], parameters, repeatable)
            return await handler(request)

        return guarded


def _query_parameters(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    """The query parameters of a route and all it depends on, and whether each is a list."""
    for field in dependant.query_params:
        yield field.alias, "list[" in str(field.field_info.annotation)
    for dependency in dependant.dependencies:
        yield from _query_parameters(dependency)


class OpenRoute(APIRoute):
    """A route that needs no token; unknown query parameters are its own affair: probes and mail clients add some."""

    def get_route_handler(self) -> Handler:
        """FastAPI's handler, named for the figures."""
        handler = super().get_route_handler()

        async def named(request: Request) -> Response:
            request.scope["gregor.operation"] = self.operation_id
            return await handler(request)

        return named


async def _actor(request: Request) -> Actor:
    actor: Actor = request.state.actor
    return actor


async def _parts(request: Request) -> IngestContext:
    context: IngestContext = request.app.state.context
    return context


CurrentActor = Annotated[Actor, Depends(_actor)]
"""The caller, admitted."""
Context = Annotated[IngestContext, Depends(_parts)]
"""What the process works with."""


def prefixes_of(texts: list[str] | None) -> Prefixes:
    """A filter from the wire: ``None`` where there is none. ``invalid_id`` for what is no prefix; ``too_many``."""
    if not texts:
        return None
    if len(texts) > MAX_FILTER_PREFIXES:
        raise Problem("too_many", f"A filter names at most {MAX_FILTER_PREFIXES} prefixes.")
    normal = [normalize_prefix(text) for text in texts]
    if None in normal:
        raise Problem("invalid_id", "A category_prefix is dotted segments, such as user.joined, or nothing for all.")
    return normalize_prefixes(prefix for prefix in normal if prefix is not None)


async def _view(
    actor: CurrentActor,
    device: Annotated[
        str | None,
        Query(
            description="Whose view: for a device token its own; for a key any, or none for every item.",
            json_schema_extra=NAME_SCHEMA,
        ),
    ] = None,
    category_prefix: Annotated[
        list[str] | None,
        Query(
            description="Only categories under this prefix. May be repeated.",
            json_schema_extra={"items": PREFIX_SCHEMA},
        ),
    ] = None,
) -> View:
    if device is not None and not is_name(device):
        raise Problem("invalid_id", f"The query parameter device is not a valid name. {name_error(device)}")
    own = actor.caller.device if actor.caller is not None else device or BACKEND
    return View(own, intersect(actor.category_filter, prefixes_of(category_prefix)))


async def _render(
    render: Annotated[
        str | None,
        Query(
            description="A language, such as it-IT: title, text and link of each item come beside the items.",
            json_schema_extra={"pattern": "^[A-Za-z0-9_-]{1,35}$"},
        ),
    ] = None,
) -> str | None:
    if render is not None and not is_locale(render):
        raise Problem("invalid", "The query parameter render is a language, such as it-IT.")
    return render


RenderLocale = Annotated[str | None, Depends(_render)]
"""The language that the reader's screen wants words in; none where it wants none."""

CurrentView = Annotated[View, Depends(_view)]
"""The view that a read is of: of a device token its own, of a key the one it names; within its categories."""
