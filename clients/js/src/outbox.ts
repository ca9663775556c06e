/**
 * Messages that the server has not confirmed yet, and the overlay: their effect on the shown items. No I/O, no clock.
 *
 * An entry leaves when its receipt has arrived and the copy has reached its seq, or when the server refuses it for good
 * (docs/semantics.md L11). Unanswered messages are sent again after a reconnect; a repeat has no effect (L2). The twin
 * in Python is `gregor.client.outbox`.
 */

import { type Body, catches, intervalsOf, isOpen, needsId, randomName } from "./messages";
import type { Frame } from "./mirror";
import type { Item, Message, Problem, Receipt } from "./types";

/** A pending message. `key` is globally unique: tabs share entries, and the frame carries it as `ref`. */
export interface Entry {
  readonly key: string;
  readonly message: Message;
  /** Unix seconds at which the message was enqueued. */
  readonly queued: number;
  /** Key of an entry that must be accepted first; if it is refused, this one is dropped. */
  readonly after?: string;
  /** User and device for which the message was enqueued, if they were known. Only stored entries have it. */
  readonly owner?: string;
}

/** An entry that left the outbox: with its receipt, or with the problem for which the server refused it. */
export interface Completed {
  readonly key: string;
  readonly receipt?: Receipt;
  readonly problem?: Problem;
}

/** Messages that may be unanswered at once: below the burst of a device token (50), enough to hide a round trip. */
const IN_FLIGHT = 32;
/** Entries that may wait. A page that is offline for weeks must not fill the storage. */
export const MAX_ENTRIES = 1000;
/** Longest wait that a server can ask for, in milliseconds. */
export const MAX_WAIT_MS = 3_600_000;
/** Longest message or post in UTF-16 units, of up to three bytes each: the gateway refuses more than 1 MiB. */
export const MAX_LENGTH = 300_000;
/** Codes of docs/reference/errors.md with "again: yes", and the statuses of a proxy that writes no code. */
const RETRYABLE = /^(rate_limited|internal|not_replicated|unavailable|429|50[0234])$/;

export const isRetryable = ({ code, status }: Problem): boolean => RETRYABLE.test(`${code ?? status}`);

export class Outbox {
  private _entries = new Map<string, Entry>();
  /** Keys of the messages that were sent and not yet answered. */
  private _sent = new Set<string>();
  private _receipts = new Map<string, Receipt>();
  private _lastQueued = 0;
  /** Monotonic milliseconds before which nothing is sent, because the server asked to wait; 0 after the wait. */
  // Not the server's time: a step back of its clock would extend the wait by the length of the step. In some browsers
  // `performance.now` stops while the machine sleeps: after the sleep, the rest of the wait still follows.
  holdUntil = 0;

  get size(): number {
    return this._entries.size;
  }

  all(): Entry[] {
    return [...this._entries.values()];
  }

  /** Enqueues a message, and makes it safe to repeat. `copy`: the present copy. Throws if the outbox is full or the message is invalid. */
  put(message: Message, copy: ReadonlyMap<string, Item>, now: number, after?: string): Entry {
    if (this._entries.size >= MAX_ENTRIES) {
      throw new RangeError(`outbox full: ${MAX_ENTRIES} messages`);
    }
    if (JSON.stringify(message).length > MAX_LENGTH) throw new RangeError(`message too long: over ${MAX_LENGTH} characters`);
    if (message.system === "gregor" && intervalsOf(message.body).length) {
      message = { ...message, body: this._closed(message.body, copy) };
    }
    if (message.id == null && needsId(message)) message = { ...message, id: randomName() };
    // Strictly increasing: the storage returns entries in any order.
    this._lastQueued = Math.max(now, this._lastQueued + 1e-6);
    const entry = { key: randomName(), message, queued: this._lastQueued, after };
    // A message of the wrong form throws here, and not at each later reading of the state.
    overlayOne(entry, new Map(copy), new Set());
    this.add(entry);
    return entry;
  }

  /** Adds an entry of the storage or of another tab. */
  add(entry: Entry): void {
    if (!this._entries.has(entry.key)) this._entries.set(entry.key, entry);
  }

  /** Removes an entry that another tab has completed. */
  delete(key: string): void {
    this._sent.delete(key);
    this._receipts.delete(key);
    this._entries.delete(key);
  }

  /** Returns the frames to send at `monotonicMs`, oldest first, and marks them as sent. */
  sendable(monotonicMs: number): Frame[] {
    if (monotonicMs < this.holdUntil) return [];
    this.holdUntil = 0;
    let free = IN_FLIGHT - this._sent.size;
    const chosen = this.all().filter(
      ({ key, after }) => !this._receipts.has(key) && !this._sent.has(key) && !this._entries.has(after!) && free-- > 0,
    );
    return chosen.map(({ key, message }) => {
      this._sent.add(key);
      return { ref: key, ...message };
    });
  }

