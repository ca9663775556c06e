/**
 * The client's copy of a view. No I/O and no clock: sync objects and live frames go in, changes come out.
 *
 * The copy contains only items that the server sent (docs/semantics.md L11), and its digest verifies it (L10). The twin
 * in Python is `gregor.client.mirror`; `tests/vectors` checks that both are equal.
 */

import { canonical, Digest, leafOf } from "./digest";
import { covers } from "./messages";
import type { Item, Rendering } from "./types";

/** A frame in JSON (docs/reference/websocket.md). */
export type Frame = Record<string, any>;

/** One change that a frame made. */
export type Change =
  | { type: "created"; id: string; item: Item; live: boolean }
  | { type: "dismissed"; id: string; item: Item; reason: string | null; rendered?: Rendering }
  | { type: "reminded"; id: string; item: Item; at: number }
  | { type: "external"; system: string; body: unknown; device: string | null }
  | { type: "gap" }
  | { type: "flush" }
  /** `proven`: the digest matched, and this sync object did not replace a wrong copy. */
  | { type: "synced"; kind: string; proven: boolean };

export class Mirror {
  /** The position to resume from; null before the first sync. */
  cursor: string | null = null;
  /** Category prefixes whose items do not count for the badge. */
  uncounted: readonly string[] = [];
  /** Whether the digest did not match. Only a full copy repairs that. */
  needsFull = false;
  readonly items = new Map<string, Item>();
  readonly rendered = new Map<string, Rendering>();
  private _sum = new Digest();

  get digest(): string {
    return this._sum.hex;
  }

  /** The number in the cursor; 0 before the first sync. */
  get seq(): number {
    return this.cursor ? seqOf(this.cursor) : 0;
  }

  /** Applies one frame and returns the changes, in order. Frames that do not concern the copy change nothing. */
  apply(frame: Frame): Change[] {
    const changes: Change[] = [];
    // These calls throw if the cursor, a category or a prefix is not a string, if an item has no times, or if its reminders
    // are not an array of numbers. They come before the first change, so a malformed frame changes nothing. A stored value
    // of a wrong type would make every later read of the state throw.
    tagOf(frame.cursor ?? "");
    const uncounted: readonly string[] = (frame.welcome ?? frame).uncounted ?? this.uncounted;
    uncounted.map((prefix) => prefix.startsWith(""));
    if (frame.sync || frame.system === "gregor") {
      for (const { category, times } of Object.values<Item>(frame.body?.create ?? {})) {
        category.startsWith(times.created as never, times.expires);
        times.remind_at?.map(Number);
      }
    }
    if (frame.sync) this._applySync(frame, changes);
    else if (frame.system && frame.seq !== undefined) this._applyLive(frame, changes);
    this.uncounted = uncounted;
    return changes;
  }

  private _applySync(frame: Frame, changes: Change[]): void {
    const body = frame.body ?? {};
    const kind: string = frame.sync;
    const known = this.cursor?.startsWith(tagOf(frame.cursor)) ? this.seq : 0;
    // The copy is newer: the sync object was delayed. After a fork the server sends `full`.
    if (kind !== "full" && seqOf(frame.cursor) < known) {
      changes.push({ type: "synced", kind, proven: !this.needsFull });
      return;
    }
    // The server answers a wrong digest at its own position with a full copy.
    const wasWrong = !this.needsFull && frame.cursor === this.cursor && this._differs(frame);
    if (kind === "full") this._replace(body.create ?? {}, frame, changes);
    else this._patch(body, frame, false, changes);
    this.cursor = frame.cursor;
    if (frame.external_gap) changes.push({ type: "gap" });
    // A live frame may have overtaken the answer to a resync, which repeats its external message.
    for (const message of frame.external ?? []) if (message.seq > known) changes.push(external(message));
    const isWrong = this._differs(frame);
    // An unproven copy stays unproven until a full copy arrives, even if a later delta carries no digest.
    this.needsFull = isWrong || (this.needsFull && kind !== "full");
    changes.push({ type: "synced", kind, proven: !isWrong && !wasWrong });
  }

  private _differs({ digest }: Frame): boolean {
    return !!digest && digest !== this.digest;
  }

  private _applyLive(frame: Frame, changes: Change[]): void {
    if (frame.seq <= this.seq && !frame.cursor) return;
    if (frame.system === "gregor") {
      const body = frame.body ?? {};
      this._patch(body, frame, true, changes);
      for (const [id, at] of Object.entries<number>(body.remind ?? {})) {
        const item = this.items.get(id);
        if (item) changes.push({ type: "reminded", id, item, at });
      }
      if (body.flush) changes.push({ type: "flush" });
    } else {
      changes.push(external(frame));
    }
    // After a live frame the cursor is the frame's own, else the last one with its number replaced.
    this.cursor = frame.cursor ?? (this.cursor && tagOf(this.cursor) + frame.seq);
  }

  /** Replaces the copy. An item with equal content stays: otherwise, handlers would see it leave and return. */
  private _replace(create: Record<string, Item>, frame: Frame, changes: Change[]): void {
    for (const [id, item] of this.items) {
      // `create[id]` may be an inherited member, such as `constructor`: it never has the canonical form of an item.
      if (canonical(create[id]) !== canonical(item)) this._drop(id, null, changes);
    }
    this._patch({ create }, frame, false, changes);
  }

  private _patch(body: Frame, frame: Frame, live: boolean, changes: Change[]): void {
    for (const id of body.dismiss?.ids ?? []) this._drop(id, body.dismiss.reason ?? null, changes);
    for (const [id, texts] of Object.entries<Rendering>(frame.rendered ?? {})) this.rendered.set(id, texts);
    for (const [id, item] of Object.entries<Item>(body.create ?? {})) {
      if (this.items.has(id)) continue;
      this.items.set(id, item);
      this._sum.add(leafOf(id, item));
      changes.push({ type: "created", id, item, live });
    }
  }

  private _drop(id: string, reason: string | null, changes: Change[]): void {
    const item = this.items.get(id);
    if (!item) return;
    this._sum.add(leafOf(id, item), -1);
    changes.push({ type: "dismissed", id, item, reason, rendered: this.rendered.get(id) });
    this.items.delete(id);
    this.rendered.delete(id);
  }
}

/** The two parts of a cursor: the tag with its hyphen, and the seq. */
const tagOf = (cursor: string): string => cursor.slice(0, cursor.lastIndexOf("-") + 1);
const seqOf = (cursor: string): number => +cursor.slice(tagOf(cursor).length);

const external = ({ system, body, device }: Frame): Change => ({ type: "external", system, body, device: device ?? null });

/** Returns whether an item with this category counts for the badge. */
export const counts = (uncounted: readonly string[], category: string): boolean =>
  !uncounted.some((prefix) => covers(prefix, category));

/** Returns a full sync object that makes an equal copy, for other tabs and for storage. Null before the first sync. */
export function copyOf({ cursor, digest, items, rendered, uncounted }: Mirror): Frame | null {
  const body = { create: Object.fromEntries(items) };
  return cursor === null ? null : { system: "gregor", sync: "full", cursor, digest, uncounted, body, rendered: Object.fromEntries(rendered) };
}
