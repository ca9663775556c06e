"""The long-lived objects of one ingest process, made once at startup."""

from __future__ import annotations

from dataclasses import dataclass

from gregor.clock import Clock
from gregor.config.live_settings import LiveSettings
from gregor.config.settings import Settings
from gregor.core.limits import Limits
from gregor.jobs.runner import JobRunner
from gregor.metrics.process import Metrics
from gregor.registries.categories import CategoryRegistry
from gregor.registries.webhooks import WebhookRegistry
from gregor.store.contract.store import Store
from gregor.submission import Submitter
from gregor.tracing.tracer import Tracer
from gregor.web.http_admission import HttpAdmission
from gregor.web.readiness import Readiness

from .audit import AuditTrail
from .auth.authorizer import Authorizer
from .rate_limits import CallerRateLimiter
from .routes.delivery.unsubscriber import Unsubscriber


@dataclass(frozen=True, slots=True)
class IngestContext:
    """The objects that the routes of one process share. Routes get it as a FastAPI dependency
    (``guarded_route.Context``).
    """

    settings: Settings
    live_settings: LiveSettings
    limits: Limits
    store: Store
    clock: Clock
    admission: HttpAdmission
    authorizer: Authorizer
    audit: AuditTrail
    rate_limiter: CallerRateLimiter
    submitter: Submitter
    unsubscriber: Unsubscriber
    metrics: Metrics
    readiness: Readiness
    categories: CategoryRegistry
    webhooks: WebhookRegistry
    jobs: JobRunner
    tracer: Tracer
    webpush_key: str | None = None
    """The public VAPID key, base64url as browsers expect it; ``None`` if Web Push is not configured."""
