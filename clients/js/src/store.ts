/** The state that a page shows, computed from the synchronizer. Equal values keep their identity. */

import { counts, type Mirror } from "./mirror";
import { covers } from "./messages";
import type { Synchronizer } from "./synchronizer";
import type { Connection, Item, ShownItem, State } from "./types";

export type Filter = string | ((item: ShownItem) => boolean) | undefined;

/** Returns `before` if both objects have equal members: readers compare by identity. */
export const replaced = <T extends object>(before: T | undefined, after: T): T =>
  before && (Object.keys(after) as (keyof T)[]).every((name) => before[name] === after[name]) ? before : after;

/** Returns `before` if both arrays have the same elements: readers compare by identity. */
function same<T>(before: readonly T[] | undefined, after: readonly T[]): readonly T[] {
  return before?.length === after.length && after.every((value, at) => value === before[at]) ? before : after;
}

/** Computes the state, and keeps objects whose members did not change. */
export class Store {
  /** Whether the state changed since the listeners were called. A reader may have caused the update before them. */
  missed = false;
  /** The state as of the last `update`. */
  computed: State;
  private _shown = new Map<string, ShownItem>();
  private _selections = new Map<Filter, { of: readonly ShownItem[]; result: readonly ShownItem[] }>();

  constructor(connection: Connection) {
    this.computed = {
      items: [], badge: 0, connection, pending: new Set(), outbox: 0, loaded: false, user: null, device: null, mismatches: 0,
    };
  }

  /** Computes the state at `now` (Unix seconds of the server). `rest`: the members that are not from the synchronizer. */
  update(synchronizer: Synchronizer, now: number, rest: Pick<State, "connection" | "loaded" | "user" | "device">): void {
    const { items, pending } = synchronizer.shown(now);
    const shown = new Map<string, ShownItem>();
    for (const [id, item] of items) shown.set(id, this.show(id, item, synchronizer.mirror, now));
    this._shown = shown;
    const sorted = [...shown.values()].sort((a, b) => b.times.created - a.times.created || (a.id < b.id ? -1 : 1));
    const before = this.computed;
    const next: State = {
      ...rest,
      items: same(before.items, sorted),
      badge: sorted.filter(({ category }) => counts(synchronizer.mirror.uncounted, category)).length,
      pending: pending.size === before.pending.size && [...pending].every((id) => before.pending.has(id)) ? before.pending : pending,
      outbox: synchronizer.outbox.size,
      mismatches: synchronizer.mismatches,
    };
    this.computed = replaced(before, next);
    this.missed ||= this.computed !== before;
  }

  /** Returns the next moment at which an item expires or becomes due; Infinity without one. */
  nextMoment(now: number): number {
    let next = Infinity;
    for (const { times } of this.computed.items) {
      for (const at of [times.expires, ...(times.remind_at ?? [])]) if (at! > now && at! < next) next = at!;
    }
    return next;
  }

  select(filter?: Filter): readonly ShownItem[] {
    const { items } = this.computed;
    if (filter === undefined) return items;
    const before = this._selections.get(filter);
    if (before?.of === items) return before.result;
    const keep = typeof filter === "string" ? ({ category }: ShownItem) => covers(filter, category) : filter;
    const result = same(before?.result, items.filter(keep));
    // A function that is made for each call must not fill the memory.
    if (this._selections.size > 100) this._selections.clear();
    this._selections.set(filter, { of: items, result });
    return result;
  }

  /** Returns an item as a page shows it, also one that was removed. */
  show(id: string, item: Item, mirror: Mirror, now: number, rendered = mirror.rendered.get(id)): ShownItem {
    const { times, for_device, category, body } = item;
    return replaced(this._shown.get(id), {
      id, times, for_device, category, body,
      pending: !mirror.items.has(id),
      due: !!times.remind_at?.some((at) => at <= now),
      rendered: rendered ?? null,
    });
  }
}
