/**
 * Copy and outbox in IndexedDB, so that both survive a reload.
 *
 * A handle of IndexedDB can die while the page lives (WebKit loses it in the background). Each failure drops the handle
 * and opens a new one, three times at most; then the page goes on without storage, and `persisted` is false. Nothing is
 * lost by that: the pending mark of a message leaves only with the server's receipt.
 */
import { type Env } from "./env.js";
import type { Frame } from "./mirror.js";
import type { Entry } from "./outbox.js";
export interface SavedCopy {
    /** User and device of the copy. */
    owner: string;
    /** The filter with which it was made: another filter is another view. */
    filter: string;
    frame: Frame;
}
export interface Saved {
    copy: SavedCopy | undefined;
    entries: Entry[];
}
export declare class Persistence {
    private _env;
    private _name;
    private _gaveUp;
    persisted: boolean;
    private _database;
    private _reopens;
    private _queue;
    constructor(_env: Env, _name: string, _gaveUp: (error: Error) => void);
    load(): Promise<Saved | null>;
    saveCopy(copy: SavedCopy): void;
    putEntry(entry: Entry): void;
    deleteEntries(keys: string[]): void;
    /** Deletes everything. */
    wipe(): Promise<unknown>;
    /** Runs transactions one after another. Returns whether this one was completed: false without a usable database. */
    private _run;
    private _transact;
    private _open;
    private _within;
}
