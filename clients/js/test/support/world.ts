/**
 * A browser with tabs in virtual time, and a gateway: fakes of the browser API only. The clients in the tabs are real.
 *
 * A frozen tab runs nothing; its timers, messages and frames wait. Chromium fires the event `freeze` before, other browsers do not.
 */

import { digestOf } from "../../src/digest";
import type { Channel, Env } from "../../src/env";
import { FullClient } from "../../src/full";
import { poll, sse, websocket } from "../../src/transports";
import type { ConnectOptions, Item } from "../../src/types";
import { sign } from "./gregor";

interface Timer {
  at: number;
  order: number;
  run: () => void;
  tab: Tab | null;
}

type LockOptions = { signal?: AbortSignal; steal?: boolean };

const LATENCY_MS = 5;

export class World {
  now = 0;
  tabs: Tab[] = [];
  gateway = new Gateway(this);
  tokens = 0;
  /** When connections were cut; the clients back off. */
  cutAt = -Infinity;
  /** Whether a tab asked for the lock of another one. */
  stolen = false;
  private timers = new Set<Timer>();
  private order = 0;
  private state = 1;
  private lock: { holder: Tab | null; queue: { tab: Tab; grant: () => void }[] } = { holder: null, queue: [] };

  constructor(readonly options: { locks: boolean; freezeEvent: boolean; seed?: number; aheadMs?: number }) {
    this.state = (options.seed ?? 1) | 1;
  }

  random(): number {
    // xorshift32: the same in each run
    this.state ^= this.state << 13;
    this.state ^= this.state >>> 17;
    this.state ^= this.state << 5;
    return (this.state >>> 0) / 2 ** 32;
  }

  schedule(tab: Tab | null, ms: number, run: () => void): Timer {
    const timer = { at: this.now + ms, order: this.order++, run, tab };
    this.timers.add(timer);
    return timer;
  }

  cancel(timer: Timer): void {
    this.timers.delete(timer);
  }

  /** Advances the time, and runs the timers that are due. */
  async pass(ms: number): Promise<void> {
    const end = this.now + ms;
    await settle();
    for (;;) {
      let next: Timer | null = null;
      for (const timer of this.timers) {
        if (timer.at > end || timer.tab?.frozen) continue;
        if (!next || timer.at < next.at || (timer.at === next.at && timer.order < next.order)) next = timer;
      }
      if (!next) break;
      this.timers.delete(next);
      this.now = Math.max(this.now, next.at);
      if (!next.tab?.dead) next.run();
      await settle();
    }
    this.now = end;
  }

  /** Cuts all connections, as a restart of the gateway does. */
  cut(): void {
    this.cutAt = this.now;
    this.gateway.cut();
  }

  open(visible = true, options: Partial<ConnectOptions> = {}): Tab {
    const tab = new Tab(this, visible, options);
    this.tabs.push(tab);
    return tab;
  }

  get living(): Tab[] {
    return this.tabs.filter((tab) => !tab.dead);
  }

  /** The tab that has the lock and knows it. */
  lockHolder: Tab | null = null;

  requestLock(tab: Tab, { signal, steal }: LockOptions, held: () => Promise<void>): Promise<void> {
    this.stolen ||= !!steal;
    return new Promise((resolve, reject) => {
      const entry = {
        tab,
        grant: () => {
          this.lock.holder = this.lockHolder = tab;
          held().then(() => {
            if (this.lock.holder === tab) this.release();
            resolve();
          });
        },
      };
      signal?.addEventListener("abort", () => {
        if (!this.lock.queue.includes(entry)) return;
        this.lock.queue = this.lock.queue.filter((other) => other !== entry);
        reject(new Error("aborted"));
      });
      this.lock.queue.push(entry);
      if (!this.lock.holder) this.release();
    });
  }

  /** Gives the lock to the next tab that waits. */
  release(): void {
    this.lock.holder = this.lockHolder = null;
    const next = this.lock.queue.shift();
    if (!next) return;
    this.lock.holder = next.tab;
    this.schedule(next.tab, 0, next.grant);
  }

  /** Ends everything that a tab holds, as the browser does for a closed or crashed page. */
  drop(tab: Tab): void {
    for (const timer of this.timers) if (timer.tab === tab) this.timers.delete(timer);
    this.lock.queue = this.lock.queue.filter((entry) => entry.tab !== tab);
    if (this.lock.holder === tab) this.release();
    this.gateway.drop(tab);
  }
}

async function settle(): Promise<void> {
  for (let turn = 0; turn < 40; turn++) await null;
}

export class Tab {
  frozen = false;
  cached = false;
  dead = false;
  /** Since when the tab is visible and not frozen; Infinity while it is not. */
  aliveSince = Infinity;
  errors: Error[] = [];
  readonly client: FullClient;
  private listeners = new Map<string, Set<(event: any) => void>>();
  readonly channels: FakeChannel[] = [];

