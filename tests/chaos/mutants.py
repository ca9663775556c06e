"""Planted faults: each is one defect of a simulated cluster, with the anomalies of which the checker must name one.

``MUTANTS`` is the list. ``make chaos ARGS=mutants`` prints it with what was found.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from gregor.core.ids import EVERY_DEVICE
from gregor.core.items.announcement import Announcement, AnnouncementKind, decode_announcement
from gregor.core.items.sync import View
from gregor.core.messages.model import Commit, IgnoredReason, Receipt, RemovalReason, Sender
from gregor.reference import agenda
from gregor.reference.model import UserState
from tests.chaos.simulation import Mutant, SimulatedDevice


@dataclass(frozen=True)
class Planted:
    """A planted fault: its class, what it does, and the anomalies that may name it."""

    make: Callable[[], Mutant]
    text: str
    names: frozenset[str]
    failovers: int = 0


MUTANTS: dict[str, Planted] = {}


def planted(names: str, *, failovers: int = 0) -> Callable[[type[Mutant]], type[Mutant]]:
    """Register a mutant. ``names``: the anomalies that may name it."""

    def register(kind: type[Mutant]) -> type[Mutant]:
        text = " ".join((kind.__doc__ or "").split())
        MUTANTS[kind.__name__] = Planted(kind, text, frozenset(names.split()), failovers)
        return kind

    return register


def user_of(mutant: Mutant, uid: str) -> UserState | None:
    """Return the state of a user in the simulated store."""
    return mutant.simulation.store._data.users.get(uid)


# ---- the commit


@planted("lost-write hole")
class AcknowledgeWithoutCommit(Mutant):
    """The store acknowledges a message and does not apply it."""

    rate = 0.05

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        if commit.creations and self.strikes():
            receipt = await self.simulation.store.users.rehearse(uid, commit)
            return replace(receipt, seq=receipt.seq + (not receipt.is_unchanged))
        return await super().commit(uid, commit)


@planted("lost-write half hole")
class LoseOneItem(Mutant):
    """A message with several items loses one of them."""

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        if len(commit.creations) > 1 and self.strikes():
            lost = commit.creations[-1]
            receipt = await super().commit(uid, replace(commit, creations=commit.creations[:-1]))
            return receipt if receipt.is_unchanged else replace(receipt, created=(*receipt.created, lost.id))
        return await super().commit(uid, commit)


@planted("half wrong-receipt lost-write")
class SkipDismissalOfReplacement(Mutant):
    """A message that creates and dismisses only creates."""

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        if commit.creations and commit.spans and self.strikes():
            return await super().commit(uid, replace(commit, spans=()))
        return await super().commit(uid, commit)


@planted("duplicate hole twice")
class ForgetMessageIds(Mutant):
    """A repeat is not recognised by its message id."""

    rate = 1.0

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        user = user_of(self, uid)
        if user is not None and commit.message_id is not None and commit.message_id.key in user.message_ids:
            self.hits += 1
            user.message_ids.clear()
        return await super().commit(uid, commit)


@planted("duplicate hole order-vs-time")
class CommitTwice(Mutant):
    """A retry inside the server applies an external message twice."""

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        if commit.external is not None and self.strikes():
            await super().commit(uid, replace(commit, message_id=None))
        return await super().commit(uid, commit)


@planted("resurrected wrong-receipt")
class ForgetIntervals(Mutant):
    """Intervals are not remembered for items that arrive later."""

    rate = 1.0

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        user = user_of(self, uid)
        if user is not None and user.spans:
            self.hits += 1
            user.spans.clear()
        return await super().commit(uid, commit)


@planted("resurrected")
class ForgetRemovedItems(Mutant):
    """A removed item is forgotten, so that a repeat of its message brings it back."""

    rate = 0.5

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        user = user_of(self, uid)
        for creation in commit.creations if user is not None else ():
            if creation.id in user.gone and self.strikes():  # type: ignore[union-attr]
                del user.gone[creation.id]  # type: ignore[union-attr]
        return await super().commit(uid, commit)


@planted("hole")
class SkipSeq(Mutant):
    """The counter of a user jumps by two."""

    rate = 0.02

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        user = user_of(self, uid)
        if user is not None and user.seq and self.strikes():
            user.seq += 1
        return await super().commit(uid, commit)


@planted("duplicate order-vs-time regress twice")
class ReuseSeq(Mutant):
    """The counter of a user goes back by one."""

    rate = 0.02

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        user = user_of(self, uid)
        if user is not None and user.seq > 2 and self.strikes():
            user.seq -= 1
        return await super().commit(uid, commit)


@planted("lost-write")
class DropLiveItem(Mutant):
    """The store loses a record."""

    rate = 0.01

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        user = user_of(self, uid)
        if user is not None and user.live and self.strikes():
            del user.live[next(iter(user.live))]
        return await super().commit(uid, commit)


@planted("resurrected lost-write wrong-receipt duplicate")
class ReviveItem(Mutant):
    """A removed item becomes live again by itself."""

    rate = 0.01

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        user = user_of(self, uid)
        if user is not None and user.gone and self.strikes():
            item_id, record = user.gone.popitem()
            user.live[item_id] = replace(record, gone=None)
        return await super().commit(uid, commit)


@planted("wrong-receipt half wrong-delta lost-write")
class DismissForEveryDevice(Mutant):
    """A device that dismisses a `"*"` item ends it for all devices."""

    rate = 1.0

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        user = user_of(self, uid)
        live = {} if user is None else user.live
        if commit.sender.device and any(i in live and live[i].item.for_device == EVERY_DEVICE for i in commit.ids):
            self.hits += 1
            return await super().commit(uid, replace(commit, sender=Sender()))
        return await super().commit(uid, commit)


@planted("wrong-receipt half lost-write")
class DismissOfOtherDevice(Mutant):
    """A device dismisses an item that is only for another device."""

    rate = 1.0

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        user = user_of(self, uid)
        live = {} if user is None else user.live
        others = [live[i].item.for_device for i in commit.ids if i in live]
        if commit.sender.device and any(each not in (None, EVERY_DEVICE, commit.sender.device) for each in others):
            self.hits += 1
            return await super().commit(uid, replace(commit, sender=Sender()))
        return await super().commit(uid, commit)


@planted("lost-write wrong-delta")
class ChangeEpoch(Mutant):
    """The state of a user gets another epoch without a flush."""

    rate = 0.01

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        user = user_of(self, uid)
        if user is not None and user.seq and self.strikes():
            user.epoch = bytes([user.epoch[0] ^ 0x55, *user.epoch[1:]])
        return await super().commit(uid, commit)


@planted("aborted-read hole")
class ApplyRefusedMessage(Mutant):
    """A message that is refused for its size was applied before."""

    rate = 0.02

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        receipt = await super().commit(uid, commit)
        if receipt.created and self.strikes():
            self.simulation.refuse()
        return receipt


@planted("lost-write order-vs-time hole duplicate")
class RevertWithoutFailover(Mutant):
    """The store goes back to an older copy of a user, and no failover is recorded."""

    rate = 0.01

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        receipt = await super().commit(uid, commit)
        user = user_of(self, uid)
        saved = self.__dict__.setdefault("saved", {})
        if user is not None and uid in saved and user.seq > saved[uid].seq + 2 and self.strikes():
            self.simulation.store._data.users[uid] = saved.pop(uid)
        elif user is not None and uid not in saved:
            saved[uid] = copy.deepcopy(user)
        return receipt


# ---- receipts


@planted("wrong-receipt half")
class ReceiptWithoutDismissed(Mutant):
    """A receipt lacks an id that the message dismissed."""

    def receipt(self, uid: str, receipt: Receipt) -> Receipt:
        if receipt.dismissed and self.strikes():
            return replace(receipt, dismissed=receipt.dismissed[1:])
        return receipt


@planted("duplicate resurrected wrong-receipt")
class ReceiptClaimsCreation(Mutant):
    """A receipt says `created` for an item that was known."""

    rate = 0.5

    def receipt(self, uid: str, receipt: Receipt) -> Receipt:
        if receipt.ignored and self.strikes():
            return replace(receipt, created=tuple(i for i, _ in receipt.ignored), ignored=())
        return receipt


@planted("wrong-receipt half")
class FalseStale(Mutant):
    """A creation is answered `stale` although nothing was forgotten."""

    rate = 0.1

    def receipt(self, uid: str, receipt: Receipt) -> Receipt:
        if receipt.created and self.strikes():
            return replace(receipt, created=(), ignored=tuple((i, IgnoredReason.STALE) for i in receipt.created))
        return receipt


@planted("hole wrong-receipt half lost-write")
class ReceiptSaysUnchanged(Mutant):
    """A receipt says `unchanged` although the message had an effect."""

    rate = 0.1

    def receipt(self, uid: str, receipt: Receipt) -> Receipt:
        if not receipt.is_unchanged and self.strikes():
            return replace(receipt, is_unchanged=True, created=(), dismissed=())
        return receipt


@planted("order-vs-time duplicate hole")
class SwapReceipts(Mutant):
    """Two receipts of a user carry each other's seq."""

    rate = 0.1

    def receipt(self, uid: str, receipt: Receipt) -> Receipt:
        held = self.__dict__.setdefault("held", {})
        if uid in held:
            return replace(receipt, seq=held.pop(uid))
        if not receipt.is_unchanged and receipt.seq > 1 and self.strikes():
            held[uid] = receipt.seq
            return replace(receipt, seq=receipt.seq + 1)
        return receipt


