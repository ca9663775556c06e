/** The server's time, kept by a clock that never jumps: the clock of a device may be wrong by hours. */

import type { Env } from "./env";

/** A sample that differs by more than this replaces the offset: the machine slept, or the server's clock was set. */
const JUMP_MS = 5_000;

export class ServerClock {
  private _offset = NaN;

  constructor(private _env: Env) {}

  /** Corrects the clock by the server's time in milliseconds, from a `welcome` or the response to a poll. */
  learn(now: number): void {
    const sample = now - this._env.monotonic();
    const jump = sample - this._offset;
    // The mean of the old and the new offset: one slow frame must not move the time of all items.
    this._offset = Math.abs(jump) < JUMP_MS ? this._offset + jump / 2 : sample;
  }

  /** Returns the server's time in Unix seconds; before the first sample, the time of this device. */
  now(): number {
    return (this._env.monotonic() + this._offset || this._env.now()) / 1000;
  }
}
