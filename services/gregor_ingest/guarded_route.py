"""Route classes and dependencies: authorization before anything else, strict query parameters, the view of a read."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Annotated, Any, Final

from fastapi import Depends, Query, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from gregor.auth.access_problem import AccessProblem
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
from gregor.core.items.read_cost import (
    deliveries_weight,
    forget_weight,
    listing_weight,
    most_removed,
    quiet_hours_weight,
    stored_weight,
)
from gregor.core.items.sync import View
from gregor.core.messages.cost import text_weight
from gregor.store.displacement import weigh_displacement
from gregor.web.http_admission import until_read

from .audit import is_audited
from .auth.actor import Actor
from .auth.rules import access_rule
from .context import IngestContext
from .rate_limits import REQUESTS
from .request import parse_query
from .schemas.fields import NAME_SCHEMA, PREFIX_SCHEMA

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


_PLACES: Final = "gregor.places"
"""Key of a scope: the contexts that a request leaves when the client has read its response."""


def _hold_places(app: ASGIApp) -> ASGIApp:
    """Keep the concurrency place of a request until the client has read its response.

    Otherwise a device that reads no responses could have any number of them in memory.
    """

    async def held(scope: Scope, receive: Receive, send: Send) -> None:
        async with AsyncExitStack() as scope[_PLACES]:
            await app(scope, receive, until_read(send))

    return held


class GuardedRoute(APIRoute):
    """A route that authorizes the caller first, and refuses unknown query parameters.

    Building one raises ``KeyError`` if the endpoint has no access rule.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.app = _hold_places(self.app)

    def get_route_handler(self) -> Handler:
        """Return FastAPI's handler, after the checks."""
        handler = super().get_route_handler()
        rule = access_rule(next(iter(self.methods or ())), self.path)
        parameters = dict(_query_parameters(self.dependant))
        repeatable = frozenset(name for name, is_list in parameters.items() if is_list)

        async def guarded(request: Request) -> Response:
            request.scope["gregor.operation"] = self.operation_id
            context: IngestContext = request.app.state.context
            device = request.query_params.get("device")
            actor = await authorized(request.scope, context, device)
            await request.scope[_PLACES].enter_async_context(context.rate_limiter.concurrency(actor))
            return await context.rate_limiter.run(actor, request.scope, REQUESTS, checked(request, context, actor))

        async def authorized(scope: Scope, context: IngestContext, device: str | None) -> Actor:
            try:
                return await context.authorizer.authorize(rule, scope, device)
            except AccessProblem:
                # A request without the right is charged to its key, too. Otherwise its rate would not limit them.
                if (known := context.authorizer.known_key_actor(scope)) is not None:
                    await context.rate_limiter.check_request(known, scope)
                raise

        async def checked(request: Request, context: IngestContext, actor: Actor) -> Response:
            # The request may have waited for other requests of its device.
            await context.authorizer.confirm(request.scope)
            # First, because a refused request costs as much as a valid one.
            await context.rate_limiter.check_request(actor, request.scope)
            # After the rate check, because the audit reads it: a key above its rate would displace events of others.
            request.state.actor = actor
            # FastAPI ignores unknown parameters, but a typo such as "befor" must not read the first page again.
            parse_query(request.scope["query_string"], parameters, repeatable)
            return await handler(request)

        return _audited(guarded) if is_audited(rule) else guarded


def _audited(handler: Handler) -> Handler:
    """Return the handler of a write, with an event in the audit trail for each request of a service key."""

    async def audited(request: Request) -> Response:
        trail = request.app.state.context.audit
        try:
            response = await handler(request)
        except Exception as error:
            await trail.record(request.scope, getattr(request.state, "actor", None), error, _target(request))
            raise
        if request.query_params.get("dry_run") != "true":
            await trail.record(request.scope, request.state.actor, more_target=_target(request) | _created(response))
        return response

    return audited


def add_audit_target(request: Request, **target: str) -> None:
    """Add ids and rights from the body of a request to the target of its audit event."""
    request.state.audit_target = target


def _target(request: Request) -> dict[str, str]:
    target: dict[str, str] = getattr(request.state, "audit_target", {})
    return target


def _created(response: Response) -> dict[str, str]:
    """Return the id of what a request created, from the header ``Location``."""
    location = response.headers.get("location")
    return {} if location is None else {"created": location.rpartition("/")[2]}


