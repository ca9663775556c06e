/** The state that a page shows, computed from the synchronizer. Equal values keep their identity. */

import { counts, type Mirror } from "./mirror";
import { covers } from "./messages";
import type { Synchronizer } from "./synchronizer";
import type { Connection, Item, Rendering, ShownItem, State } from "./types";

export type Filter = string | ((item: ShownItem) => boolean) | undefined;

/** Returns `before` if both objects have equal members: readers compare by identity. */
export const replaced = <T extends object>(before: T | undefined, after: T): T =>
  before && (Object.keys(after) as (keyof T)[]).every((name) => before[name] === after[name]) ? before : after;

/** Returns `before` if both arrays have the same elements: readers compare by identity. */
function same<T>(before: readonly T[] | undefined, after: readonly T[]): readonly T[] {
  return before?.length === after.length && after.every((value, at) => value === before[at]) ? before : after;
}

export class Store {
  /** Whether the state changed since the listeners were called: a reader may have computed it before. */
  missed = false;
  private state: State;
  private shown = new Map<string, ShownItem>();
  private sources = new WeakMap<ShownItem, Item>();
  private selections = new Map<Filter, { of: readonly ShownItem[]; result: readonly ShownItem[] }>();

  constructor(connection: Connection) {
    this.state = {
      items: [], badge: 0, connection, pending: new Set(), outbox: 0, loaded: false, user: null, device: null, mismatches: 0,
    };
  }

  get current(): State {
    return this.state;
  }

  /** Computes the state at `now` (Unix seconds of the server). */
  update(synchronizer: Synchronizer, now: number, rest: Pick<State, "connection" | "loaded" | "user" | "device">): void {
    const { items, pending } = synchronizer.shown(now);
    const shown = new Map<string, ShownItem>();
    for (const [id, item] of items) shown.set(id, this.show(id, item, synchronizer.mirror, now));
    this.shown = shown;
    const sorted = [...shown.values()].sort((a, b) => b.times.created - a.times.created || (a.id < b.id ? -1 : 1));
    const before = this.state;
    const next: State = {
      ...rest,
      items: same(before.items, sorted),
      badge: sorted.filter(({ category }) => counts(synchronizer.mirror.uncounted, category)).length,
      pending: pending.size === before.pending.size && [...pending].every((id) => before.pending.has(id)) ? before.pending : pending,
      outbox: synchronizer.outbox.size,
      mismatches: synchronizer.mismatches,
    };
    this.state = replaced(before, next);
    this.missed ||= this.state !== before;
  }

  /** Returns the next moment at which an item expires or becomes due; Infinity without one. */
  nextMoment(now: number): number {
    let next = Infinity;
    for (const { times } of this.state.items) {
      for (const at of [times.expires, ...(times.remind_at ?? [])]) if (at !== undefined && at > now && at < next) next = at;
    }
    return next;
  }

  select(filter?: Filter): readonly ShownItem[] {
    const { items } = this.state;
    if (filter === undefined) return items;
    const before = this.selections.get(filter);
    if (before?.of === items) return before.result;
    const keep = typeof filter === "string" ? ({ category }: ShownItem) => covers(filter, category) : filter;
    const result = same(before?.result, items.filter(keep));
    // A function that is made for each call must not fill the memory.
    if (this.selections.size > 100) this.selections.clear();
    this.selections.set(filter, { of: items, result });
    return result;
  }

  /** Returns an item as a page shows it, also one that has left. */
  show(id: string, item: Item, mirror: Mirror, now: number): ShownItem {
    const pending = !mirror.items.has(id);
    const due = !!item.times.remind_at?.some((at) => at <= now);
    const rendered: Rendering | null = mirror.rendered.get(id) ?? null;
    const before = this.shown.get(id);
    if (
      before && this.sources.get(before) === item && before.pending === pending && before.due === due &&
      before.rendered === rendered
    ) return before;
    const { times, for_device, category, body } = item;
    const shown = { id, times, for_device, category, body, pending, due, rendered };
    this.sources.set(shown, item);
    return shown;
  }
}
