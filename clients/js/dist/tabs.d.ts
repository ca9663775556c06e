/**
 * One connection for all tabs of a browser, by Web Locks and BroadcastChannel.
 *
 * Election only saves connections; it never carries correctness. The tab that holds the lock connects and forwards its
 * frames. A visible tab that hears nothing for 5 s connects by itself, whoever holds the lock. Of two connected tabs
 * that hear each other, the worse one disconnects: the better is visible, then holds the lock, then has the lower id.
 */
import type { FullClient } from "./full.js";
import { type Frame } from "./mirror.js";
import type { Completed, Entry } from "./outbox.js";
/** A message between tabs. */
type Note = {
    from: string;
    /** User and device of the tab; null before it knows them. */
    user: string | null;
    device: string | null;
    /** The seq up to which the user has seen the state. Every tab keeps the highest one reported. */
    ack: number;
} & ({
    type: "beat";
    rank: number;
    live: boolean;
    count: number;
    why: string | null;
} | {
    type: "frame";
    count: number;
    frame: Frame;
} | {
    type: "copy";
    count: number;
    frame: Frame;
    entries: Entry[];
} | {
    type: "ask";
    entries: Entry[];
} | {
    type: "put";
    entry: Entry;
} | {
    type: "done";
    done: Completed[];
} | {
    type: "here";
    foreground: boolean;
} | {
    type: "bye";
});
export declare class Tabs {
    private _client;
    private _name;
    /** Whether the copy follows the connection of another tab, which is in sync. */
    following: boolean;
    /** Why the connection of the other tab failed; null while it works. */
    why: string | null;
    private _id;
    private _channel;
    private _leader;
    private _count;
    private _heardAt;
    private _since;
    private _suspended;
    private _release;
    private _contention;
    /** When each other tab last reported the foreground; -Infinity if it has left it. */
    private _others;
    private _beatTimer;
    private _silenceTimer;
    constructor(_client: FullClient, _name: string);
    /** The page was opened, or its visibility changed. */
    shown(visible: boolean): void;
    /** The page is frozen, left, or closed: another tab takes over at once. */
    stop(): void;
    /** The page is back. It connects at once, and disconnects again if another tab is better. */
    start(): void;
    close(): void;
    /** Reports whether this tab is in the foreground, and, as every message, what the user has seen. */
    here(): void;
    /** Forwards a frame that changes the copy. */
    forward(frame: Frame): void;
    /** Whether any tab is in the foreground. */
    get foreground(): boolean;
    /** The status of the own connection changed. */
    connectionChanged(): void;
    /** Whether this tab has or makes a connection. */
    private get _connected();
    /** Higher is better; of equal ranks the lower id is better. */
    private get _rank();
    private _receive;
    private _onBeat;
    private _ask;
    private _beat;
    /** Connects if nothing is heard for too long. A hidden tab needs no connection: it asks when it is shown. */
    private _watch;
    /** Waits for the lock, unless a visible tab has the connection and this one is hidden. A lock is never stolen. */
    private _contend;
    /** Gives the lock back, or ends the wait for it. */
    private _yield;
    /** Sends a message to the other tabs. */
    post(note: DistributiveOmit<Note, "from" | "user" | "device" | "ack">): void;
}
type DistributiveOmit<T, K extends string> = T extends unknown ? Omit<T, K> : never;
export {};
