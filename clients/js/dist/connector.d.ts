/**
 * Keeps one connection: token, transport by evidence, back-off, detection of a dead connection.
 *
 * The synchronizer decides what is sent; the connector only carries frames.
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
    /** Whether the attempt has ended: nothing that it reports counts. */
    over: boolean;
    heardAt: number;
    /** Milliseconds of running time since an unanswered ping; -1 without one. */
    waited: number;
    syncedAt: number;
    /** The state that was last sent to the server. */
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
    /** Place of the transport of the next attempt. */
    protected _level: number;
    private _failures;
    /** The moment for which the server asked to reconnect; 0 without such a hint. */
    private _hintAt;
    /** Not before this moment may an event of the page end the wait for a retry: the server said so. */
    private _earliest;
    private _token;
    private _isFresh;
    /** Tokens that were refused since the last connection. */
    private _refused;
    private _retryTimer;
    private _watchTimer;
    constructor(_options: ConnectorOptions, _synchronizer: Synchronizer, _events: ConnectorEvents);
    get transport(): import("./types.js").TransportName | null;
    /** Connects, unless a connection exists or was closed for good. */
    start(): void;
    /** Disconnects until `start`. */
    stop(): void;
    /** Tries again at once if a retry waits; otherwise finds out whether the connection is alive. */
    wake(): void;
    /** Sends frames if a connection is in sync; otherwise they are dropped. */
    send(frames: Frame[]): void;
    /** Reports whether a page is in the foreground: in each `hello`, and when it changes. */
    setForeground(foreground: boolean): void;
    /** Returns a token that has not expired. */
    freshToken(force?: boolean): Promise<string>;
    private _connect;
    protected _attempt(level: number): Attempt;
    /** Opens the transport of an attempt. `failed` is called when it ends, `first` before its first frame. */
    protected _open(attempt: Attempt, token: string, position: Frame, failed?: (code: number, reason: string) => void, first?: () => void): void;
    protected _drop(attempt: Attempt | null): void;
    /** Hook of the ladder: a transport that brought no frame. Returns the delay of the next attempt. */
    protected _failed(_code: number, delay: number): number;
    /** Hook of the ladder: the connection is in sync. */
    protected _good(): void;
    private _onFrame;
    private _onSynced;
    protected _onClosed(attempt: Attempt, code: number, reason: string): void;
    /** Ends the present connection or attempt. */
    protected _leave(): void;
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
