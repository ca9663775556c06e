"""PURE. Circuit breaker in front of a provider that fails repeatedly or rejects our credentials.

Closed: every send passes. Open: none passes until a deadline. Half-open: one probe passes, and its verdict closes the
breaker or opens it again for longer. If a probe has no verdict after `SLOW_PROBE_S`, another one passes. Errors caused
by one device or one message never open the breaker. A message that the channel refuses by itself changes nothing: the
provider was not asked.

An answer that reports a failure, or a missing answer, may concern only its recipient. It therefore counts once for each
user, and only if the sends of several users fail. The first probe goes to a user without such a failure. If the
provider cannot be reached, each send counts as a failure, unless devices choose its URL (`counts_each_unreachable`).

Rejected credentials stop all sends at once. They, too, may concern only the recipient: a device chooses its APNs topic,
and a mail relay may deny single addresses. The first probe therefore goes to another user. If it succeeds, the user
that caused the stop does not cause another one: only its own sends pause.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from gregor.core.notify.intents import WEBHOOK, WEBPUSH
from gregor_delivery.channels.smtp.responses import is_about_content
from gregor_delivery.channels.verdict import Misconfigured, Refused, Retry, Unknown, Verdict

from .rate_turns import RateTurn

FAILURE_THRESHOLD: Final = 10
"""Failures since the last success that open the breaker."""
FIRST_PAUSE_S: Final = 2.0
LONGEST_PAUSE_S: Final = 60.0
STOPPED_S: Final = 60.0
"""Pause between probes of a provider that rejects our credentials."""
TRUSTED_S: Final = 300.0
"""Time after a success in which our credentials count as valid, if only users that stopped the channel before disagree.

If they expire while no other user is active, the channel stops, and alerts, this much later."""
THROTTLING_STATUSES: Final = frozenset({"421", "429"})
FAILED_USERS: Final = 3
"""Number of users with failed sends since the last success, from which on these count as failures of the provider.