  constructor(readonly world: World, public visible: boolean, options: Partial<ConnectOptions>) {
    if (visible) this.aliveSince = world.now;
    const tab = this;
    const env: Env = {
      // The clock of the device, which may be wrong; the server's is right.
      now: () => 1.7e12 + world.now + (world.options.aheadMs ?? 0),
      monotonic: () => world.now,
      random: () => world.random(),
      startTimer: (callback, ms) => world.schedule(tab, ms, callback),
      stopTimer: (timer) => timer && world.cancel(timer),
      fetch: async () => new Response(null, { status: 503 }),
      WebSocket: class extends FakeSocket {
        constructor() {
          super(tab);
        }
      },
      channel: (name) => new FakeChannel(tab, name),
      locks: world.options.locks ? { request: (_name, options, held) => world.requestLock(tab, options, held) } : null,
      indexedDB: null,
      visible: () => this.visible,
      listen: (type, listener) => {
        const listeners = this.listeners.get(type) ?? new Set();
        this.listeners.set(type, listeners.add(listener));
        return () => listeners.delete(listener);
      },
    };
    const token = () => {
      world.tokens++;
      return sign({ sub: "alice", device: "browser", exp: 2e9 });
    };
    this.client = new FullClient({ url: "http://gateway", token, onError: (error) => this.errors.push(error), ...options }, [websocket, sse, poll], env);
  }

  /** The highest position that the user of this tab has seen. */
  seen = 0;

  ack(): void {
    if (this.dead || this.frozen) return;
    this.seen = Math.max(this.seen, this.client.synchronizer.mirror.seq);
    this.client.ack();
  }

  get ids(): string[] {
    return this.client.select().map(({ id }) => id).sort();
  }

  event(type: string, event: object = {}): void {
    for (const listener of [...(this.listeners.get(type) ?? [])]) listener(event);
  }

  show(): void {
    if (this.dead || this.frozen || this.visible) return;
    this.visible = true;
    this.aliveSince = this.world.now;
    this.event("visibilitychange");
  }

  hide(): void {
    if (this.dead || this.frozen || !this.visible) return;
    this.visible = false;
    this.aliveSince = Infinity;
    this.event("visibilitychange");
  }

  /** Freezes a hidden tab. */
  freeze(): void {
    if (this.dead || this.frozen || this.visible) return;
    if (this.world.options.freezeEvent) this.event("freeze");
    this.frozen = true;
  }

  /** Keeps the page in the back/forward cache. */
  leave(): void {
    if (this.dead || this.frozen) return;
    this.event("pagehide", { persisted: true });
    this.frozen = this.cached = true;
    this.aliveSince = Infinity;
  }

  /** Continues a frozen page, or returns to a cached one. */
  thaw(): void {
    if (this.dead || !this.frozen) return;
    this.frozen = false;
    if (this.cached) {
      this.cached = false;
      if (this.visible) this.aliveSince = this.world.now;
      this.event("pageshow", { persisted: true });
    } else if (this.world.options.freezeEvent) this.event("resume");
  }

  close(): void {
    if (this.dead) return;
    if (!this.frozen) this.event("pagehide", { persisted: false });
    this.crash();
  }

  crash(): void {
    if (this.dead) return;
    this.dead = true;
    this.aliveSince = Infinity;
    this.world.drop(this);
  }
}

class FakeChannel implements Channel {
  onmessage: ((event: { data: any }) => void) | null = null;
  private closed = false;

  constructor(private tab: Tab, private name: string) {
    tab.channels.push(this);
  }

  postMessage(message: unknown): void {
    if (this.closed) throw new Error("the channel is closed");
    const data = structuredClone(message);
    for (const tab of this.tab.world.living) {
      for (const channel of tab.channels) {
        if (channel === this || channel.name !== this.name || channel.closed) continue;
        this.tab.world.schedule(tab, 1, () => channel.closed || channel.onmessage?.({ data }));
      }
    }
  }

  close(): void {
    this.closed = true;
  }
}

/** A WebSocket to the gateway of the world. */
class FakeSocket {
  readyState = 0;
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  onerror: (() => void) | null = null;

  constructor(readonly tab: Tab) {
    const { world } = tab;
    world.schedule(tab, LATENCY_MS, () => {
      if (this.readyState) return;
      if (world.gateway.down || world.gateway.unreachable.has(tab)) return this.end(1006, "");
      this.readyState = 1;
      world.gateway.sockets.add(this);
      this.onopen?.();
    });
  }

  send(text: string): void {
    const { world } = this.tab;
    // The network delivers even if the tab is frozen afterwards.
    world.schedule(null, LATENCY_MS, () => world.gateway.receive(this, JSON.parse(text)));
  }

  deliver(frame: object): void {
    this.tab.world.schedule(this.tab, LATENCY_MS, () => {
      if (this.readyState === 1) this.onmessage?.({ data: JSON.stringify(frame) });
    });
  }

