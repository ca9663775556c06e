/** The server's time, kept by a clock that never jumps: the clock of a device may be wrong by hours. */
import type { Env } from "./env.js";
export declare class ServerClock {
    private _env;
    private _offset;
    constructor(_env: Env);
    /** Corrects the clock by the server's time in milliseconds, from a `welcome` or the response to a poll. */
    learn(now: number): void;
    /** Returns the server's time in Unix seconds; before the first sample, the time of this device. */
    now(): number;
}
