/**
 * Copy and outbox in IndexedDB: both survive a reload.
 *
 * A connection to IndexedDB can fail while the page is open (WebKit loses it in the background). After a failure, the
 * client opens the database again, at most three times in a row. Then it continues without storage, and `persisted` is
 * false. A message is still shown as pending until the receipt of the server has arrived.
 */
import { type Env } from "./env.js";
import type { Frame } from "./mirror.js";
import type { Entry } from "./outbox.js";
export interface SavedCopy {
    /** User and device of the copy. */
    owner: string;
    /** The filter of the copy: a copy with another filter is of another view. */
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
    /** Whether the database can be used; false for ever after too many failures. */
    persisted: boolean;
    /** Keys of entries whose effect the next copy shows. Without that copy, a page would load the state before them. */
    done: string[];
    private _database?;
    private _reopens;
    private _queue;
    constructor(_env: Env, _name: string, _gaveUp: (error: Error) => void);
    /** Reads everything; null without a usable database. */
    load(): Promise<Saved | null>;
    /** Stores a copy, and deletes `done` in the same transaction. */
    saveCopy(copy: SavedCopy): void;
    putEntry(entry: Entry): void;
    /** Deletes everything. */
    wipe(): Promise<unknown>;
    /** Runs transactions one after another. Resolves to whether this one was completed: false without a usable database. */
    private _run;
    private _transact;
    private _open;
    private _within;
}
