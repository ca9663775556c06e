/** The client with storage and tabs. */
import { GregorClient } from "./client.js";
import type { Frame } from "./mirror.js";
import type { Completed, Entry } from "./outbox.js";
import type { Connection } from "./types.js";
export declare class FullClient extends GregorClient {
    private _persistence;
    private _tabs;
    private _saveTimer;
    forget(): Promise<void>;
    ack(seq?: number): void;
    close(): void;
    frame(frame: Frame): {
        code: number;
        reason: string;
    } | undefined;
    connectionChanged(): void;
    /** Applies a frame that another tab received. That tab repairs a mismatch. */
    follow(frame: Frame): void;
    /** Takes an entry that another tab put. */
    adopt(entry: Entry): void;
    /** Takes the answers to entries that another tab received. */
    finish(done: Completed[]): void;
    /** Whether a connection of this user can be shared. */
    shares(user: string, device: string): boolean;
    get isLooking(): boolean;
    tabsChanged(): void;
    protected begin(): Promise<void>;
    protected suspend(): void;
    protected resume(): void;
    protected stored(entry: Entry): void;
    protected completed(done: Completed[]): void;
    protected clear(): void;
    protected updateForeground(): void;
    protected connectionNow(): Connection;
    changed(): void;
    private _load;
    private get _owner();
    private get _filter();
    private _save;
}
