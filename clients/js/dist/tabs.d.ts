/**
 * One connection for all tabs of a browser, by Web Locks and BroadcastChannel.
 *
 * The tab that holds the lock is the leader: it connects and forwards its frames. A visible tab that receives nothing for
 * 5 s opens its own connection, even if another tab holds the lock. Of two connected tabs that receive each other's
 * heartbeats, the worse one disconnects: the better one is visible, then holds the lock, then has the lower id. Several
 * leaders are harmless: they only cost connections.
 */
import type { FullClient } from "./full.js";
import { type Frame } from "./mirror.js";
import type { Completed, Entry } from "./outbox.js";
/**
 * A message between tabs.
 *
 * `beat`: heartbeat of a connected tab; `live`: its copy is in sync. `ask`: asks for a `copy`, and has the outbox of the
 * sender. `put`, `done`: an entry was enqueued, entries were completed. `here`: the foreground of the sender. `bye`: the
 * sender is suspended or closed. `count`: number of the last `frame`, to detect a lost one.
 */
type TabMessage = {
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
    /** Number of the last frame that was sent to other tabs, or received from the leader. */
    private _frameNumber;
    /** When the leader was last heard. */
    private _heardAt;
    /** When this tab was opened, or last changed its visibility. */
    private _shownAt;
    private _suspended?;
    /** Releases the lock; null if this tab does not hold it. */
    private _release?;
    /** Cancels the request for the lock. */
    private _lockRequest?;
    /** When each other tab last reported that it is in the foreground; -Infinity if it reported the opposite. */
    private _foregrounds;
    private _heartbeatTimer;
    private _silenceTimer;
    constructor(_client: FullClient, _name: string);
    /** Called when the page was opened, and when its visibility has changed. */
    visibilityChanged(visible: boolean): void;
    /** Disconnects a page that is frozen, left or closed. Another tab takes over at once. */
    stop(): void;
    /** Connects a page that is back. It disconnects again if another tab is better. */
    start(): void;
    close(): void;
    /** Reports to the other tabs whether this one is in the foreground. */
    reportForeground(): void;
    /** Forwards a frame that changes the copy. */
    forward(frame: Frame): void;
    /** Whether another tab is in the foreground. */
    get foreground(): boolean;
    /** Called when the status of this tab's connection has changed. */
    connectionChanged(): void;
    /** Whether this tab has or makes a connection. */
    private get _connected();
    /** Higher is better; of equal ranks the lower id is better. */
    private get _rank();
    private _receive;
    private _onHeartbeat;
    private _requestCopy;
    private _sendHeartbeat;
    /** Connects if nothing is received for too long. A hidden tab needs no connection: it asks for a copy when it is shown. */
    private _watchSilence;
    /** Requests the lock. Releases it instead if this tab is hidden and a visible tab has the connection. Never steals it. */
    private _updateLock;
    /** Releases the lock, or cancels the request for it. */
    private _releaseLock;
    /** Sends a message to the other tabs. */
    post(message: DistributiveOmit<TabMessage, "from" | "user" | "device" | "ack">): void;
}
type DistributiveOmit<T, K extends string> = T extends unknown ? Omit<T, K> : never;
export {};
