/** The client of a page: synchronizer, connection and store. `full.ts` adds storage and tabs. */
import { ServerClock } from "./clock.js";
import { Connector } from "./connector.js";
import { type Env } from "./env.js";
import { type Change, type Frame } from "./mirror.js";
import { type Completed, type Entry } from "./outbox.js";
import { Synchronizer } from "./synchronizer.js";
import { type Filter } from "./store.js";
import type { Transport } from "./transports.js";
import type { Connection, ConnectOptions, CoreClient, CreateOptions, DismissOptions, Endpoints, ExternalEvent, ItemEvent, Message, Problem, Receipt, ShownItem, State } from "./types.js";
/** The server refused a message, or the client was closed. `problem` is the document of the server, if there is one. */
export declare class GregorError extends Error {
    readonly problem: Problem | null;
    name: string;
    constructor(message: string, problem?: Problem | null);
}
/** A promise that callers may ignore: without a handler, its rejection would end a Node process. */
export declare function ignorable<T>(promise: Promise<T>): Promise<T>;
export declare class GregorClient implements CoreClient {
    protected options: ConnectOptions;
    readonly env: Env;
    readonly ready: Promise<void>;
    readonly synchronizer: Synchronizer;
    readonly clock: ServerClock;
    readonly connector: Connector;
    readonly endpoints: Endpoints;
    user: string | null;
    device: string | null;
    protected loaded: boolean;
    protected closed: boolean;
    private _store;
    private _listeners;
    private _handlers;
    private _receipts;
    protected ends: (() => void)[];
    private _dirty;
    private _announced;
    private _foreground;
    /** Whether user and device are those of a token; until then those of the stored copy or of another tab. */
    isProven: boolean;
    /** The seq up to which the user has seen the state, in any tab. */
    wantedAck: number;
    private _timer;
    private _settle;
    constructor(options: ConnectOptions, transports: readonly Transport[], env?: Env, connector?: typeof Connector);
    getState(): State;
    subscribe(listener: () => void): () => void;
    select(filter?: Filter): readonly ShownItem[];
    get badge(): number;
    get connection(): Connection;
    dispatch(message: Message): Promise<Receipt>;
    create(category: string, body?: unknown, options?: CreateOptions): Promise<Receipt & {
        readonly itemId: string;
    }>;
    dismiss(what: string | readonly string[] | DismissOptions): Promise<Receipt>;
    ack(seq?: number): void;
    setForeground(foreground: boolean): void;
    on(name: string, handler: (event: ItemEvent) => void): () => void;
    onExternal(name: string, handler: (event: ExternalEvent) => void): () => void;
    close(): void;
    frame(frame: Frame): {
        code: number;
        reason: string;
    } | undefined;
    /** Takes user and device of a token. Another user must not see the copy: returns false if the client was closed. */
    identify(token: string): boolean;
    connectionChanged(): void;
    error(error: unknown): void;
    protected launch(): void;
    protected suspend(): void;
    protected resume(): void;
    /** An entry was put, before it is sent. */
    protected stored(_entry: Entry): void;
    /** Entries left the outbox. */
    protected completed(_done: Completed[]): void;
    /** Frees what belongs to the user before. */
    protected clear(): void;
    /** Reports whether the user looks at the page. */
    protected updateForeground(): void;
    get isForeground(): boolean;
    /** What storage and tabs know better. */
    protected sharedConnection(): Partial<Connection>;
    protected connectionNow(): Connection;
    /**
     * Records that the user has seen the state up to `seq`, and reports it now and after each new connection.
     *
     * Capped at the seq of the copy: after a failover, another tab may still report a seq of the lost history.
     */
    seen(seq: number): void;
    become(user: string, device: string, isProven: boolean): boolean;
    applied(changes: Change[], done: Completed[]): void;
    /** Settles the promises of entries that left. */
    settle(done: Completed[]): void;
    sendPending(): void;
    /** Something changed: readers are called after this turn. */
    markChanged(): void;
    guard(call: () => void): void;
    protected _put(message: Message, after?: string): {
        key?: string;
        receipt: Promise<Receipt>;
    };
    private _handle;
    private _emit;
    /** Wakes at the next expiry, reminder, check or end of a wait. */
    private _plan;
    /** Rejects the promises of all entries; with `isFinal` also `ready`. Returns their error. */
    private _reject;
}
/** Returns the three addresses of the server without a slash at the end. */
export declare function endpointsOf(url: string | Endpoints): Endpoints;
