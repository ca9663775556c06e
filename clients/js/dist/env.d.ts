/** The browser or Node, as the client sees it: clocks, timers, randomness and the APIs that may be missing. */
/** The part of `BroadcastChannel` that tabs use. */
export interface Channel {
    postMessage(message: unknown): void;
    onmessage: ((event: {
        data: any;
    }) => void) | null;
    close(): void;
}
/** The part of `navigator.locks` that tabs use. */
export interface Locks {
    request(name: string, options: {
        signal?: AbortSignal;
    }, held: () => Promise<void>): Promise<unknown>;
}
/** Everything outside of the client. Tests replace it; pages never see it. */
export interface Env {
    /** Milliseconds since 1970, by the clock of the device: may be wrong, may jump. */
    now(): number;
    /** Milliseconds by a clock that never jumps, such as `performance.now`. */
    monotonic(): number;
    /** A number from 0 to 1. */
    random(): number;
    startTimer(callback: () => void, ms: number): unknown;
    stopTimer(timer: any): void;
    fetch: typeof fetch;
    WebSocket: any;
    channel: ((name: string) => Channel) | null;
    locks: Locks | null;
    indexedDB: IDBFactory | null;
    /** Whether the page is visible; true outside of a browser. */
    visible(): boolean;
    /** Calls `listener` for an event of the window or document. Returns a function that removes it. */
    listen(type: string, listener: (event: any) => void): () => void;
}
/** Returns the result of `work`. Rejects with `text` if it does not settle within `ms`. */
export declare function within<T>(env: Env, work: T | Promise<T>, ms: number, text: string): Promise<T>;
/** Returns the environment of this page or process. Only `connect` reads it: a server may import the client. */
export declare function defaultEnv(): Env;
