/** The server's time, kept by a clock that never jumps: the clock of a device may be wrong by hours. */

import type { Env } from "./env";

/** A sample that differs by more than this from the others replaces them: the machine slept, or its clock was set. */
const JUMP_MS = 5_000;

export class ServerClock {
  private samples: number[] = [];
  private offset: number | null = null;

  constructor(private env: Env) {}

  /** Learns the server's time, in milliseconds, from a `welcome` or the response to a poll. */
  learn(now: number): void {
    const sample = now - this.env.monotonic();
    if (this.offset !== null && Math.abs(sample - this.offset) > JUMP_MS) this.samples = [];
    this.samples = [...this.samples, sample].slice(-3);
    // The median: one slow frame must not move the time of all items.
    this.offset = [...this.samples].sort((a, b) => a - b)[(this.samples.length - 1) >> 1]!;
  }

  /** The server's time in Unix seconds; before the first sample the time of this device. */
  now(): number {
    return (this.offset === null ? this.env.now() : this.env.monotonic() + this.offset) / 1000;
  }
}
