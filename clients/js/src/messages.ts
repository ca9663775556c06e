/**
 * Messages as a client writes them, and the rules that make a repeat harmless (docs/semantics.md L2). No I/O, no clock.
 *
 * The twin in Python is `gregor.client.messages`; semantics.md, "Where each rule lives", lists the other places.
 */

import { hex, sha256 } from "./digest";
import type { CreateOptions, DismissOptions, Item, Message } from "./types";

export type Body = Record<string, any>;
export type Interval = { category?: string; category_prefix?: string; begin?: number; end?: number; skip?: string[] };

/** Returns a random name for an item, message or session. Unlike `crypto.randomUUID`, it needs no secure context. */
export const randomName = (): string => hex(crypto.getRandomValues(new Uint8Array(16)), 2);

/** Returns a moment as Unix seconds; an offset and undefined stay as they are. */
export const secondsOf = <T>(time: T | Date): T | number => ((time as Date)?.getTime ? +(time as Date) / 1000 : (time as T));

/** Returns a message that creates one item. Options that are not given are undefined: JSON leaves them out. */
export function creation(id: string, category: string, body: unknown, options: CreateOptions = {}): Message {
  const { created, expires, remindAt, forDevice } = options;
  const times = { created: secondsOf(created), expires: secondsOf(expires), remind_at: remindAt?.map(secondsOf) };
  return { system: "gregor", body: { create: { [id]: { times, for_device: forDevice, category, body } } } };
}

/** Returns a message that dismisses ids, or all items of a category or under a prefix. Throws TypeError without exactly one of both. */
export function dismissal(what: string | readonly string[] | DismissOptions): Message {
  if (typeof what === "string") what = [what];
  if (Array.isArray(what)) return { system: "gregor", body: { dismiss: { ids: [...what] } } };
  const { category, prefix, end, skip } = what as DismissOptions;
  if ((category === undefined) === (prefix === undefined)) {
    throw new TypeError("dismiss: give either category or prefix");
  }
  const interval = { category, category_prefix: prefix, end: secondsOf(end), skip: skip && [...skip].sort() };
  return { system: "gregor", body: { dismiss: { intervals: [interval] } } };
}

/**
 * Returns a message that creates a copy of the item at `until` (Unix seconds). Equal arguments make equal messages.
 * Throws RangeError if the item expires before that.
 */
export function snoozed(id: string, item: Item, until: number, device: string | null): Message {
  const { expires, remind_at } = item.times;
  if (expires! <= until) throw new RangeError(`snooze: ${id} expires before the snooze ends`);
  const copy = `snoozed:${hex(sha256(`${id}\0${until}`).subarray(0, 4), 8)}`;
  const message = creation(copy, item.category, item.body, {
    forDevice: item.for_device === "*" && device !== null ? device : item.for_device,
    expires,
    remindAt: remind_at?.filter((at) => at > until),
  });
  return { ...message, id: copy, not_before: until };
}

/** Returns whether a prefix covers a category, by whole segments: `mail` covers `mail.spam`, but not `mailbox`. */
export function covers(prefix: string, category: string): boolean {
  const whole = prefix.replace(/\.?$/, ".");
  return whole === "." || `${category}.`.startsWith(whole);
}

export const intervalsOf = (body: Body): Interval[] => body.dismiss?.intervals ?? [];

/** Returns whether an interval has no `end`, and no creation in the same message that determines one. */
export const isOpen = (interval: Interval, body: Body): boolean =>
  interval.end == null && !Object.values<Item>(body.create ?? {}).some((item) => hasCategory(interval, item.category));

const hasCategory = (interval: Interval, category: string): boolean =>
  interval.category_prefix != null ? covers(interval.category_prefix, category) : interval.category === category;

/** Returns whether the interval dismisses the item, both ends included; an item without `created` is created now. */
export function catches(interval: Interval, id: string, item: Item): boolean {
  if (interval.skip?.includes(id) || !hasCategory(interval, item.category)) return false;
  const created = item.times?.created;
  if (created == null) return interval.end == null;
  return (interval.begin == null || interval.begin <= created) && (interval.end == null || created <= interval.end);
}

/** Returns whether a message needs an id: its effect depends on the moment of arrival, so a repeat would not be harmless. */
export const needsId = (message: Message): boolean =>
  message.system !== "gregor" || message.not_before != null || !!message.body.flush ||
  intervalsOf(message.body).some((interval) => isOpen(interval, message.body));