# ---- announcements and live frames


@planted("skip never-seen wrong-delta")
class SkipPublish(Mutant):
    """A commit is not announced."""

    rate = 0.1

    def announce(self, uid: str, payload: bytes) -> None:
        if not self.strikes():
            super().announce(uid, payload)


@planted("aborted-read hole duplicate")
class PublishBeforeWrite(Mutant):
    """A creation is announced, and then not written."""

    rate = 0.05

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        if len(commit.creations) == 1 and not commit.spans and self.strikes():
            before = copy.deepcopy(user_of(self, uid))
            await super().commit(uid, commit)
            if before is not None:
                self.simulation.store._data.users[uid] = before
            self.simulation.refuse()
            return Receipt(bytes(3), 0)
        return await super().commit(uid, commit)


@planted("twice")
class FrameTwice(Mutant):
    """A device gets a frame twice."""

    rate = 0.1

    def deliver(self, device: SimulatedDevice, frame: bytes, announcement: Announcement) -> None:
        super().deliver(device, frame, announcement)
        if not device.is_stale and self.strikes():
            super().deliver(device, frame, announcement)


@planted("skip never-seen")
class DropFrame(Mutant):
    """One device does not get a frame that others get."""

    rate = 0.1

    def deliver(self, device: SimulatedDevice, frame: bytes, announcement: Announcement) -> None:
        if not self.strikes():
            super().deliver(device, frame, announcement)


