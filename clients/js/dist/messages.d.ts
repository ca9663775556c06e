/**
 * Messages as a client writes them, and the rules that make a repeat harmless (docs/semantics.md L2). No I/O, no clock.
 *
 * The twin in Python is `gregor.client.messages`; semantics.md, "Where each rule lives", lists the other places.
 */
import type { CreateOptions, DismissOptions, Item, Message } from "./types.js";
export type Body = Record<string, any>;
export type Interval = {
    category?: string;
    category_prefix?: string;
    begin?: number;
    end?: number;
    skip?: string[];
};
/** Returns a random name for an item, message or session. Unlike `crypto.randomUUID`, it needs no secure context. */
export declare const randomName: () => string;
/** Returns a moment as Unix seconds; an offset and undefined stay as they are. */
export declare const secondsOf: <T>(time: T | Date) => T | number;
/** Returns a message that creates one item. Options that are not given are undefined: JSON leaves them out. */
export declare function creation(id: string, category: string, body: unknown, options?: CreateOptions): Message;
/** Returns a message that dismisses ids, or all items of a category or under a prefix. Throws TypeError without exactly one of both. */
export declare function dismissal(what: string | readonly string[] | DismissOptions): Message;
/**
 * Returns a message that creates a copy of the item at `until` (Unix seconds). Equal arguments make equal messages.
 * Throws RangeError if the item expires before that.
 */
export declare function snoozed(id: string, item: Item, until: number, device: string | null): Message;
/** Returns whether a prefix covers a category, by whole segments: `mail` covers `mail.spam`, but not `mailbox`. */
export declare function covers(prefix: string, category: string): boolean;
export declare const intervalsOf: (body: Body) => Interval[];
/** Returns whether an interval has no `end`, and no creation in the same message that determines one. */
export declare const isOpen: (interval: Interval, body: Body) => boolean;
/** Returns whether the interval dismisses the item, both ends included; an item without `created` is created now. */
export declare function catches(interval: Interval, id: string, item: Item): boolean;
/** Returns whether a message needs an id: its effect depends on the moment of arrival, so a repeat would not be harmless. */
export declare const needsId: (message: Message) => boolean;