  close(): void {
    this.readyState = 3;
    this.tab.world.gateway.sockets.delete(this);
  }

  end(code: number, reason: string): void {
    this.close();
    this.tab.world.schedule(this.tab, LATENCY_MS, () => this.onclose?.({ code, reason }));
  }
}

/** A small gateway: one user, items that are created and dismissed, receipts. */
export class Gateway {
  sockets = new Set<FakeSocket>();
  down = false;
  /** Whether nothing arrives and nothing leaves, although the sockets are open. */
  isSilent = false;
  /** Tabs that cannot reach the gateway, although others can. */
  unreachable = new Set<Tab>();
  /** The close code that answers each `hello`. */
  refusal: number | null = null;
  /** Whether a `hello` is answered by a `welcome` only. */
  withholdsSync = false;
  hellos: any[] = [];
  foreground = false;
  acks: number[] = [];
  /** Positions that clients compared. */
  resyncs: any[] = [];
  /** Refreshed tokens. */
  tokens: string[] = [];
  received: any[] = [];
  /** The tabs that sent them. */
  senders: Tab[] = [];
  /** When each item was created. */
  createdAt = new Map<string, number>();
  private items = new Map<string, Item>();
  private seq = 0;
  private epoch = "aaaaaa";

  constructor(private world: World) {}

  get ids(): string[] {
    return [...this.items.keys()].sort();
  }

  /** Connections of tabs that run. */
  get connections(): number {
    return [...this.sockets].filter(({ tab }) => !tab.frozen).length;
  }

  /** Creates an item whose frame gets lost. */
  createUnheard(id: string): void {
    this.items.set(id, { times: { created: 1.7e9 + this.world.now / 1000 }, for_device: null, category: "mail", body: null });
  }

  create(id: string, category = "mail", expires?: number): void {
    const times = { created: 1.7e9 + this.world.now / 1000, ...(expires ? { expires } : {}) };
    const item = { times, for_device: null, category, body: null };
    this.items.set(id, item);
    this.createdAt.set(id, this.world.now);
    this.publish({ create: { [id]: item } });
  }

  receive(socket: FakeSocket, frame: any): void {
    if (!this.sockets.has(socket) || this.isSilent) return;
    if (frame.hello) {
      this.hellos.push(frame.hello);
      if (this.refusal) return socket.end(this.refusal, "refused");
      this.foreground = frame.hello.foreground;
      socket.deliver({ welcome: { expires_in: 3600, ping: 25, uncounted: [], now: 1.7e12 + this.world.now } });
      if (this.withholdsSync) return;
      this.sync(socket);
    } else if (frame.resync) {
      this.resyncs.push(frame.resync);
      this.sync(socket, frame.resync.digest);
    } else if (frame.token) this.tokens.push(frame.token);
    else if (frame.ping) socket.deliver({ pong: frame.ping });
    else if (frame.foreground !== undefined) this.foreground = frame.foreground;
    else if (frame.ack) this.acks.push(frame.ack);
    else if (frame.system) {
      this.received.push(frame);
      this.senders.push(socket.tab);
      const { create = {}, dismiss = {} } = frame.body;
      for (const id of dismiss.ids ?? []) this.items.delete(id);
      for (const [id, item] of Object.entries<any>(create)) {
        if (!this.items.has(id)) this.items.set(id, { ...item, times: { created: 1.7e9 + this.world.now / 1000 } });
      }
      this.publish({ create: Object.fromEntries(Object.keys(create).map((id) => [id, this.items.get(id)])), dismiss });
      socket.deliver({ ref: frame.ref, receipt: { seq: this.seq, created: Object.keys(create), dismissed: dismiss.ids ?? [] } });
    }
  }

  /** Sends `unchanged` for an equal digest, else a full copy. */
  private sync(socket: FakeSocket, known?: string): void {
    const create = Object.fromEntries(this.items);
    const digest = digestOf(create);
    const answer = digest === known ? { sync: "unchanged" } : { sync: "full", body: { create } };
    socket.deliver({ system: "gregor", seq: this.seq, cursor: `${this.epoch}-${this.seq}`, digest, ...answer });
  }

  /** Begins a new history without items, as the server does for a user that it has forgotten. */
  forget(): void {
    this.items.clear();
    this.createdAt.clear();
    this.seq = 0;
    this.epoch += "b";
    this.cut();
  }

  /** Closes every connection. */
  cut(code = 1006, reason = ""): void {
    for (const socket of [...this.sockets]) socket.end(code, reason);
  }

  drop(tab: Tab): void {
    for (const socket of [...this.sockets]) if (socket.tab === tab) this.sockets.delete(socket);
  }

  /** Sends a frame to all connections: items that come or go, or the message of another system. */
  publish(body: object, system = "gregor"): void {
    this.seq++;
    if (!this.isSilent) for (const socket of this.sockets) socket.deliver({ system, seq: this.seq, body });
  }
}
