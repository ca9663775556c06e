/**
 * Messages that the server has not confirmed yet, and the overlay: their effect on the shown items. No I/O, no clock.
 *
 * An entry leaves when its receipt has arrived and the copy has reached its seq, or when the server refuses it for good
 * (docs/semantics.md L11). Unanswered messages are sent again after a reconnect; a repeat has no effect (L2). The twin
 * in Python is `gregor.client.outbox`.
 */
import type { Frame } from "./mirror.js";
import type { Item, Message, Problem, Receipt } from "./types.js";
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
/** Entries that may wait. A page that is offline for weeks must not fill the storage. */
export declare const MAX_ENTRIES = 1000;
/** Longest wait that a server can ask for, in milliseconds. */
export declare const MAX_WAIT_MS = 3600000;
/** Longest message or post in UTF-16 units, of up to three bytes each: the gateway refuses more than 1 MiB. */
export declare const MAX_LENGTH = 300000;
export declare const isRetryable: ({ code, status }: Problem) => boolean;
export declare class Outbox {
    private _entries;
    /** Keys of the messages that were sent and not yet answered. */
    private _sent;
    private _receipts;
    private _lastQueued;
    /** Monotonic milliseconds before which nothing is sent, because the server asked to wait; 0 after the wait. */
    holdUntil: number;
    get size(): number;
    all(): Entry[];
    /** Enqueues a message, and makes it safe to repeat. `copy`: the present copy. Throws if the outbox is full or the message is invalid. */
    put(message: Message, copy: ReadonlyMap<string, Item>, now: number, after?: string): Entry;
    /** Adds an entry of the storage or of another tab. */
    add(entry: Entry): void;
    /** Removes an entry that another tab has completed. */
    delete(key: string): void;
    /** Returns the frames to send at `monotonicMs`, oldest first, and marks them as sent. */
    sendable(monotonicMs: number): Frame[];
    /** Marks all messages without a receipt as not sent: the connection is new. */
    reconnected(): void;
    /** Processes a `receipt` or `problem` frame and returns the completed entries. `seq`: position of the copy. */
    answered(frame: Frame, seq: number, monotonicMs: number): Completed[];
    /** Removes and returns the entries whose effect a copy at `seq` shows. A message without effect needs no frame. */
    reached(seq: number): Completed[];
    /**
     * Sends messages again whose receipt names a seq above that of a full copy.
     *
     * A failover lost them (L12): the copy would reach that seq by other messages, without their effect.
     */
    fullCopyAt(seq: number): void;
    /** Applies the pending messages to `shown`, and returns the ids that they create or dismiss. */
    overlay(shown: Map<string, Item>): Set<string>;
    /**
     * Returns the body with an `end` for each open interval that catches items of the copy.
     *
     * Pending creations have no `created` that the interval could cover, so the caught ones are dismissed by id.
     */
    private _closed;
}
