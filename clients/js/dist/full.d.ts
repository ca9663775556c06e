/** The client with storage and tabs. */
import { GregorClient } from "./client.js";
import { type Env } from "./env.js";
import { type Frame } from "./mirror.js";
import type { Completed, Entry } from "./outbox.js";
import type { Transport } from "./transports.js";
import type { Client, Connection, ConnectOptions, Receipt, Time } from "./types.js";
export declare class FullClient extends GregorClient implements Client {
    private _persistence;
    private _tabs;
    private _saveTimer;
    constructor(options: ConnectOptions, transports: readonly Transport[], env?: Env);
    forget(): Promise<void>;
    snooze(id: string, until: Time): Promise<Receipt>;
    api(path: string, init?: RequestInit): Promise<Response>;
    ack(seq?: number): void;
    close(): void;
    frame(frame: Frame): {
        code: number;
        reason: string;
    } | undefined;
    connectionChanged(): void;
    /** Applies a frame that another tab received. If the digest differs, that tab repairs it. */
    follow(frame: Frame): void;
    /** Adds an entry that another tab has enqueued. */
    adopt(entry: Entry): void;
    /** Completes entries whose answers another tab has received. */
    finish(done: Completed[]): void;
    /** Returns whether a tab of this user can share its connection. Without a token, this tab takes over that user. */
    shares(user: string, device: string): boolean;
    setUser(user: string, device: string, isOfToken: boolean): boolean;
    /** Reports the foreground of all tabs to the server. */
    tabsChanged(): void;
    protected launch(): Promise<void>;
    protected suspend(): void;
    protected resume(): void;
    protected stored(entry: Entry): void;
    protected completed(done: Completed[]): void;
    protected clear(): void;
    protected updateForeground(): void;
    protected sharedConnection(): Partial<Connection>;
    markChanged(): void;
    private _keep;
    private _load;
    private get _owner();
    private get _filter();
    private _save;
}