@planted("skip never-seen")
class DropFrameOfOneDevice(Mutant):
    """A device gets no frame of external messages."""

    rate = 1.0

    def deliver(self, device: SimulatedDevice, frame: bytes, announcement: Announcement) -> None:
        if announcement.kind is AnnouncementKind.EXTERNAL and device.name == "laptop":
            self.hits += 1
            return
        super().deliver(device, frame, announcement)


@planted("regress skip")
class SwapFrames(Mutant):
    """Two frames of a connection change places."""

    rate = 0.1

    def deliver(self, device: SimulatedDevice, frame: bytes, announcement: Announcement) -> None:
        held = self.__dict__.setdefault("held", {})
        key = device.conn
        if key in held:
            super().deliver(device, frame, announcement)
            super().deliver(device, *held.pop(key))
        elif not device.is_stale and announcement.kind is AnnouncementKind.UPDATE and self.strikes():
            held[key] = (frame, announcement)
        else:
            super().deliver(device, frame, announcement)


@planted("wrong-delta")
class ChangeBodyOfFrame(Mutant):
    """A frame carries another body than the item."""

    rate = 0.1

    def deliver(self, device: SimulatedDevice, frame: bytes, announcement: Announcement) -> None:
        if b'"create"' in frame and self.strikes():
            frame = frame.replace(b'{"body":{"n":', b'{"body":{"n":9')
        super().deliver(device, frame, announcement)


