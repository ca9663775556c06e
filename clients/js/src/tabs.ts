/**
 * One connection for all tabs of a browser, by Web Locks and BroadcastChannel.
 *
 * The tab that holds the lock is the leader: it connects and forwards its frames. A visible tab that receives nothing for
 * 5 s opens its own connection, even if another tab holds the lock. Of two connected tabs that receive each other's
 * heartbeats, the worse one disconnects: the better one is visible, then holds the lock, then has the lower id. Several
 * leaders are harmless: they only cost connections.
 */

import type { Channel } from "./env";
import type { FullClient } from "./full";
import { copyOf, type Frame } from "./mirror";
import type { Completed, Entry } from "./outbox";

/** Interval of the heartbeats of a tab that has a connection. */
const HEARTBEAT_MS = 2_000;
/** The same while that tab is hidden: a visible tab then takes over its connection. */
const HIDDEN_HEARTBEAT_MS = 60_000;
/** A visible tab that receives nothing from the leader for this long connects by itself. */
const SILENCE_MS = 5_000;
/** The same for a tab that was just opened or shown: a connected tab answers it at once. */
const ANSWER_MS = 1_000;
/** A tab counts as in the foreground for this long after its last report. */
const GONE_MS = 10_000;

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
} & (
  | { type: "beat"; rank: number; live: boolean; count: number; why: string | null }
  | { type: "frame"; count: number; frame: Frame }
  | { type: "copy"; count: number; frame: Frame; entries: Entry[] }
  | { type: "ask"; entries: Entry[] }
  | { type: "put"; entry: Entry }
  | { type: "done"; done: Completed[] }
  | { type: "here"; foreground: boolean }
  | { type: "bye" }
);

interface Leader {
  id: string;
  rank: number;
}

const isBetter = (a: Leader, b: Leader): boolean => a.rank > b.rank || (a.rank === b.rank && a.id < b.id);

export class Tabs {
  /** Whether the copy follows the connection of another tab, which is in sync. */
  following = false;
  /** Why the connection of the other tab failed; null while it works. */
  why: string | null = null;
  private _id: string;
  private _channel: Channel;
  private _leader: Leader | null = null;
  /** Number of the last frame that was sent to other tabs, or received from the leader. */
  private _frameNumber = 0;
  /** When the leader was last heard. */
  private _heardAt = -Infinity;
  /** When this tab was opened, or last changed its visibility. */
  private _shownAt: number;
  private _suspended?: boolean;
  /** Releases the lock; null if this tab does not hold it. */
  private _release?: (() => void) | null;
  /** Cancels the request for the lock. */
  private _lockRequest?: AbortController | null;
  /** When each other tab last reported that it is in the foreground; -Infinity if it reported the opposite. */
  private _foregrounds = new Map<string, number>();
  private _heartbeatTimer: unknown;
  private _silenceTimer: unknown;

  constructor(private _client: FullClient, private _name: string) {
    this._id = _client.env.random().toString(36).slice(2);
    this._channel = _client.env.channel!(_name);
    this._channel.onmessage = ({ data }) => this._client.guard(() => this._receive(data));
    this._shownAt = _client.env.monotonic();
  }

  /** Called when the page was opened, and when its visibility has changed. */
  visibilityChanged(visible: boolean): void {
    if (this._suspended) return;
    this._shownAt = this._client.env.monotonic();
    if (this._connected) this._sendHeartbeat();
    else if (visible) this._requestCopy();
    this._updateLock();
    this._watchSilence();
  }

  /** Disconnects a page that is frozen, left or closed. Another tab takes over at once. */
  stop(): void {
    this._suspended = true;
    this.following = false;
    this._client.connector.stop();
    this._releaseLock();
    this.post({ type: "bye" });
  }

  /** Connects a page that is back. It disconnects again if another tab is better. */
  start(): void {
    if (!this._suspended || this._client.connector.status === "stopped") return;
    this._suspended = false;
    this._leader = null;
    this.visibilityChanged(true);
    if (this._client.env.visible()) this._client.connector.start();
  }

  close(): void {
    this.stop();
    this._channel.close();
  }

  /** Reports to the other tabs whether this one is in the foreground. */
  reportForeground(): void {
    this.post({ type: "here", foreground: this._client.isForeground });
  }

  /** Forwards a frame that changes the copy. */
  forward(frame: Frame): void {
    this.post({ type: "frame", count: ++this._frameNumber, frame });
  }

  /** Whether another tab is in the foreground. */
  get foreground(): boolean {
    return Math.max(...this._foregrounds.values()) > this._client.env.monotonic() - GONE_MS;
  }

  /** Called when the status of this tab's connection has changed. */
  connectionChanged(): void {
    // This client does not reconnect. Another tab, perhaps with another token, may get the lock.
    if (this._client.connector.status === "stopped") return this.stop();
    if (this._client.synchronizer.synced) {
      this.following = false;
      this._leader = null;
    }
    this._sendHeartbeat();
  }

  /** Whether this tab has or makes a connection. */
  private get _connected(): boolean {
    return !this._suspended && this._client.connector.status !== "idle";
  }

  /** Higher is better; of equal ranks the lower id is better. */
  private get _rank(): number {
    return (this._client.env.visible() ? 2 : 0) + +!!this._release;
  }