Providers throttle a single device with the same reply as the whole account, and any device can cause that. FCM and
Mozilla answer 5xx to single tokens for weeks (firebase-ios-sdk#9929, autopush-rs#444). A mail relay may end the
connection each time it gets one address."""
MAX_FAILED_USERS: Final = 1_024
"""Remembered users whose sends failed; further ones do not count. Also the users whose sends were rejected with our
credentials; further ones replace the oldest."""
OTHERS_FIRST_S: Final = 2.0
"""Time after a pause in which only sends to users without a failure may probe. After it, any send may.

A worker reads and puts back about a thousand deliveries in this time."""
REJECTED_LAST_S: Final = 15.0
"""Time after the pause of a stop in which no user whose messages were rejected with our credentials may probe.

It must suffice to put back all their deliveries. One device may have 2,000."""
SLOW_PROBE_S: Final = 20.0
"""Age of a probe after which another send may probe. A mail relay may take minutes to answer about one address.

Longer than the default of `GREGOR_DELIVERY_DEADLINE`: a probe of a silent provider should end first."""


class Breaker:
    """Circuit breaker of one provider. Times are monotonic seconds.

    `failure_threshold`: consecutive failures that open the breaker; `None`: only rejected credentials open it.
    `counts_each_unreachable`: count each send that cannot reach the provider; if false, only once for each user.
    """

    def __init__(
        self, failure_threshold: int | None = FAILURE_THRESHOLD, *, counts_each_unreachable: bool = True
    ) -> None:
        self._threshold = failure_threshold
        self._counts_each_unreachable = counts_each_unreachable
        self._failed_sends = 0
        self._provider_failures = 0
        self._failed_users: dict[str, float] = {}
        """The users with failures that may concern them alone, each with the pause that the provider asked for."""
        self._pause_s = FIRST_PAUSE_S
        self._open_until_s: float | None = None
        self._failed_probes: set[str | None] = set()
        """The users whose probes failed."""
        self._failed_users_until_s = 0.0
        """End of the pause of users with failures, if it is later than that of all."""
        self._rejected_users: dict[str | None, float] = {}
        """The users whose messages the provider rejected with our credentials, each with the end of its pause."""
        self._accepted_s: float | None = None
        """Time of the last success."""
        self._closed_s: float | None = None
        """When the breaker last closed."""
        self._probe_until_s = 0.0
        """When another send may probe if the current probe has no verdict; 0 without a probe. Identifies the probe."""
        self.is_stopped = False
        """Whether the provider rejected our credentials or configuration at the last attempt."""

    @property
    def is_first_failure(self) -> bool:
        """Whether exactly one send has failed since the last success. False if failures do not open this breaker."""
        return self._threshold is not None and self._failed_sends == 1

    @property
    def failed_users(self) -> int:
        """Number of different users whose sends the provider answered with failures since the last success."""
        return len(self._failed_users)

    @property
    def is_open(self) -> bool:
        """Whether the provider failed and no probe has succeeded since."""
        return self._open_until_s is not None

    def was_open(self, since_s: float) -> bool:
        """Return whether the breaker is open, or has been open since this time."""
        return self.is_open or (self._closed_s is not None and self._closed_s >= since_s)

    def capacity(self, limit: int, now_s: float) -> int:
        """Return how many of `limit` sends may start now; each one that starts calls `acquire`."""
        if self._open_until_s is None:
            return limit
        return 0 if now_s < max(self._probe_until_s, self._open_until_s) else min(1, limit)

    def wait_s(self, now_s: float, uid: str | None = None) -> float:
        """Return the seconds until a send may start, as a probe if the breaker is open; 0 while a probe is under way.

        `uid`: user of the recipient. If its sends failed since the last success, or were rejected with our
        credentials, other users may probe first. After a rejection that concerns it alone, only this user waits.
        """
        until_s = self._rejected_users.get(uid, 0.0)
        if self._open_until_s is not None:
            later_s = OTHERS_FIRST_S if uid in self._failed_users or uid in self._rejected_users else 0.0
            if self.is_stopped and uid in self._rejected_users:
                later_s = REJECTED_LAST_S
            until_s = max(until_s, self._open_until_s + later_s)
            if uid in self._failed_users:
                until_s = max(until_s, self._failed_users_until_s)
        return max(0.0, until_s - now_s)

    def acquire(self, uid: str | None = None, now_s: float = 0.0) -> Permit:
        """Start a send. The caller must finish the permit with `record` or `release`.

        `uid`: user of the recipient; a failure may concern only this user. `None`: a failure concerns the provider.
        """
        probe_until_s = None
        if self.is_open and now_s >= self._probe_until_s:
            self._probe_until_s = probe_until_s = now_s + SLOW_PROBE_S
        return Permit(partial(self._finish, probe_until_s, uid))

    def _finish(self, probe_until_s: float | None, uid: str | None, verdict: Verdict | None, now_s: float) -> None:
        # The verdict of a probe that was replaced, or came after a success, counts like that of any other send.
        is_probe = probe_until_s == self._probe_until_s
        if is_probe:
            self._probe_until_s = 0.0
        if verdict is None or is_refused_unsent(verdict):
            return
        if isinstance(verdict, Misconfigured):
            self._reject(uid, now_s)
        elif is_failure(verdict):
            self._failed_sends += 1
            self._count(uid, verdict, is_probe, now_s)
        else:
            self._failed_sends, self._provider_failures, self._pause_s = 0, 0, FIRST_PAUSE_S
            self._failed_users_until_s = self._probe_until_s = 0.0
            self._failed_users.clear()
            self._failed_probes.clear()
            self._closed_s = now_s if self.is_open else self._closed_s
            if self.is_stopped:
                self._rejected_users = dict.fromkeys(self._rejected_users, 0.0)
            self.is_stopped, self._open_until_s = False, None
            if not isinstance(verdict, Retry):  # a relay may answer 454 before it has accepted the login
                self._accepted_s = now_s

    def _reject(self, uid: str | None, now_s: float) -> None:
        """Stop all sends, or only those of a user that stopped them before while the provider accepts others."""
        was_accepted = self._accepted_s is not None and now_s - self._accepted_s < TRUSTED_S
        if not (was_accepted and uid in self._rejected_users):
            self.is_stopped, self._open_until_s = True, now_s + STOPPED_S
        if uid is not None:
            self._rejected_users[uid] = now_s + STOPPED_S
        if len(self._rejected_users) > MAX_FAILED_USERS:
            del self._rejected_users[next(iter(self._rejected_users))]

    def _count(self, uid: str | None, verdict: Verdict, is_probe: bool, now_s: float) -> None:
        """Count a failed send. A failure that may concern only its user counts once for each user.

        A failed probe extends the pause. If the user has failed a probe before, it extends only the pause of users with
        failures: a user who causes most sends would also cause most probes. A throttled probe extends none.
        """
        asked_s = (verdict.after_s if isinstance(verdict, Retry) else None) or 0.0
        if uid is None or self._concerns_all(verdict):
            self._provider_failures += 1
        elif uid in self._failed_probes and not is_throttling(verdict):
            if is_probe:
                self._failed_users_until_s = now_s + self._next_pause_s(asked_s)
            return
        elif self._add_failed_user(uid, asked_s):
            # The longest pause may be meant for one device; the provider as a whole is given the shortest.
            asked_s = min(self._failed_users.values())
        elif is_throttling(verdict) or not is_probe:
            return
        is_own = uid is not None and not self._concerns_all(verdict) and not is_throttling(verdict)
        if is_probe and is_own and len(self._failed_probes) < MAX_FAILED_USERS:
            self._failed_probes.add(uid)
        self._open(asked_s, is_probe, now_s)

    def _concerns_all(self, verdict: Verdict) -> bool:
        return self._counts_each_unreachable and _is_unreachable(verdict)

    def _add_failed_user(self, uid: str, asked_s: float) -> bool:
        """Add a user with a failed send. Returns whether it is new, and enough users have failed sends."""
        if uid in self._failed_users or len(self._failed_users) >= MAX_FAILED_USERS:
            return False
        self._failed_users[uid] = asked_s
        return len(self._failed_users) >= FAILED_USERS

    def _open(self, asked_s: float, is_probe: bool, now_s: float) -> None:
        """Open the breaker, or open it again after a probe, if there were enough failures."""
        users = len(self._failed_users) if len(self._failed_users) >= FAILED_USERS else 0
        is_failing = self._threshold is not None and self._provider_failures + users >= self._threshold
        # Sends that were in flight when the breaker opened fail too: only the probe may extend the pause.
        if is_probe or (is_failing and not self.is_open):
            self._open_until_s = now_s + self._next_pause_s(asked_s)

    def _next_pause_s(self, asked_s: float) -> float:
        pause_s = max(self._pause_s, min(asked_s, LONGEST_PAUSE_S))
        self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s)
        return pause_s


def channel_breaker(channel: str) -> Breaker:
    """Return the circuit breaker of a channel. Webhooks and Web Push origins have one each: only rejected credentials
    stop their channel.
    """
    return Breaker(None) if channel in (WEBHOOK, WEBPUSH) else Breaker()


class Permit:
    """Permission for one send. The first call of `record` or `release` counts; later calls have no effect."""

    __slots__ = ("_finish", "turn", "verdict_at_s")

    def __init__(self, finish: Callable[[Verdict | None, float], None]) -> None:
        """`finish` is called once, with the verdict (`None`: nothing was sent) and the time."""
        self._finish: Callable[[Verdict | None, float], None] | None = finish
        self.turn: RateTurn | None = None
        """Turn of the send in the rate limit of the channel; `None`: it may start at once."""
        self.verdict_at_s: float | None = None
        """Time of the verdict (monotonic); `None`: there is none yet."""

    def record(self, verdict: Verdict, now_s: float) -> None:
        """Report the provider's verdict to the breaker."""
        self.verdict_at_s = now_s
        self._call(verdict, now_s)

    def release(self) -> None:
        """Give the permit back unused: nothing was sent, so the breaker learns nothing."""
        self._call(None, 0.0)
        if self.turn is not None:
            self.turn.give_back()

    def _call(self, verdict: Verdict | None, now_s: float) -> None:
        finish, self._finish = self._finish, None
        if finish is not None:
            finish(verdict, now_s)


def is_failure(verdict: Verdict) -> bool:
    """Return whether the provider itself is unhealthy: unreachable, throttling, answering 5xx, or silent."""
    if isinstance(verdict, Retry):
        return verdict.status is None or verdict.status.startswith("5") or is_throttling(verdict)
    return isinstance(verdict, Unknown)


def is_refused_unsent(verdict: Verdict) -> bool:
    """Return whether the channel refused the message by itself, so the verdict says nothing about the provider."""
    return isinstance(verdict, Refused) and verdict.status is None


def _is_unreachable(verdict: Verdict) -> bool:
    """Return whether the provider could not be reached."""
    return isinstance(verdict, Retry) and verdict.status is None and not verdict.is_unanswered


def is_throttling(verdict: Verdict) -> bool:
    """Return whether the reply asks for fewer sends: to this recipient, or to all of the provider.

    A relay that answers the content of an e-mail with 421 may accept other e-mails, as with the other codes.
    """
    if not isinstance(verdict, Retry) or verdict.status not in THROTTLING_STATUSES:
        return False
    return not is_about_content(verdict.status, verdict.detail)
