/**
 * The copy of a view. Pure: sync objects and live frames go in, changes come out; time is an argument.
 *
 * The copy contains only items that the server sent (docs/semantics.md L11), and its digest proves it (L10). The twin in
 * Python is `gregor.client.mirror`; `tests/vectors` holds both equal.
 */

import { Digest, type Leaf, leafOf } from "./digest";
import { covers } from "./messages";
import type { Item, Rendering } from "./types";

/** A frame of the server: JSON of docs/reference/websocket.md. */
export type Frame = Record<string, any>;

/** One change that a frame made. */
export type Change =
  | { type: "created"; id: string; item: Item; live: boolean }
  | { type: "dismissed"; id: string; item: Item; reason: string | null }
  | { type: "reminded"; id: string; item: Item; at: number }
  | { type: "external"; system: string; body: unknown; device: string | null }
  | { type: "gap" }
  | { type: "flush" }
  | { type: "synced"; kind: string; proven: boolean };

export interface MirrorSnapshot {
  cursor: string | null;
  items: [string, Item][];
  uncounted: string[];
  rendered: [string, Rendering][];
}

export class Mirror {
  /** The position to resume from; null before the first sync. */
  cursor: string | null = null;
  /** Category prefixes whose items do not count for the badge. */
  uncounted: readonly string[] = [];
  /** Whether the digest did not match; only a full copy repairs that. */
  needsFull = false;
  readonly items = new Map<string, Item>();
  readonly rendered = new Map<string, Rendering>();
  private leaves = new Map<string, Leaf>();
  private sum = new Digest();

  get digest(): string {
    return this.sum.hex;
  }

  /** The number in the cursor; 0 before the first sync. */
  get seq(): number {
    return this.cursor ? +this.cursor.slice(this.cursor.lastIndexOf("-") + 1) : 0;
  }

  /** Applies one frame and returns the changes, in order. Frames that do not concern the copy change nothing. */
  apply(frame: Frame): Change[] {
    const changes: Change[] = [];
    if (frame.sync) this.applySync(frame, changes);
    else if (frame.system && frame.seq !== undefined) this.applyLive(frame, changes);
    const uncounted = (frame.welcome ?? frame).uncounted;
    if (uncounted) this.uncounted = uncounted;
    return changes;
  }

  /** Items that have not expired at `now` (Unix seconds). The expiry itself belongs to the expired time (L6). */
  isVisible(item: Item, now: number): boolean {
    const expires = item.times.expires;
    // Compared in microseconds, as the server stores times.
    return expires === undefined || Math.round(expires * 1e6) > Math.round(now * 1e6);
  }

  snapshot(): MirrorSnapshot {
    return {
      cursor: this.cursor,
      items: [...this.items],
      uncounted: [...this.uncounted],
      rendered: [...this.rendered],
    };
  }

  /** Returns a copy from a snapshot. Its digest is computed again, so the next sync detects a damaged snapshot. */
  static restore(snapshot: MirrorSnapshot): Mirror {
    const mirror = new Mirror();
    mirror.cursor = snapshot.cursor;
    mirror.uncounted = snapshot.uncounted;
    for (const [id, item] of snapshot.items) mirror.put(id, item, leafOf(id, item));
    for (const [id, texts] of snapshot.rendered) mirror.rendered.set(id, texts);
    return mirror;
  }

  private applySync(frame: Frame, changes: Change[]): void {
    const body = frame.body ?? {};
    if (frame.sync !== "full" && this.isAhead(frame.cursor)) {
      changes.push({ type: "synced", kind: frame.sync, proven: !this.needsFull });
      return;
    }
    if (frame.sync === "full") this.replace(body.create ?? {}, frame, changes);
    else this.patch(body, frame, false, changes);
    this.cursor = frame.cursor;
    if (frame.external_gap) changes.push({ type: "gap" });
    for (const { system, body, device } of frame.external ?? []) {
      changes.push({ type: "external", system, body, device: device ?? null });
    }
    const proven = !frame.digest || frame.digest === this.digest;
    // An unproven copy stays unproven until a full copy arrives, even if a later delta carries no digest.
    this.needsFull = !proven || (this.needsFull && frame.sync !== "full");
    changes.push({ type: "synced", kind: frame.sync, proven });
  }

  private applyLive(frame: Frame, changes: Change[]): void {
    if (frame.seq <= this.seq && !frame.cursor) return;
    if (frame.system === "gregor") {
      const body = frame.body ?? {};
      this.patch(body, frame, true, changes);
      for (const [id, at] of Object.entries<number>(body.remind ?? {})) {
        const item = this.items.get(id);
        if (item) changes.push({ type: "reminded", id, item, at });
      }
      if (body.flush) changes.push({ type: "flush" });
    } else {
      changes.push({ type: "external", system: frame.system, body: frame.body, device: frame.device ?? null });
    }
    // After a live frame the cursor is the frame's own, else the last one with its number replaced.
    if (frame.cursor) this.cursor = frame.cursor;
    else if (this.cursor) this.cursor = this.cursor.slice(0, this.cursor.lastIndexOf("-") + 1) + frame.seq;
  }

  /** Whether the copy is past that position: the object was delayed or repeated. After a fork the server sends `full`. */
  private isAhead(cursor: string): boolean {
    const at = cursor.lastIndexOf("-") + 1;
    return !!this.cursor?.startsWith(cursor.slice(0, at)) && +cursor.slice(at) < this.seq;
  }

  // An item with equal content stays: its readers would otherwise see it leave and return.
  private replace(create: Record<string, Item>, frame: Frame, changes: Change[]): void {
    for (const [id, leaf] of this.leaves) {
      const item = Object.hasOwn(create, id) ? create[id] : undefined;
      if (!item || leafOf(id, item).some((word, lane) => word !== leaf[lane])) this.drop(id, null, changes);
    }
    this.patch({ create }, frame, false, changes);
  }

  private patch(body: Frame, frame: Frame, live: boolean, changes: Change[]): void {
    for (const id of body.dismiss?.ids ?? []) this.drop(id, body.dismiss.reason ?? null, changes);
    for (const [id, texts] of Object.entries<Rendering>(frame.rendered ?? {})) this.rendered.set(id, texts);
    for (const [id, item] of Object.entries<Item>(body.create ?? {})) {
      if (this.items.has(id)) continue;
      this.put(id, item, leafOf(id, item));
      changes.push({ type: "created", id, item, live });
    }
  }

  private put(id: string, item: Item, leaf: Leaf): void {
    this.items.set(id, item);
    this.leaves.set(id, leaf);
    this.sum.add(leaf);
  }

  private drop(id: string, reason: string | null, changes: Change[]): void {
    const item = this.items.get(id);
    if (!item) return;
    this.sum.remove(this.leaves.get(id)!);
    this.items.delete(id);
    this.leaves.delete(id);
    this.rendered.delete(id);
    changes.push({ type: "dismissed", id, item, reason });
  }
}

/** Returns whether an item with this category counts for the badge. */
export const counts = (uncounted: readonly string[], category: string): boolean =>
  !uncounted.some((prefix) => covers(prefix, category));
