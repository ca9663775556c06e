/** The client of a page: synchronizer, connection and state. `full.ts` adds storage and tabs. */
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
/** Returns the promise, which callers may now ignore: without a handler, its rejection would end a Node process. */
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
    protected _removeListeners: (() => void)[];
    private _dirty;
    private _announced?;
    private _foreground?;
    /** Whether `user` and `device` are from a token. Until then, they are from the stored copy or from another tab. */
    isUserOfToken: boolean;
    /** The seq up to which the user has seen the state, in any tab: the `ack` to send. */
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
    /** Sets user and device from a token. Closes the client and returns false if an earlier token had others. */
    identify(token: string): boolean;
    connectionChanged(): void;
    error(error: unknown): void;
    /** Called at the end of the constructor. */
    protected launch(): void;
    protected suspend(): void;
    protected resume(): void;
    /** Called when an entry was enqueued, before it is sent. */
    protected stored(_entry: Entry): void;
    /** Called when entries have left the outbox. */
    protected completed(_done: Completed[]): void;
    /** Deletes the copy and the outbox of the previous user. */
    protected clear(): void;
    /** Reports whether the user looks at the page. */
    protected updateForeground(): void;
    get isForeground(): boolean;
    /** Returns the members of the connection that storage and tabs decide. */
    protected sharedConnection(): Partial<Connection>;
    protected connectionNow(): Connection;
    /**
     * Records that the user has seen the state up to `seq`, and reports it now and after each new connection.
     *
     * Capped at the seq of the copy: after a failover, another tab may still report a seq of the lost history.
     */
    seen(seq: number): void;
    /** Sets user and device, and deletes the copy of others. Closes the client and returns false if a token had set others. */
    setUser(user: string, device: string, isOfToken: boolean): boolean;
    applied(changes: Change[], done: Completed[]): void;
    /** Settles the promises of entries that have left the outbox. */
    settle(done: Completed[]): void;
    sendPending(): void;
    /** Marks the state as changed. The listeners are called once, in a microtask after all changes of this turn. */
    markChanged(): void;
    /** Calls a function of the application, and reports its error to `onError`. */
    guard(call: () => void): void;
    protected _put(message: Message, after?: string): {
        key?: string;
        receipt: Promise<Receipt>;
    };
    private _handle;
    private _emit;
    /** Starts the timer of the next expiry, reminder, digest check or end of a wait. */
    private _plan;
    /** Rejects the promises of all entries; with `isFinal` also `ready`. Returns their error. */
    private _reject;
}
/** Returns the three addresses of the server without a slash at the end. */
export declare function endpointsOf(url: string | Endpoints): Endpoints;
