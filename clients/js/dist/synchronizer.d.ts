/**
 * The synchronizer of a user's state: the copy, the outbox, and the frames that they send. No I/O and no clock.
 *
 * Frames of a connection go in, frames to send come out. `gregor conformance` tests this class against a simulated
 * server. Waits and the comparison of the digest follow the monotonic clock (`monotonicMs`). The times of items are
 * compared with the clock of the server (`now`, Unix seconds).
 */
import { type Change, type Frame, Mirror } from "./mirror.js";
import { type Completed, type Entry, Outbox } from "./outbox.js";
import type { Item, Message } from "./types.js";
/** The effects of one frame. */
export interface Outcome {
    send: Frame[];
    changes: Change[];
    completed: Completed[];
    /** The connection cannot be used any longer: the server refused `hello`. */
    end?: {
        code: number;
        reason: string;
    };
}
export declare class Synchronizer {
    mirror: Mirror;
    outbox: Outbox;
    /** Whether the connection is open and its first sync object was applied. */
    synced: boolean;
    /** The number of copies whose digest differed from the server's. */
    mismatches: number;
    private _repairing;
    private _checkAt;
    /** Starts a new connection, and returns the position for its `hello`. */
    opened(): Frame;
    /** Ends the connection. */
    closed(): void;
    /** Cursor and digest of the copy; empty without a copy. */
    position(): Frame;
    /**
     * Enqueues a message, which the next `tick` sends. Throws if the outbox is full, or if the message is too long or of
     * the wrong form.
     */
    put(message: Message, now: number, after?: string): Entry;
    /** Processes one frame of the server. */
    receive(frame: Frame, monotonicMs: number): Outcome;
    /** Returns the frames that are due at `monotonicMs`: messages after a wait, and the comparison of the digest. */
    tick(monotonicMs: number): Frame[];
    /** The next moment at which `tick` has something to do, in monotonic milliseconds; it may be past. */
    nextTick(): number;
    /** Returns the items to show at `now`, and the ids that wait for the server. */
    shown(now: number): {
        items: Map<string, Item>;
        pending: Set<string>;
    };
    private _sendable;
    private _onSynced;
    /** A problem without a ref answers the `hello` or a `resync`, not a message of the outbox. */
    private _onProblem;
}
