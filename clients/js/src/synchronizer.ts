/**
 * The synchronizer of a user's state: the copy, the outbox, and the frames that they send. No I/O and no clock.
 *
 * Frames of a connection go in, frames to send come out. `gregor conformance` tests this class against a simulated
 * server. Waits and the comparison of the digest follow the monotonic clock (`monotonicMs`). The times of items are
 * compared with the clock of the server (`now`, Unix seconds).
 */

import { type Change, type Frame, Mirror } from "./mirror";
import { type Completed, type Entry, isRetryable, Outbox } from "./outbox";
import type { Item, Message, Problem } from "./types";

/** Interval of the comparison with the server's digest. */
const CHECK_MS = 300_000;

/** The effects of one frame. */
export interface Outcome {
  send: Frame[];
  changes: Change[];
  completed: Completed[];
  /** The connection cannot be used any longer: the server refused `hello`. */
  end?: { code: number; reason: string };
}

export class Synchronizer {
  mirror = new Mirror();
  outbox = new Outbox();
  /** Whether the connection is open and its first sync object was applied. */
  synced = false;
  /** The number of copies whose digest differed from the server's. */
  mismatches = 0;
  private _repairing = false;
  private _checkAt = Infinity;

  /** Starts a new connection, and returns the position for its `hello`. */
  opened(): Frame {
    this.closed();
    this.outbox.reconnected();
    return this.position();
  }

  /** Ends the connection. */
  closed(): void {
    this.synced = false;
    this._repairing = false;
    this._checkAt = Infinity;
  }

  /** Cursor and digest of the copy; empty without a copy. */
  position(): Frame {
    const { cursor, digest } = this.mirror;
    return cursor === null ? {} : { cursor, digest };
  }

  /**
   * Enqueues a message, which the next `tick` sends. Throws if the outbox is full, or if the message is too long or of
   * the wrong form.
   */
  put(message: Message, now: number, after?: string): Entry {
    return this.outbox.put(message, this.mirror.items, now, after);
  }

  /** Processes one frame of the server. */
  receive(frame: Frame, monotonicMs: number): Outcome {
    const outcome: Outcome = { send: [], changes: [], completed: [] };
    if (frame.ref !== undefined) {
      outcome.completed = this.outbox.answered(frame, this.mirror.seq, monotonicMs);
    } else if (frame.problem) {
      this._onProblem(frame.problem, monotonicMs, outcome);
    } else {
      outcome.changes = this.mirror.apply(frame);
      for (const change of outcome.changes) if (change.type === "synced") this._onSynced(change, monotonicMs, outcome.send);
      outcome.completed = this.outbox.reached(this.mirror.seq);
    }
    outcome.send.push(...this._sendable(monotonicMs));
    return outcome;
  }

  /** Returns the frames that are due at `monotonicMs`: messages after a wait, and the comparison of the digest. */
  tick(monotonicMs: number): Frame[] {
    const send = this._sendable(monotonicMs);
    if (this.synced && monotonicMs >= this._checkAt) {
      this._checkAt = monotonicMs + CHECK_MS;
      send.push({ resync: this.mirror.needsFull || this.position() });
    }
    return send;
  }

  /** The next moment at which `tick` has something to do, in monotonic milliseconds; it may be past. */
  nextTick(): number {
    // `holdUntil` counts even if it is past: timers fire up to 1 ms early, so the last `tick` may have come too soon.
    return Math.min((this.synced && this.outbox.size && this.outbox.holdUntil) || Infinity, this._checkAt);
  }

  /** Returns the items to show at `now`, and the ids that wait for the server. */
  shown(now: number): { items: Map<string, Item>; pending: Set<string> } {
    const items = new Map(this.mirror.items);
    const pending = this.outbox.overlay(items);
    // An item is expired from the moment `expires` on (L6).
    for (const [id, { times }] of items) if (times.expires! <= now) items.delete(id);
    return { items, pending };
  }

  private _sendable(monotonicMs: number): Frame[] {
    return this.synced ? this.outbox.sendable(monotonicMs) : [];
  }

  private _onSynced(change: Change & { type: "synced" }, monotonicMs: number, send: Frame[]): void {
    this.synced = true;
    this._checkAt = monotonicMs + CHECK_MS;
    if (!change.proven) this.mismatches++;
    if (change.kind === "full") this.outbox.fullCopyAt(this.mirror.seq);
    // Only once: if a full copy does not match its own digest, another request would lead to the same.
    if (this.mirror.needsFull && !this._repairing) send.push({ resync: true });
    this._repairing = this.mirror.needsFull;
  }

  /** A problem without a ref answers the `hello` or a `resync`, not a message of the outbox. */
  private _onProblem(problem: Problem, monotonicMs: number, outcome: Outcome): void {
    const waitMs = problem.retry_after_ms ?? 1000;
    if (this.synced) this._checkAt = Math.min(this._checkAt, monotonicMs + waitMs);
    else if (isRetryable(problem)) outcome.end = { code: 4006, reason: `retry_after_ms=${waitMs}` };
    else outcome.end = { code: 4503, reason: `${problem.code}: ${problem.detail}` };
  }
}