  /** Marks all messages without a receipt as not sent: the connection is new. */
  reconnected(): void {
    this._sent.clear();
  }

  /** Processes a `receipt` or `problem` frame and returns the completed entries. `seq`: position of the copy. */
  answered(frame: Frame, seq: number, monotonicMs: number): Completed[] {
    const key: string = frame.ref;
    if (!this._entries.has(key)) return [];
    this._sent.delete(key);
    if (frame.receipt) {
      this._receipts.set(key, frame.receipt);
      return this.reached(seq);
    }
    const problem: Problem = frame.problem;
    if (isRetryable(problem)) {
      this.holdUntil = monotonicMs + Math.min(MAX_WAIT_MS, Math.max(1, problem.retry_after_ms ?? 1000));
      return [];
    }
    return this.all()
      .filter((entry) => entry.key === key || entry.after === key)
      .map((entry) => {
        this.delete(entry.key);
        return { key: entry.key, problem };
      });
  }

  /** Removes and returns the entries whose effect a copy at `seq` shows. A message without effect needs no frame. */
  reached(seq: number): Completed[] {
    const done: Completed[] = [];
    for (const [key, receipt] of this._receipts) {
      if (!receipt.unchanged && (receipt.seq ?? 0) > seq) continue;
      this.delete(key);
      done.push({ key, receipt });
    }
    return done;
  }

  /**
   * Sends messages again whose receipt names a seq above that of a full copy.
   *
   * A failover lost them (L12): the copy would reach that seq by other messages, without their effect.
   */
  fullCopyAt(seq: number): void {
    for (const [key, receipt] of this._receipts) {
      if ((receipt.seq ?? 0) > seq) this._receipts.delete(key);
    }
  }

  /** Applies the pending messages to `shown`, and returns the ids that they create or dismiss. */
  overlay(shown: Map<string, Item>): Set<string> {
    const touched = new Set<string>();
    for (const entry of this._entries.values()) {
      if (entry.message.system === "gregor") overlayOne(entry, shown, touched);
    }
    return touched;
  }

  /**
   * Returns the body with an `end` for each open interval that catches items of the copy.
   *
   * Pending creations have no `created` that the interval could cover, so the caught ones are dismissed by id.
   */
  private _closed(body: Body, copy: ReadonlyMap<string, Item>): Body {
    const pending = new Map<string, Item>();
    this.overlay(pending);
    const ids: string[] = [...(body.dismiss.ids ?? [])];
    const named = new Set([...ids, ...Object.keys(body.create ?? {})]);
    const intervals = intervalsOf(body).map((interval) => {
      if (!isOpen(interval, body)) return interval;
      for (const [id, item] of pending) {
        if (named.has(id) || !catches(interval, id, item)) continue;
        named.add(id);
        ids.push(id);
      }
      const ends = [...copy].filter(([id, item]) => catches(interval, id, item)).map(([, item]) => item.times.created);
      return ends.length ? { ...interval, end: Math.max(...ends) } : interval;
    });
    return { ...body, dismiss: { ...body.dismiss, intervals, ...(ids.length ? { ids } : {}) } };
  }
}

/** The intervals of a message never dismiss the items that it creates itself (L3). */
function overlayOne({ message, queued }: Entry, shown: Map<string, Item>, touched: Set<string>): void {
  if (message.not_before != null) return; // it takes effect later
  const body: Body = message.body;
  const create: Body = body.create ?? {};
  const spans = intervalsOf(body);
  const gone = new Set<string>(body.dismiss?.ids ?? []);
  for (const [id, item] of spans.length ? shown : []) {
    if (!Object.hasOwn(create, id) && spans.some((span) => catches(span, id, item))) gone.add(id);
  }
  for (const id of gone) {
    shown.delete(id);
    touched.add(id);
  }
  for (const [id, item] of Object.entries<Body>(create)) {
    touched.add(id);
    if (!shown.has(id)) shown.set(id, asShown(item, queued));
  }
}

/** Returns a pending creation as an item: `created` defaults to the time when it was enqueued, and offsets are resolved. */
function asShown({ times, for_device, category, body }: Body, queued: number): Item {
  const created = times?.created ?? queued;
  const absolute = (time: any): any => (typeof time === "string" ? created + parseFloat(time) * (UNITS[time.slice(-1)] ?? 1) : (time ?? undefined));
  const remind_at = times?.remind_at?.map(absolute).sort((a: number, b: number) => a - b);
  return { times: { created, expires: absolute(times?.expires), remind_at }, for_device: for_device ?? null, category, body: body ?? null };
}

const UNITS: Record<string, number> = { m: 60, h: 3600, d: 86400, w: 604800 };
