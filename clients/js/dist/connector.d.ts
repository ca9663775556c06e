/**
 * Keeps one connection open: fetches tokens, reconnects with backoff, detects dead connections.
 *
 * The connector only carries frames; the synchronizer makes and reads them. `fallback.ts` changes the transport.
 */
import type { ServerClock } from "./clock.js";
import { type Env } from "./env.js";
import type { Frame } from "./mirror.js";
import type { Synchronizer } from "./synchronizer.js";
import { type Link, type Transport } from "./transports.js";
import type { Endpoints, TokenSource } from "./types.js";
export interface ConnectorOptions {
    env: Env;
    clock: ServerClock;
    endpoints: Endpoints;
    transports: readonly Transport[];
    token: TokenSource;
    /** The members of `hello` that do not change: session, filter, language. */
    hello: Frame;
}
/** Receives what happens on the connection. */
export interface ConnectorEvents {
    /** A frame that concerns the synchronizer. Returns a close if the server refused `hello`. */
    frame(frame: Frame): {
        code: number;
        reason: string;
    } | undefined;
    /** A token arrived. Returns false if it is of another user, and must not be used. */
    identify(token: string): boolean;
    /** Status, transport or reason changed. */
    connectionChanged(): void;
    error(error: unknown): void;
}
export interface Attempt {
    link: Link | null;
    transport: Transport;
    /** Whether a frame arrived. */
    alive: boolean;
    /** Whether the attempt has ended. Its later events are ignored. */
    over: boolean;
    heardAt: number;
    /** Milliseconds since an unanswered ping, without suspended time; -1 without such a ping. */
    waited: number;
    syncedAt: number;
    /** The foreground that was last sent to the server. */
    foreground?: boolean;
}
export declare class Connector {
    protected _options: ConnectorOptions;
    protected _synchronizer: Synchronizer;
    protected _events: ConnectorEvents;
    status: "idle" | "connecting" | "connected" | "stopped";
    why: string | null;
    code: number | null;
    foreground: boolean;
    protected _current: Attempt | null;
    /** Index of the transport of the next attempt. */
    protected _level: number;
    private _failures;
    /** The moment for which the server asked to reconnect; 0 without such a hint. */
    private _hintAt;
    /** The server asked to wait until this moment: no event of the page may end the wait earlier. */
    private _earliest;
    private _token;
    private _isFresh;
    /** The number of tokens that were refused since the last connection. */
    private _refused;
    private _retryTimer;
    private _watchTimer;
    constructor(_options: ConnectorOptions, _synchronizer: Synchronizer, _events: ConnectorEvents);
    get transport(): import("./types.js").TransportName | null;
    /** Connects, unless a connection exists or the client has stopped. */
    start(): void;
    /** Disconnects until `start`. */
    stop(): void;
    /** Connects at once instead of waiting for a retry; if a connection exists, sends a ping to check it. */
    wake(): void;
    /** Sends frames if a connection is in sync; otherwise they are dropped. */
    send(frames: Frame[]): void;
    /** Reports whether a page is in the foreground, in each `hello` and at each change. */
    setForeground(foreground: boolean): void;
    /** Returns the present token, or a new one if it expires within a minute or `force` is true. Rejects if the function fails. */
    freshToken(force?: boolean): Promise<string>;
    private _connect;
    protected _attempt(level: number): Attempt;
    /** Opens the transport of an attempt. `failed` is called when it ends, `first` before its first frame. */
    protected _open(attempt: Attempt, token: string, position: Frame, failed?: (code: number, reason: string) => void, first?: () => void): void;
    /** Closes an attempt, whose later events are then ignored. */
    protected _drop(attempt: Attempt | null | undefined): void;
    /** Hook of `fallback.ts`, for a transport that received no frame. Returns the delay of the next attempt in milliseconds. */
    protected _transportFailed(_code: number, delay: number): number;
    /** Hook of `fallback.ts`, for a connection that is in sync. */
    protected _planUpgrade(): void;
    private _onFrame;
    private _onSynced;
    protected _onClosed(attempt: Attempt, code: number, reason: string): void;
    /** Closes the present connection or attempt. */
    protected _disconnect(): void;
    private _end;
    private _reconnectIn;
    private _refresh;
    private _watch;
    private _ping;
    private _setStatus;
}
/** Returns the claims of a token without checking it: only the server can. */
export declare function claimsOf(token: string): {
    sub: string;
    device: string;
    exp: number;
};
