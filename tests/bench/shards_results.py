"""The results of the shards benchmark: outages, latencies and errors of its users, and lost messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from tests.bench.report import Result, percentile, print_result
from tests.chaos.topologies import slot_of_user

Failure = Literal["killed", "hung", "frozen", "away", "resharded"]
CYCLE_S: Final = 17.0
"""Time of one failure of a primary, with the return of the node and a quiet time."""
HUNG_S: Final = 6.0
"""Time after which a failed node returns: it resumes, or starts and copies its shard."""
PHASES: Final = {
    "until the failover": (0.0, 2.0),
    "failover and repair": (2.0, HUNG_S),
    "return of the node": (HUNG_S, HUNG_S + 5),
}
"""Parts of the time after a failure, in seconds. The cluster elects a new primary 2.3 s after a death or later."""
BACK_S: Final[dict[Failure, float]] = {"killed": 5.0, "hung": 7.0}


@dataclass
class Outage:
    """One failure, from ``at_s`` to ``until_s``.

    ``slots``: those that it hits. ``promoted_s``: when a replica took over, if a primary was killed.
    """

    failure: Failure
    at_s: float
    slots: Sequence[tuple[int, int]]
    until_s: float
    promoted_s: float = 0.0

    def hits(self, uid: str) -> bool:
        """Return whether the failure hits the state of a user."""
        return any(first <= slot_of_user(uid) <= last for first, last in self.slots)

    def spares(self, uid: str) -> bool:
        """Return whether the state of a user is elsewhere."""
        return not self.hits(uid)


@dataclass
class ShardsRun:
    """The records of the load (see ``shards_load``), and the failures."""

    load: dict[str, Any]
    outages: list[Outage] = field(default_factory=list)
    lost: list[tuple[str, bool, float]] = field(default_factory=list)
    """Lost messages: item, whether it was acknowledged as replicated, and when."""
    different: list[str] = field(default_factory=list)
    """Devices that differ from the store, and how."""

    def sent(
        self, first_s: float, last_s: float, uids: Callable[[str], bool], *, asks_replicas: bool = False
    ) -> list[tuple[float, float, int]]:
        """Return (sent at, answered at, status) of the messages of some users in a time, of one durability."""
        return [
            (at, to, status)
            for uid, _, at, to, status, asked, _ in self.load["sent"]
            if first_s <= at < last_s and asked == asks_replicas and uids(uid)
        ]

    def commits_again_s(self, outage: Outage, from_s: float) -> float:
        """Return seconds until the hit users commit again, steadily."""
        return _steady_from(self.sent(from_s, from_s + CYCLE_S, outage.hits), from_s) - from_s

    def receives_again_s(self, outage: Outage, from_s: float) -> float:
        """Return seconds until a device of the hit users gets a message that was sent after ``from_s``."""
        sent = self.load["sent"]
        items = {item for uid, item, at, *_ in sent if from_s < at < from_s + CYCLE_S and outage.hits(uid)}
        # A message that is repeated after the failure was seen before.
        news = [seen for item, seen in self.load["seen"].items() if item in items and seen > from_s]
        return min(news, default=from_s + CYCLE_S) - from_s


def _steady_from(sent: Sequence[tuple[float, float, int]], began_s: float) -> float:
    """Return when the first message was accepted after which every one was accepted within a second, for 2 s."""
    sent = sorted(sent)
    bad = [at for at, to, status in sent if status != 200 or to - at > 1]
    for at, to, status in sent:
        if status == 200 and to - at <= 1 and not any(at < each < at + 2 for each in bad):
            return to if bad and at > bad[0] else began_s
    return began_s + CYCLE_S


# ---- the results


def outage_results(failure: Failure, found: ShardsRun) -> list[Result]:
    """Return the times until users of failed primaries commit and receive again."""
    outages = [each for each in found.outages if each.failure == failure]
    if not outages:
        return []
    commits = sorted(found.commits_again_s(each, each.at_s) for each in outages)
    # For half a second, a message may still come that was committed before the failure.
    receives = max(found.receives_again_s(each, each.at_s + 0.5) for each in outages) + 0.5
    most_s, p50_s = BACK_S[failure], percentile(commits, 0.5)
    results = [
        Result(f"shards, {failure}: commits again, at most", commits[-1], "s", f"≤ {most_s:g} s",
               commits[-1] <= most_s, f"{len(commits)} failures, p50 {p50_s:.2f} s"),
        Result(f"shards, {failure}: devices receive again, at most", receives, "s", f"≤ {most_s + 1:g} s",
               receives <= most_s + 1),
    ]  # fmt: skip
    if failure == "killed":
        # The rest is the time in which the cluster elects a new primary.
        own = max(found.commits_again_s(each, each.at_s) - (each.promoted_s - each.at_s) for each in outages)
        results += [
            Result("shards, killed: commits again, p50", p50_s, "s", "≤ 3.5 s", p50_s <= 3.5),
            Result("shards, killed: after the promotion, at most", own, "s", "-"),
        ]
    return list(map(print_result, results))


def loss_results(name: str, found: ShardsRun) -> list[Result]:
    """Return the lost messages and the devices that differ from the server."""
    sent = found.load["sent"]
    promised = sum(each[6] for each in sent)
    plain = sum(each[4] == 200 and not each[6] for each in sent)
    broken = sum(is_replicated for _, is_replicated, _ in found.lost)
    lost = len(found.lost) - broken
    windows = [
        min(abs(each.at_s - at) for each in found.outages) for _, is_replicated, at in found.lost if not is_replicated
    ]
    closed, different = len(found.load["closed"]), len(found.different)
    unadvised, unanswered = len(found.load["unadvised"]), found.load["unanswered"]
    results = [
        Result(f"{name}, replicated messages lost", broken, "messages", "0", broken == 0, f"{promised:,} acknowledged"),
        Result(f"{name}, other messages lost", lost, "messages", "counted", None,
               f"{plain:,} acknowledged; within {max(windows, default=0.0):.2f} s"),
        Result(f"{name}, refused without Retry-After", unadvised, "messages", "0", unadvised == 0,
               f"{sum(each[4] == 503 for each in sent):,} refused"),
        Result(f"{name}, without an answer", unanswered, "messages", "0", unanswered == 0),
        Result(f"{name}, devices that differ", different, "devices", "0", different == 0,
               f"{closed} connections closed"),
    ]  # fmt: skip
    for each in found.different[:5]:
        print(each)
    return list(map(print_result, results))


def neighbour_results(name: str, found: ShardsRun) -> list[Result]:
    """Return the errors and delays of users of other shards, compared with the time before each failure."""
    before: list[float] = []
    during: list[float] = []
    refused: list[str] = []
    late: list[float] = [0.0]
    for outage in found.outages:
        before += [to - at for at, to, _ in found.sent(outage.at_s - 3, outage.at_s, outage.spares)]
        sent = found.sent(outage.at_s, outage.until_s, outage.spares)
        during += [to - at for at, to, _ in sent]
        asked = found.sent(outage.at_s, outage.until_s, outage.spares, asks_replicas=True)
        refused += [
            f"{status} of a message sent {at - outage.at_s:.2f} s after a failure, answered after {to - at:.2f} s"
            for at, to, status in (*sent, *asked)
            if status >= 500
        ]
        fired = found.load["reminders"]
        # By the time at which they were due: those of the failure before may come after its lease.
        late += [each for uid, at, each in fired if outage.at_s < at - each < outage.until_s and outage.spares(uid)]
    normal_ms, failing_ms = (1e3 * percentile(sorted(each) or [0.0], 0.99) for each in (before, during))
    most_ms, late_s = 1.25 * normal_ms + 10, max(late)
    beside = f"p99 {normal_ms:.1f} ms before, {len(during):,} messages"
    results = [
        Result(f"{name}, others: 5xx", len(refused), "messages", "0", not refused),
        Result(f"{name}, others: p99", failing_ms, "ms", f"≤ {most_ms:.0f} ms", failing_ms <= most_ms, beside),
        Result(f"{name}, others: reminders late, at most", late_s, "s", "≤ 1.5 s", late_s <= 1.5, f"{len(late) - 1}"),
    ]
    for each in refused[:5]:
        print(each)
    return list(map(print_result, results))


def phase_results(name: str, found: ShardsRun) -> list[Result]:
    """Return the p99 of users of other shards in each phase. ``neighbour_results`` has that of the whole outage."""
    results = []
    for phase, (first_s, last_s) in PHASES.items():
        took = [
            1e3 * (to - at)
            for each in found.outages
            for at, to, _ in found.sent(each.at_s + first_s, each.at_s + last_s, each.spares)
        ]
        late = sum(each > 10 for each in took)
        beside = f"{late} of {len(took):,} messages over 10 ms"
        p99_ms = percentile(sorted(took) or [0.0], 0.99)
        results.append(print_result(Result(f"{name}, others: {phase}, p99", p99_ms, "ms", "-", None, beside)))
    return results


def slot_results(name: str, found: ShardsRun, slot: int, began_s: float, *, is_atomic: bool) -> list[Result]:
    """Return the errors, the latency and the losses of users of a slot while it moved."""
    sent = found.sent(began_s, float("inf"), lambda uid: slot_of_user(uid) == slot)
    refused = sum(status != 200 for _, _, status in sent)
    other = sum(status not in (200, 503) for _, _, status in sent)
    p99_ms = 1e3 * percentile(sorted(to - at for at, to, _ in sent), 0.99)
    lost = len(found.lost)
    results = [Result(f"{name}: lost", lost, "messages", "0", lost == 0, f"{len(sent):,} of the slot")]
    if is_atomic:
        results += [
            Result(f"{name}: refused", refused, "messages", "0", refused == 0),
            Result(f"{name}: p99", p99_ms, "ms", "≤ 100 ms", p99_ms <= 100),
        ]
    else:
        results.append(
            Result(f"{name}: not accepted and not 503", other, "messages", "0", other == 0, f"{refused} 503")
        )
    return list(map(print_result, results))


def frozen_results(found: ShardsRun) -> list[Result]:
    """Return the messages that were acknowledged as replicated while the only replica was frozen."""
    asked, false = 0, 0
    for outage in found.outages:
        answers = [
            (status, is_promised)
            for uid, _, at, to, status, asks, is_promised in found.load["sent"]
            if asks and outage.hits(uid) and outage.at_s <= at and to <= outage.until_s
        ]
        asked += len(answers)
        false += sum(is_promised for _, is_promised in answers)
    beside = f"{asked:,} asked for it, {len(found.outages)} freezes"
    return [print_result(Result("shards, frozen: false replicated", false, "messages", "0", false == 0, beside))]