@planted("half skip")
class FrameWithoutOneItem(Mutant):
    """A frame lacks one of the items of its message."""

    def deliver(self, device: SimulatedDevice, frame: bytes, announcement: Announcement) -> None:
        document = msgspec.json.decode(frame)
        create = document["body"].get("create", {}) if document["system"] == "gregor" else {}
        if len(create) > 1 and self.strikes():
            create.popitem()
            frame = msgspec.json.encode(document)
        super().deliver(device, frame, announcement)


@planted("half skip wrong-delta")
class FrameWithoutDismissal(Mutant):
    """A frame lacks the dismissed ids of its message."""

    def deliver(self, device: SimulatedDevice, frame: bytes, announcement: Announcement) -> None:
        document = msgspec.json.decode(frame)
        if document["system"] == "gregor" and "dismiss" in document["body"] and self.strikes():
            document["body"].pop("dismiss")
            frame = msgspec.json.encode(document)
        super().deliver(device, frame, announcement)


@planted("aborted-read resurrected wrong-delta")
class FrameOfOtherDevice(Mutant):
    """A device gets an item that is only for another device."""

    rate = 1.0

    def announce(self, uid: str, payload: bytes) -> None:
        announcement = decode_announcement(payload)
        changed = any(entry.devices and entry.packed for entry in announcement.entries)
        if not changed:
            super().announce(uid, payload)
            return
        self.hits += 1
        for entry in announcement.entries:
            entry.scope, entry.devices = type(entry.scope).EVERY, ()
        super().announce(uid, announcement.encode())


@planted("aborted-read resurrected wrong-delta")
class IgnoreCategoryFilter(Mutant):
    """A device gets frames outside of its category filter."""

    rate = 0.5

    def announce(self, uid: str, payload: bytes) -> None:
        super().announce(uid, payload)
        announcement = decode_announcement(payload)
        watch = self.simulation.by_uid[uid].devices[2]
        frame = announcement.frame(View("watch"))
        if watch.conn and frame and announcement.frame(watch.view) is None and b'"create"' in frame and self.strikes():
            self.simulation.to_device(watch, frame, announcement)


@planted("skip never-seen")
class FullQueueWithoutResync(Mutant):
    """Frames that a full queue drops are not repaired by a sync object."""

    rate = 1.0

    def deliver(self, device: SimulatedDevice, frame: bytes, announcement: Announcement) -> None:
        super().deliver(device, frame, announcement)
        if device.is_stale and announcement.kind is not AnnouncementKind.RESET:
            self.hits += 1
            device.is_stale = False


@planted("skip never-seen")
class ResubscribeWithoutCompare(Mutant):
    """A gap of the subscription of a user is not followed by a comparison."""

    rate = 0.05

    def announce(self, uid: str, payload: bytes) -> None:
        gaps = self.__dict__.setdefault("gaps", {})
        if gaps.get(uid, 0) > 0:
            gaps[uid] -= 1
        elif self.strikes():
            gaps[uid] = 3
        else:
            super().announce(uid, payload)


@planted("late")
class DeliverLate(Mutant):
    """A frame is delivered after two minutes."""

    rate = 0.02

    def deliver(self, device: SimulatedDevice, frame: bytes, announcement: Announcement) -> None:
        if not device.is_stale and announcement.kind is AnnouncementKind.UPDATE and self.strikes():
            self.simulation.tick(120e6)
        super().deliver(device, frame, announcement)


# ---- sync objects


class _SyncMutant(Mutant):
    """A mutant of sync objects. ``change`` returns whether it changed the document."""

    rate = 0.5

    def change(self, device: SimulatedDevice, document: dict[str, Any]) -> bool:
        raise NotImplementedError

    def sync(self, device: SimulatedDevice, answer: bytes) -> bytes:
        document = msgspec.json.decode(answer)
        if self.simulation.dice.random() < self.rate and self.change(device, document):
            self.hits += 1
            return msgspec.json.encode(document)
        return answer


@planted("wrong-delta lost-write half")
class SyncDropsCreation(_SyncMutant):
    """A sync object lacks an item."""

    def change(self, device: SimulatedDevice, document: dict[str, Any]) -> bool:
        return bool(document.get("body", {}).get("create")) and bool(document["body"]["create"].popitem())