def _query_parameters(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    """Yield the query parameters of a route and its dependencies, each with whether it is a list."""
    for field in dependant.query_params:
        yield field.alias, "list[" in str(field.field_info.annotation)
    for dependency in dependant.dependencies:
        yield from _query_parameters(dependency)


class OpenRoute(APIRoute):
    """A route that needs no token. It ignores unknown query parameters: probes and mail clients add some."""

    def get_route_handler(self) -> Handler:
        """Return FastAPI's handler, with the operation's name for the metrics."""
        handler = super().get_route_handler()

        async def named(request: Request) -> Response:
            request.scope["gregor.operation"] = self.operation_id
            return await handler(request)

        return named


# --- Dependencies. They are async, because FastAPI runs sync ones in a thread.


async def _actor(request: Request) -> Actor:
    actor: Actor = request.state.actor
    return actor


async def _context(request: Request) -> IngestContext:
    context: IngestContext = request.app.state.context
    return context


CurrentActor = Annotated[Actor, Depends(_actor)]
"""The authorized caller."""
Context = Annotated[IngestContext, Depends(_context)]
"""The shared objects of the process."""


class ReadLimiter:
    """Charges the work of a read to its caller, before the work. The route has charged 1 for the request already."""

    def __init__(self, request: Request, actor: Actor, context: IngestContext) -> None:
        self._scope = request.scope
        self._actor = actor
        self._limiter = context.rate_limiter
        self._store = context.store
        self._users = context.store.users
        self._agenda = context.store.agenda
        self._clock = context.clock
        self._charged = 1

    async def charge(self, weight: int) -> None:
        """Charge a weight (``core.items.read_cost``). Raise ``rate_limited`` if the caller has less left."""
        await self._limiter.check_request(self._actor, self._scope, weight, taken=self._charged)
        self._charged += weight

    async def charge_stored(self, uid: str, *, has_past: bool) -> None:
        """Charge a read of the live items of a user. ``has_past``: it also reads the items that left."""
        if self._limiter.is_limited(self._actor):
            sizes = await self._users.sizes(uid)
            items = sizes.live + (sizes.gone if has_past else 0)
            await self.charge(stored_weight(items, sizes.live_bytes, sizes.device_dismissals))

    async def charge_sync(self, uid: str, *, has_cursor: bool) -> None:
        """Charge a sync: it reads the live items. After a cursor, it reads those that left too."""
        if self._limiter.is_limited(self._actor):
            sizes = await self._users.sizes(uid)
            removed = min(sizes.gone, most_removed(sizes.live)) if has_cursor else 0
            await self.charge(stored_weight(sizes.live + removed, sizes.live_bytes, sizes.device_dismissals))

    async def charge_forgetting(self, uid: str) -> None:
        """Charge the removal of a device of a user, which reads and compares all live items."""
        if self._limiter.is_limited(self._actor):
            sizes = await self._users.sizes(uid)
            await self.charge(forget_weight(sizes.live, sizes.live_bytes, sizes.device_dismissals))

    async def charge_forgotten_device(self, weight: int) -> None:
        """Charge the weight of a removal that is done to the rate limit of messages, which can go into debt.

        A sign-out is therefore never refused, but the device must wait before it can dismiss the same items again.
        """
        if weight:
            await self._limiter.charge_message(self._actor, self._scope, weight)

    async def charge_displacement(self, uid: str) -> None:
        """Charge the removal of a device of a user to make room for another one."""
        if self._limiter.is_limited(self._actor):
            await self.charge(await weigh_displacement(self._store, uid))

    async def charge_delayed(self, uid: str) -> None:
        """Charge a read of all delayed messages of a user."""
        # Decoding and checking 1,000 messages takes some 50 ms. Redis takes 0.7 ms to add up their lengths, so their
        # number is charged before.
        if self._limiter.is_limited(self._actor):
            await self.charge(listing_weight(await self._agenda.count_delayed(uid)))
            await self.charge(text_weight(await self._agenda.delayed_bytes(uid)) - 1)

    async def charge_delayed_message(self, uid: str, message_id: str) -> None:
        """Charge a read of one delayed message."""
        if self._limiter.is_limited(self._actor):
            await self.charge(text_weight(await self._agenda.delayed_bytes(uid, message_id)) - 1)

    async def charge_preferences(self, uid: str) -> None:
        """Charge a change of some preferences of a user, which reads, compares and writes all of them."""
        if self._limiter.is_limited(self._actor):
            await self.charge(text_weight(await self._store.contacts.preferences_bytes(uid)) - 1)

    async def charge_quiet_hours(self, uid: str) -> None:
        """Charge a change of the quiet hours of a user, which searches for deliveries that wait for their end."""
        if self._limiter.is_limited(self._actor):
            delivered = (await self._users.sizes(uid)).delivered
            # An item may have many deliveries. To count the deliveries of 10,000 items takes Redis 10 ms.
            if delivered:
                await self.charge(quiet_hours_weight(delivered))
                recent = await self._store.ledger.count_recent(uid, self._clock.now_us())
                await self.charge(deliveries_weight(recent))


async def _read_limiter(request: Request, actor: CurrentActor, context: Context) -> ReadLimiter:
    return ReadLimiter(request, actor, context)


CurrentReadLimiter = Annotated[ReadLimiter, Depends(_read_limiter)]
"""Charges the work of a read to the caller."""


def parse_category_filter(prefixes: list[str] | None) -> Prefixes:
    """Return category prefixes in normal form; ``None``: no filter. Raises ``invalid_id`` or ``too_many``."""
    if not prefixes:
        return None
    if len(prefixes) > MAX_FILTER_PREFIXES:
        raise Problem("too_many", f"A filter has at most {MAX_FILTER_PREFIXES} category prefixes.")
    normalized = [normalize_prefix(text) for text in prefixes]
    if None in normalized:
        raise Problem("invalid_id", "A category_prefix has dotted segments, such as user.joined, or is empty for all.")
    return normalize_prefixes(prefix for prefix in normalized if prefix is not None)


async def _view(
    actor: CurrentActor,
    device: Annotated[
        str | None,
        Query(
            description="Read the view of this device. Default: that of the device token, or all items for a key.",
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
    return View(own, intersect(actor.category_filter, parse_category_filter(category_prefix)))


async def _render(
    render: Annotated[
        str | None,
        Query(
            description="A language, such as it-IT. Adds the rendered title, text and link of each item.",
            json_schema_extra={"pattern": "^[A-Za-z0-9_-]{1,35}$"},
        ),
    ] = None,
) -> str | None:
    if render is not None and not is_locale(render):
        raise Problem("invalid", "The query parameter render must be a language, such as it-IT.")
    return render


RenderLocale = Annotated[str | None, Depends(_render)]
"""The language of rendered texts, or ``None`` if the reader wants none."""
CurrentView = Annotated[View, Depends(_view)]
"""The view of a read: a device and the category filter of caller and query."""
