/**
 * Keeps one connection: token, transport by evidence, back-off, detection of a dead connection.
 *
 * The synchronizer decides what is sent; the connector only carries frames.
 */
import type { ServerClock } from "./clock.js";
import type { Env } from "./env.js";
import type { Frame } from "./mirror.js";
import type { Synchronizer } from "./synchronizer.js";
import { type Transport } from "./transports.js";
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
    error(error: Error): void;
}
export declare class Connector {
    private options;
    private synchronizer;
    private events;
    status: "idle" | "connecting" | "connected" | "stopped";
    why: string | null;
    code: number | null;
    foreground: boolean;
    private current;
    private upgrade;
    private level;
    private failures;
    private upgrades;
    private generation;
    private hintAt;
    private token;
    private isFresh;
    private retryTimer;
    private watchTimer;
    private upgradeTimer;
    constructor(options: ConnectorOptions, synchronizer: Synchronizer, events: ConnectorEvents);
    get transport(): import("./types.js").TransportName | null;
    /** Connects, unless a connection exists or was closed for good. */
    start(): void;
    /** Disconnects until `start`. */
    stop(): void;
    /** Tries again at once if a retry waits; otherwise finds out whether the connection is alive. */
    wake(): void;
    /** Sends frames if a connection is in sync; otherwise they are dropped. */
    send(frames: Frame[]): void;
    /** Reports whether the user looks at a page, now and in each `hello`. */
    setForeground(foreground: boolean): void;
    /** Returns a token that has not expired. */
    freshToken(force?: boolean): Promise<string>;
    /** Forgets the token: the server refused it. */
    dropToken(): void;
    private connect;
    private open;
    private onFrame;
    private onSynced;
    private onClosed;
    private end;
    private reconnectIn;
    private refresh;
    private watch;
    private ping;
    private planUpgrade;
    private tryUpgrade;
    private upgraded;
    private upgradeFailed;
    private dropUpgrade;
    private setStatus;
}
/** Returns the claims of a token without checking it: only the server can. */
export declare function claimsOf(token: string): {
    sub: string;
    device: string;
    exp: number;
};