@planted("wrong-delta resurrected")
class SyncDropsDismissal(_SyncMutant):
    """A delta lacks a dismissed id."""

    def change(self, device: SimulatedDevice, document: dict[str, Any]) -> bool:
        ids = document.get("body", {}).get("dismiss", {}).get("ids")
        return bool(ids) and bool(ids.pop())


@planted("wrong-digest")
class SyncWithWrongDigest(_SyncMutant):
    """A sync object has a digest that was not updated."""

    def change(self, device: SimulatedDevice, document: dict[str, Any]) -> bool:
        if "digest" in document:
            document["digest"] = "0" * 63 + ("1" if document["digest"][-1] == "0" else "0")
        return "digest" in document


@planted("wrong-delta")
class SyncSaysUnchanged(_SyncMutant):
    """A cursor that is behind is answered by `unchanged`."""

    def change(self, device: SimulatedDevice, document: dict[str, Any]) -> bool:
        if document["sync"] != "delta":
            return False
        for name in ("body", "digest"):
            document.pop(name, None)
        document["sync"] = "unchanged"
        return True


@planted("skip")
class SyncWithoutExternal(_SyncMutant):
    """A sync object lacks an external message, and does not say `external_gap`."""

    def change(self, device: SimulatedDevice, document: dict[str, Any]) -> bool:
        return bool(document.get("external")) and bool(document["external"].pop())


@planted("twice aborted-read hole")
class SyncRepeatsExternal(_SyncMutant):
    """A sync object has an external message that the device has already."""

    def change(self, device: SimulatedDevice, document: dict[str, Any]) -> bool:
        if device.cursor is None or device.cursor.seq < 2 or document["sync"] == "full":
            return False
        old = {"system": "kbfs.favorites", "seq": device.cursor.seq - 1, "body": {"n": 0}}
        document.setdefault("external", []).append(old)
        return True


@planted("wrong-delta hole skip wrong-digest")
class SyncAhead(_SyncMutant):
    """A sync object says a later seq than its contents have."""

    def change(self, device: SimulatedDevice, document: dict[str, Any]) -> bool:
        tag, _, seq = document["cursor"].partition("-")
        document["seq"], document["cursor"] = int(seq) + 1, f"{tag}-{int(seq) + 1}"
        return True


@planted("regress wrong-delta")
class SyncBehind(_SyncMutant):
    """A sync object is made from a replica that is behind."""

    def change(self, device: SimulatedDevice, document: dict[str, Any]) -> bool:
        tag, _, seq = document["cursor"].partition("-")
        if int(seq) < 5:
            return False
        document["seq"], document["cursor"] = int(seq) - 4, f"{tag}-{int(seq) - 4}"
        return True


# ---- reads


class _StateMutant(Mutant):
    rate = 0.2

    def change(self, uid: str, document: dict[str, Any]) -> bool:
        raise NotImplementedError

    def state(self, uid: str, answer: bytes) -> bytes:
        document = msgspec.json.decode(answer)
        if self.simulation.dice.random() < self.rate and self.change(uid, document):
            self.hits += 1
            return msgspec.json.encode(document)
        return answer


@planted("lost-write half wrong-digest")
class StateWithoutItem(_StateMutant):
    """A read of the state lacks an item."""

    def change(self, uid: str, document: dict[str, Any]) -> bool:
        return bool(document["items"]) and bool(document["items"].popitem())


@planted("wrong-digest")
class StateWithWrongDigest(_StateMutant):
    """A read of the state has the digest of another view."""

    def change(self, uid: str, document: dict[str, Any]) -> bool:
        document["digest"] = "1" * 64
        return True


@planted("regress")
class StaleRead(Mutant):
    """A read is answered from a replica that is behind."""

    def state(self, uid: str, answer: bytes) -> bytes:
        kept = self.__dict__.setdefault("kept", {})
        view = answer[11:40].partition(b"-")[0]
        if (uid, view) in kept and self.strikes():
            old: bytes = kept[uid, view]
            return old
        kept[uid, view] = answer
        return answer


@planted("resurrected wrong-digest")
class StateWithDismissedItem(Mutant):
    """A read of the state shows a removed item."""

    def state(self, uid: str, answer: bytes) -> bytes:
        user = user_of(self, uid)
        if user is None or not user.gone or not self.strikes():
            return answer
        document = msgspec.json.decode(answer)
        item_id, record = next(iter(user.gone.items()))
        document["items"][item_id] = msgspec.json.decode(record.item.json)
        return msgspec.json.encode(document)