  private _receive(message: TabMessage): void {
    const client = this._client;
    if (this._suspended) return;
    // Messages of another user are ignored. A tab that does not know its user learns it from a heartbeat.
    const isSame = client.user !== null && message.user === client.user && message.device === client.device;
    if (isSame) client.seen(message.ack);
    else if (!/beat|ask|bye/.test(message.type)) return;
    switch (message.type) {
      case "beat":
        return this._onHeartbeat(message);
      case "frame":
        if (this._leader?.id !== message.from || !this.following) return;
        this._heardAt = client.env.monotonic();
        if (message.count !== this._frameNumber + 1) return this._requestCopy();
        this._frameNumber = message.count;
        return client.follow(message.frame);
      case "copy":
        if (client.synchronizer.synced || this._leader?.id !== message.from) return;
        for (const entry of message.entries) client.adopt(entry);
        this._frameNumber = message.count;
        this.following = true;
        return client.follow(message.frame);
      case "ask":
        if (isSame) for (const entry of message.entries) client.adopt(entry);
        this._sendHeartbeat();
        if (client.synchronizer.synced) {
          const frame = { ...copyOf(client.synchronizer.mirror), now: client.clock.now() * 1000 };
          this.post({ type: "copy", count: this._frameNumber, frame, entries: client.synchronizer.outbox.all() });
        }
        return;
      case "put":
        return client.adopt(message.entry);
      case "done":
        return client.finish(message.done);
      case "here":
        this._foregrounds.set(message.from, message.foreground ? client.env.monotonic() : -Infinity);
        return client.tabsChanged();
      case "bye":
        this._foregrounds.delete(message.from);
        client.tabsChanged();
        if (this._leader?.id !== message.from) return;
        this._leader = null;
        this.following = false;
        this._heardAt = -Infinity;
        this.visibilityChanged(client.env.visible());
        client.markChanged();
    }
  }

  private _onHeartbeat(message: TabMessage & { type: "beat" }): void {
    const client = this._client;
    const leader = { id: message.from, rank: message.rank };
    // The connection of another user is not shared.
    if (message.user !== null && !client.shares(message.user, message.device!)) return;
    if (this._connected) {
      const { synced } = client.synchronizer;
      if (!isBetter(leader, { id: this._id, rank: this._rank })) {
        this._sendHeartbeat();
        // The worse tab has a connection, and this one cannot connect: follow the worse one until this tab succeeds.
        if (synced || !message.live) return;
      } else if (!message.live && (synced || message.why !== null)) return;
      else {
        client.connector.stop();
        this._releaseLock();
      }
    }
    const now = client.env.monotonic();
    const known = this._leader;
    const isNew = known?.id !== message.from;
    // Two tabs send heartbeats while one takes over from the other: follow the better one. Only one tab can hold the lock.
    // If both report it, the former leader is gone.
    if (isNew && known && isBetter(known, leader) && !(known.rank & message.rank & 1) && now - this._heardAt < HEARTBEAT_MS + 500) return;
    // The heartbeat of a tab that cannot connect does not count: another tab may succeed.
    if (message.live || message.why === null) this._heardAt = now;
    this._leader = leader;
    this.why = message.why;
    if (isNew || !message.live) this.following = false;
    if (message.live && (!this.following || message.count !== this._frameNumber)) this._requestCopy();
    if (client.isForeground) this.reportForeground();
    this._updateLock();
    // A hidden page may be frozen at any moment: a visible tab takes over.
    if (client.env.visible() && message.rank < 2) client.connector.start();
    this._watchSilence();
    client.markChanged();
  }

  private _requestCopy(): void {
    this.post({ type: "ask", entries: this._client.synchronizer.outbox.all() });
  }

  private _sendHeartbeat(): void {
    const { env, connector, synchronizer } = this._client;
    env.stopTimer(this._heartbeatTimer);
    if (!this._connected) return;
    // A tab that crashed in the foreground has not reported that it left.
    this._client.tabsChanged();
    this.post({ type: "beat", rank: this._rank, live: synchronizer.synced, count: this._frameNumber, why: connector.why });
    this._heartbeatTimer = env.startTimer(() => this._sendHeartbeat(), env.visible() ? HEARTBEAT_MS : HIDDEN_HEARTBEAT_MS);
  }

  /** Connects if nothing is received for too long. A hidden tab needs no connection: it asks for a copy when it is shown. */
  private _watchSilence(): void {
    const { env, connector } = this._client;
    env.stopTimer(this._silenceTimer);
    if (this._connected || this._suspended || !env.visible()) return;
    const rest = Math.max(this._heardAt + SILENCE_MS, this._shownAt + ANSWER_MS) - env.monotonic();
    if (rest > 0) this._silenceTimer = env.startTimer(() => this._watchSilence(), rest);
    else {
      this._leader = null;
      connector.start();
    }
  }

  /** Requests the lock. Releases it instead if this tab is hidden and a visible tab has the connection. Never steals it. */
  private _updateLock(): void {
    const { env, connector } = this._client;
    const wants = !this._suspended && (env.visible() || this._connected || !this._leader || this._leader.rank < 2);
    if (!wants) return this._releaseLock();
    if (this._lockRequest || !env.locks) return;
    const request = (this._lockRequest = new AbortController());
    env.locks
      .request(this._name, { signal: request.signal }, async () => {
        if (request.signal.aborted) return;
        return new Promise((resolve) => {
          this._release = resolve;
          connector.start();
          this._sendHeartbeat();
        });
      })
      .catch(() => {});
  }

  /** Releases the lock, or cancels the request for it. */
  private _releaseLock(): void {
    this._lockRequest?.abort();
    this._lockRequest = null;
    this._release?.();
    this._release = null;
  }

  /** Sends a message to the other tabs. */
  post(message: DistributiveOmit<TabMessage, "from" | "user" | "device" | "ack">): void {
    const { user, device, wantedAck } = this._client;
    this._channel.postMessage({ from: this._id, user, device, ack: wantedAck, ...message });
  }
}

type DistributiveOmit<T, K extends string> = T extends unknown ? Omit<T, K> : never;
