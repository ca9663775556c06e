/**
 * One connection for all tabs of a browser, by Web Locks and BroadcastChannel.
 *
 * Election only saves connections; it never carries correctness. The tab that holds the lock connects and forwards its
 * frames. A visible tab that hears nothing for 5 s connects by itself, whoever holds the lock. Of two connected tabs
 * that hear each other, the worse one disconnects: the better is visible, then holds the lock, then has the lower id.
 */

import type { Channel } from "./env";
import type { FullClient } from "./full";
import { copyOf, type Frame } from "./mirror";
import type { Completed, Entry } from "./outbox";

/** Interval of the beats of a tab that has a connection. */
const BEAT_MS = 2_000;
/** The same while no tab is visible: nobody waits for a beat. */
const HIDDEN_BEAT_MS = 60_000;
/** A visible tab that hears nothing for this long connects by itself. */
const SILENCE_MS = 5_000;
/** The same for a tab that was just opened or shown: a connected tab answers it at once. */
const ANSWER_MS = 1_000;
/** Time after which a tab that reported the foreground counts as gone. */
const GONE_MS = 10_000;

/** A message between tabs. */
type Note = {
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
  private _count = 0;
  private _heardAt = -Infinity;
  private _since: number;
  private _suspended = false;
  private _release: (() => void) | null = null;
  private _contention: AbortController | null = null;
  /** When each other tab last reported the foreground; -Infinity if it has left it. */
  private _others = new Map<string, number>();
  private _beatTimer: unknown;
  private _silenceTimer: unknown;

  constructor(private _client: FullClient, private _name: string) {
    this._id = _client.env.random().toString(36).slice(2);
    this._channel = _client.env.channel!(_name);
    this._channel.onmessage = ({ data }) => this._client.guard(() => this._receive(data));
    this._since = _client.env.monotonic();
  }

  /** The page was opened, or its visibility changed. */
  shown(visible: boolean): void {
    if (this._suspended) return;
    this._since = this._client.env.monotonic();
    if (this._connected) this._beat();
    else if (visible) this._ask();
    this._contend();
    this._watch();
  }

  /** The page is frozen, left, or closed: another tab takes over at once. */
  stop(): void {
    this._suspended = true;
    this.following = false;
    this._client.connector.stop();
    this._yield();
    this.post({ type: "bye" });
  }

  /** The page is back. It connects at once, and disconnects again if another tab is better. */
  start(): void {
    if (!this._suspended || this._client.connector.status === "stopped") return;
    this._suspended = false;
    this._leader = null;
    this.shown(true);
    if (this._client.env.visible()) this._client.connector.start();
  }

  close(): void {
    this.stop();
    this._channel.close();
  }

  /** Reports whether this tab is in the foreground, and, as every message, what the user has seen. */
  here(): void {
    this.post({ type: "here", foreground: this._client.isForeground });
  }

  /** Forwards a frame that changes the copy. */
  forward(frame: Frame): void {
    this.post({ type: "frame", count: ++this._count, frame });
  }

  /** Whether any tab is in the foreground. */
  get foreground(): boolean {
    return Math.max(...this._others.values()) > this._client.env.monotonic() - GONE_MS;
  }

  /** The status of the own connection changed. */
  connectionChanged(): void {
    // Closed for good: another tab, perhaps with another token, may get the lock.
    if (this._client.connector.status === "stopped") return this.stop();
    if (this._client.synchronizer.synced) {
      this.following = false;
      this._leader = null;
    }
    this._beat();
  }

  /** Whether this tab has or makes a connection. */
  private get _connected(): boolean {
    return !this._suspended && this._client.connector.status !== "idle";
  }

  /** Higher is better; of equal ranks the lower id is better. */
  private get _rank(): number {
    return (this._client.env.visible() ? 2 : 0) + +!!this._release;
  }

  private _receive(note: Note): void {
    const client = this._client;
    if (this._suspended) return;
    // Messages of another user are not taken; a tab learns its user by a beat.
    const isSame = client.user !== null && note.user === client.user && note.device === client.device;
    if (isSame) client.seen(note.ack);
    else if (!/beat|ask|bye/.test(note.type)) return;
    switch (note.type) {
      case "beat":
        return this._onBeat(note);
      case "frame":
        if (this._leader?.id !== note.from || !this.following) return;
        this._heardAt = client.env.monotonic();
        if (note.count !== this._count + 1) return this._ask();
        this._count = note.count;
        return client.follow(note.frame);
      case "copy":
        if (client.synchronizer.synced || this._leader?.id !== note.from) return;
        for (const entry of note.entries) client.adopt(entry);
        this._count = note.count;
        this.following = true;
        return client.follow(note.frame);
      case "ask":
        if (isSame) for (const entry of note.entries) client.adopt(entry);
        this._beat();
        if (client.synchronizer.synced) {
          const frame = { ...copyOf(client.synchronizer.mirror), now: client.clock.now() * 1000 };
          this.post({ type: "copy", count: this._count, frame, entries: client.synchronizer.outbox.all() });
        }
        return;
      case "put":
        return client.adopt(note.entry);
      case "done":
        return client.finish(note.done);
      case "here":
        this._others.set(note.from, note.foreground ? client.env.monotonic() : -Infinity);
        return client.tabsChanged();
      case "bye":
        this._others.delete(note.from);
        client.tabsChanged();
        if (this._leader?.id !== note.from) return;
        this._leader = null;
        this.following = false;
        this._heardAt = -Infinity;
        this.shown(client.env.visible());
        client.markChanged();
    }
  }

  private _onBeat(note: Note & { type: "beat" }): void {
    const client = this._client;
    const leader = { id: note.from, rank: note.rank };
    // The connection of another user is not shared.
    if (note.user !== null && !client.shares(note.user, note.device!)) return;
    if (this._connected) {
      const { synced } = client.synchronizer;
      if (!isBetter(leader, { id: this._id, rank: this._rank })) {
        this._beat();
        // This tab cannot connect, but the worse one has a connection: follow it until this tab succeeds.
        if (synced || !note.live) return;
      } else if (!note.live && (synced || note.why !== null)) return;
      else {
        client.connector.stop();
        this._yield();
      }
    }
    const now = client.env.monotonic();
    const known = this._leader;
    const isNew = known?.id !== note.from;
    // Two tabs beat while one takes over from the other: follow the better one. Two tabs never hold the lock, so a second
    // one that says so proves that the first is gone.
    if (isNew && known && isBetter(known, leader) && !(known.rank & note.rank & 1) && now - this._heardAt < BEAT_MS + 500) return;
    // The beat of a tab that cannot connect does not count: another tab may succeed.
    if (note.live || note.why === null) this._heardAt = now;
    this._leader = leader;
    this.why = note.why;
    if (isNew || !note.live) this.following = false;
    if (note.live && (!this.following || note.count !== this._count)) this._ask();
    if (client.isForeground) this.here();
    this._contend();
    // A hidden page may be frozen at any moment: a visible tab takes over.
    if (client.env.visible() && note.rank < 2) client.connector.start();
    this._watch();
    client.markChanged();
  }

  private _ask(): void {
    this.post({ type: "ask", entries: this._client.synchronizer.outbox.all() });
  }

  private _beat(): void {
    const { env, connector, synchronizer } = this._client;
    env.stopTimer(this._beatTimer);
    if (!this._connected) return;
    // A tab in the foreground may have crashed.
    this._client.tabsChanged();
    this.post({ type: "beat", rank: this._rank, live: synchronizer.synced, count: this._count, why: connector.why });
    this._beatTimer = env.startTimer(() => this._beat(), env.visible() ? BEAT_MS : HIDDEN_BEAT_MS);
  }

  /** Connects if nothing is heard for too long. A hidden tab needs no connection: it asks when it is shown. */
  private _watch(): void {
    const { env, connector } = this._client;
    env.stopTimer(this._silenceTimer);
    if (this._connected || this._suspended || !env.visible()) return;
    const rest = Math.max(this._heardAt + SILENCE_MS, this._since + ANSWER_MS) - env.monotonic();
    if (rest > 0) this._silenceTimer = env.startTimer(() => this._watch(), rest);
    else {
      this._leader = null;
      connector.start();
    }
  }

  /** Waits for the lock, unless a visible tab has the connection and this one is hidden. A lock is never stolen. */
  private _contend(): void {
    const { env, connector } = this._client;
    const wants = !this._suspended && (env.visible() || this._connected || !this._leader || this._leader.rank < 2);
    if (!wants) return this._yield();
    if (this._contention || !env.locks) return;
    const contention = (this._contention = new AbortController());
    env.locks
      .request(this._name, { signal: contention.signal }, async () => {
        if (contention.signal.aborted) return;
        return new Promise((resolve) => {
          this._release = resolve;
          connector.start();
          this._beat();
        });
      })
      .catch(() => {});
  }

  /** Gives the lock back, or ends the wait for it. */
  private _yield(): void {
    this._contention?.abort();
    this._contention = null;
    this._release?.();
    this._release = null;
  }

  /** Sends a message to the other tabs. */
  post(note: DistributiveOmit<Note, "from" | "user" | "device" | "ack">): void {
    const { user, device, wantedAck } = this._client;
    this._channel.postMessage({ from: this._id, user, device, ack: wantedAck, ...note });
  }
}

type DistributiveOmit<T, K extends string> = T extends unknown ? Omit<T, K> : never;