# ---- time


@planted("early")
class ReminderEarly(Mutant):
    """A reminder fires ten seconds before its time."""

    def fire_at_us(self, due_us: int) -> int:
        self.hits += 1
        return due_us - 10_000_000


@planted("twice")
class ReminderTwice(Mutant):
    """A reminder fires for a second time after a crash of the scheduler."""

    def announce(self, uid: str, payload: bytes) -> None:
        super().announce(uid, payload)
        announcement = decode_announcement(payload)
        user = user_of(self, uid)
        if announcement.kind is AnnouncementKind.REMIND and user is not None and self.strikes():
            user.seq += 1
            super().announce(uid, self.again(announcement, user))

    def again(self, announcement: Announcement, user: UserState) -> bytes:
        """Return the announcement with the next seq."""
        announcement.seq = user.seq
        return announcement.encode()


@planted("resurrected hole")
class ReminderOfRemovedItem(ReminderTwice):
    """A reminder fires for an item that was dismissed."""

    def announce(self, uid: str, payload: bytes) -> None:
        Mutant.announce(self, uid, payload)
        announcement = decode_announcement(payload)
        user = user_of(self, uid)
        for entry in announcement.entries if announcement.kind is AnnouncementKind.UPDATE else ():
            record = None if user is None else user.record(entry.id)
            if user is None or record is None or entry.packed is not None or not record.item.remind_at_us:
                continue
            self.hits += 1
            user.seq += 1
            remind = Announcement(
                AnnouncementKind.REMIND,
                announcement.epoch,
                user.seq,
                announcement.after,
                announcement.after,
                entries=(entry,),
                remind_at_us=record.item.remind_at_us[0],
            )
            Mutant.announce(self, uid, remind.encode())


@planted("early")
class ExpireEarly(Mutant):
    """Items expire five seconds before their time."""

    rate = 0.2

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        user = user_of(self, uid)
        soon = commit.now_us + 5_000_000
        early = agenda.expiry_commit(user, soon, b"abc") if user is not None else None
        if early is not None and agenda.expiry_commit(user, commit.now_us, b"abc") is None and self.strikes():  # type: ignore[arg-type]
            await self.simulation.store.users.commit(uid, replace(early, now_us=commit.now_us))
        return await super().commit(uid, commit)


@planted("early hole lost-write")
class ExpireItemWithoutExpiry(Mutant):
    """An item without an expiry expires."""

    rate = 0.02

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        user = user_of(self, uid)
        lasting = [] if user is None else [i for i, r in user.live.items() if r.item.expires_us is None]
        if lasting and self.strikes():
            expiry = Commit(commit.now_us, b"abc", ids=(lasting[0],), reason=RemovalReason.EXPIRED)
            await self.simulation.store.users.commit(uid, expiry)
        return await super().commit(uid, commit)


@planted("late resurrected")
class ShowExpiredItems(Mutant):
    """A read shows an item after its expiry."""

    rate = 1.0

    def state(self, uid: str, answer: bytes) -> bytes:
        user = user_of(self, uid)
        records = [] if user is None else [r for r in user.gone.values() if r.gone and r.gone.reason.value == "x"]
        if not records:
            return answer
        self.hits += 1
        document = msgspec.json.decode(answer)
        document["items"][records[0].item.id] = msgspec.json.decode(records[0].item.json)
        return msgspec.json.encode(document)


# ---- failovers


@planted("broken-promise", failovers=2)
class LoseReplicated(Mutant):
    """A failover loses messages that were acknowledged as replicated."""

    is_replicated = True


@planted("wrong-delta never-seen wrong-digest", failovers=2)
class DeltaAcrossFork(Mutant):
    """After a failover, devices get deltas as if their copies were of the new history."""

    keeps_cursors = True


@planted("never-seen", failovers=2)
class NeverCorrected(Mutant):
    """After a failover, connected devices are not corrected."""

    is_silent = True


@planted("lost-write", failovers=1)
class LoseOlderMessages(Mutant):
    """A failover loses messages from long before it."""

    is_older = True
