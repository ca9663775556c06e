"""Audit after a chaos run: ledger and providers must agree on every intent, and no notification may show twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gregor.core.notify.intents import EMAIL, Intent, IntentKind
from gregor.core.notify.ledger import DeliveryRecord, DeliveryState
from gregor_delivery.decide.push_fold import collapse_hash
from tests.support.flaky_providers import LATE_S, ProviderRecord

STALL_S = 1.0
"""Delay after which a worker on a busy machine may record a response."""


@dataclass
class Known:
    """The facts of a run. `deaths`: wall-clock seconds at which a process or Redis was killed or came back.

    `deadline_s`: the timeout of one provider request.
    """

    intents: Sequence[Intent]
    ledger: Mapping[tuple[str, str], list[DeliveryRecord]]
    seen: Sequence[ProviderRecord]
    dismissed: frozenset[tuple[str, str]]
    deaths: Sequence[float]
    deadline_s: float


@dataclass
class Audit:
    """`findings`: facts without an explanation; empty if all is well. `count`: the number of intents by fate."""

    findings: list[str] = field(default_factory=list)
    count: Counter[str] = field(default_factory=Counter)
    copies: int = 0
    """Arrivals of an intent beyond the first; each replaced the one before."""


def audit(known: Known) -> Audit:
    """Judge every intent and return the findings."""
    found = Audit()
    requests = _by_intent(known.seen)
    gone = {(each.uid, each.channel) for each in known.seen if each.fate == "gone"}
    cuts = defaultdict(list)
    for each in known.seen:
        if each.fate == "cut":
            cuts[each.channel].append(each.at)
        if each.fate.startswith("misjudged"):
            found.findings.append(f"{each.channel} refused what we sent: {each}")
    for intent in known.intents:
        tried = _of(intent, requests)
        entries = [each for each in known.ledger[intent.uid, intent.item] if each.intent.key == intent.key]
        judge = _Judge(known, intent, tried, (intent.uid, intent.channel) in gone, cuts[intent.channel])
        fate = judge.fate(entries[0] if entries else None)
        found.count[fate] += 1
        found.copies += max(0, len(judge.arrived) - 1)
        if fate.startswith("!"):
            found.findings.append(f"{fate} {intent.key}: {entries} {tried}")
    found.findings += _doubles(known)
    found.findings += _untold_withdrawals(known)
    found.findings += _left_on_screens(known, gone)
    return found


Requests = Mapping[tuple[str, str, str], Sequence[ProviderRecord]]


def _by_intent(seen: Iterable[ProviderRecord]) -> dict[tuple[str, str, str], list[ProviderRecord]]:
    """Group arrivals by channel, user and collapse id (push) or item (e-mail; "" if it did not get past RCPT)."""
    found: dict[tuple[str, str, str], list[ProviderRecord]] = defaultdict(list)
    for each in seen:
        for name in (each.items or ("",)) if each.channel == EMAIL else (each.name,):
            found[each.channel, each.uid, name].append(each)
    return found


def _of(intent: Intent, requests: Requests) -> list[ProviderRecord]:
    """Return the provider requests of an intent."""
    names = (intent.item, "") if intent.channel == EMAIL else (_name(intent.uid, intent.item),)
    return [each for name in names for each in requests.get((intent.channel, intent.uid, name), ())]


def _name(uid: str, item: str) -> str:
    """Return the collapse id of an item."""
    return collapse_hash(f"i\0{uid}\0{item}")


@dataclass
class _Judge:
    known: Known
    intent: Intent
    tried: Sequence[ProviderRecord]
    is_gone: bool
    cuts: Sequence[float]

    @property
    def arrived(self) -> list[ProviderRecord]:
        return [each for each in self.tried if each.fate in ("arrived", "unanswered")]

    def fate(self, entry: DeliveryRecord | None) -> str:
        """Return a word for the end of an intent, with an exclamation mark if nothing explains it."""
        is_dismissed = (self.intent.uid, self.intent.item) in self.known.dismissed
        if entry is None:
            if self.arrived:
                return "! arrived, and the ledger knows nothing of it"
            return "not planned" if self.is_gone or is_dismissed else "! lost before the ledger"
        state, reason = entry.state, entry.history.reason
        if state in (DeliveryState.SENT, DeliveryState.WITHDRAWN):
            return state.wire_name if self.arrived else f"! {state.wire_name}, and never arrived"
        if not entry.is_over:
            return f"! unfinished: {state.wire_name}"
        if state is DeliveryState.UNKNOWN:
            return "unknown" if self._is_in_the_dark(entry) else "! unknown, and its calls were answered"
        if not all(self._is_unheard(each, entry) for each in self.arrived):
            return f"! {state.wire_name}, and arrived"
        if state is DeliveryState.DEAD:
            is_explained = self._is_any("refused", "gone") or self.is_gone
        else:
            is_explained = is_dismissed if reason == "dismissed" else self.is_gone
        is_there = ", and may have arrived" if self.arrived else ""
        return f"{'' if is_explained else '! unexplained '}{state.wire_name}: {reason or 'refused'}{is_there}"

    def _is_any(self, *fates: str) -> bool:
        return any(each.fate in fates for each in self.tried)

    def _is_in_the_dark(self, entry: DeliveryRecord) -> bool:
        """Return whether no request that ended without a response could have been answered in time."""
        ends = [each.at_us / 1e6 for each in entry.history.attempts if each.status == "unknown"]
        return len(ends) > 1 and not any(
            self.known.deadline_s > end - each.at > 0 and not self._is_unheard(each, entry)
            for end in ends
            for each in self.tried
            if each.fate == "arrived"
        )

    def _is_unheard(self, seen: ProviderRecord, entry: DeliveryRecord) -> bool:
        """Return whether the worker may not know the response: none was sent, the connection was cut, it came too late,
        or the worker died.
        """
        if seen.fate == "unanswered":
            return True
        late = (each.at_us / 1e6 for each in entry.history.attempts if each.status == "unknown")
        return (
            any(abs(death - seen.at) <= 2 * self.known.deadline_s + STALL_S for death in self.known.deaths)
            or any(abs(cut - seen.at) <= LATE_S + STALL_S for cut in self.cuts)
            or any(0 <= end - seen.at <= LATE_S + STALL_S for end in late)
        )


def _doubles(known: Known) -> list[str]:
    """Find items on a screen under two collapse ids, and e-mails of one Message-ID with different contents."""
    findings, names = [], defaultdict(set)
    for each in known.seen:
        for item in each.items if each.fate in ("arrived", "unanswered") else ():
            names[each.channel, each.uid, item].add(each.name)
            if each.channel != EMAIL and each.name != _name(each.uid, item):
                findings.append(f"! under another name: {each}")
    findings += [f"! twice on the screen: {place}: {found}" for place, found in names.items() if len(found) > 1]
    told: dict[str, set[str]] = {}
    for each in known.seen:
        if each.channel == EMAIL and each.items and not set(each.items) <= told.setdefault(each.name, set(each.items)):
            findings.append(f"! a mail of the same name says more: {each}")
    return findings


def _untold_withdrawals(known: Known) -> list[str]:
    """Find ledger entries that are withdrawn although the device never received a withdrawal."""
    told = {
        (each.channel, each.uid, item)
        for each in known.seen
        if each.fate in ("arrived", "unanswered")
        for item in each.withdraw
    }
    return [
        f"! withdrawn, and the device was not told: {entry.intent.key}"
        for entries in known.ledger.values()
        for entry in entries
        if entry.state is DeliveryState.WITHDRAWN
        or (entry.intent.kind is IntentKind.WITHDRAW and entry.state is DeliveryState.SENT)
        if (entry.intent.channel, entry.intent.uid, entry.intent.item) not in told
    ]


def _left_on_screens(known: Known, gone: Collection[tuple[str, str]]) -> list[str]:
    """Find dismissed items that may still be on a screen, with no withdrawal planned."""
    findings = []
    for each in known.seen:
        is_shown = each.fate in ("arrived", "unanswered") and each.channel != EMAIL
        for item in each.items if is_shown and (each.uid, each.channel) not in gone else ():
            withdrawals = [
                entry
                for entry in known.ledger[each.uid, item]
                if entry.intent.kind is IntentKind.WITHDRAW and entry.intent.channel == each.channel
            ]
            if (each.uid, item) in known.dismissed and not withdrawals:
                findings.append(f"! dismissed, and left on the screen: {each}: {known.ledger[each.uid, item]}")
    return findings
