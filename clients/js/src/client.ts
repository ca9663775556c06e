/** The client of a page: synchronizer, connection and state. `full.ts` adds storage and tabs. */

import { ServerClock } from "./clock";
import { claimsOf, Connector } from "./connector";
import { defaultEnv, type Env } from "./env";
import { covers, creation, dismissal, randomName } from "./messages";
import { type Change, type Frame, Mirror } from "./mirror";
import { type Completed, type Entry, Outbox } from "./outbox";
import { Synchronizer } from "./synchronizer";
import { type Filter, replaced, Store } from "./store";
import type { Transport } from "./transports";
import type {
  Connection, ConnectOptions, CoreClient, CreateOptions, DismissOptions, Endpoints, ExternalEvent, ItemEvent, Message, Problem,
  Receipt, Rendering, ShownItem, State,
} from "./types";

/** The server refused a message, or the client was closed. `problem` is the document of the server, if there is one. */
export class GregorError extends Error {
  override name = "GregorError";

  constructor(message: string, readonly problem: Problem | null = null) {
    super(message);
  }
}

/** Returns the promise, which callers may now ignore: without a handler, its rejection would end a Node process. */
export function ignorable<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}

export class GregorClient implements CoreClient {
  readonly ready: Promise<void>;
  readonly synchronizer = new Synchronizer();
  readonly clock: ServerClock;
  readonly connector: Connector;
  readonly endpoints: Endpoints;
  user: string | null = null;
  device: string | null = null;
  protected loaded = false;
  protected closed = false;
  private _store: Store;
  private _listeners = new Set<() => void>();
  private _handlers = new Set<(event: any) => void>();
  private _receipts = new Map<string, { resolve(receipt: Receipt): void; reject(error: Error): void }>();
  protected _removeListeners: (() => void)[] = [];
  private _dirty = true;
  private _announced?: boolean;
  private _foreground?: boolean;
  /** Whether `user` and `device` are from a token. Until then, they are from the stored copy or from another tab. */
  isUserOfToken = false;
  /** The seq up to which the user has seen the state, in any tab: the `ack` to send. */
  wantedAck = 0;
  private _timer: unknown;
  private _settle!: { resolve(): void; reject(error: Error): void };

  constructor(
    protected options: ConnectOptions,
    transports: readonly Transport[],
    readonly env: Env = defaultEnv(),
    connector: typeof Connector = Connector,
  ) {
    if (options.WebSocket) this.env = env = { ...env, WebSocket: options.WebSocket };
    const { url, token, categories, systems, render, initial } = options;
    const usable = transports.filter(
      ({ name }) => (options.transports?.includes(name) ?? true) && (name !== "websocket" || env.WebSocket),
    );
    if (!usable.length) throw new TypeError("no transport: Node 20 needs the option WebSocket (npm: ws)");
    this.endpoints = endpointsOf(url);
    this.clock = new ServerClock(env);
    this.ready = ignorable(new Promise((resolve, reject) => (this._settle = { resolve, reject })));
    this.connector = new connector(
      {
        env, token, clock: this.clock, endpoints: this.endpoints, transports: usable,
        hello: { session: randomName(), category_prefix: categories, systems, render },
      },
      this.synchronizer,
      this,
    );
    this._store = new Store(this.connectionNow());
    if (initial) {
      this.synchronizer.mirror.apply({ sync: "full", cursor: "0-0", body: { create: initial.items } });
      this.synchronizer.mirror.cursor = null;
      this.loaded = true;
    }
    this._removeListeners.push(
      env.listen("visibilitychange", () => {
        if (env.visible()) this.connector.wake();
        this.updateForeground();
      }),
      env.listen("online", () => this.connector.wake()),
      // A page in the back/forward cache has no connection. When it returns, it connects at once.
      env.listen("pagehide", () => this.suspend()),
      env.listen("pageshow", (event) => event.persisted && this.resume()),
    );
    // A token that is a string names the user before the stored copy is read: a copy of another user is never shown.
    if (typeof token === "string") this.guard(() => this.identify(token));
    this.updateForeground();
    this.launch();
  }

  // The state.

  getState(): State {
    if (this._dirty) {
      this._dirty = false;
      const { user, device, loaded } = this;
      const now = this.clock.now();
      this._store.update(this.synchronizer, now, { connection: this.connectionNow(), loaded, user, device });
      this._plan(now);
    }
    return this._store.computed;
  }

  subscribe(listener: () => void): () => void {
    this._listeners.add(listener);
    return () => this._listeners.delete(listener);
  }

  select(filter?: Filter): readonly ShownItem[] {
    this.getState();
    return this._store.select(filter);
  }

  get badge(): number {
    return this.getState().badge;
  }

  get connection(): Connection {
    return this.getState().connection;
  }

  // Messages.

  dispatch(message: Message): Promise<Receipt> {
    return this._put(message).receipt;
  }

  create(category: string, body: unknown = null, options: CreateOptions = {}): Promise<Receipt & { readonly itemId: string }> {
    const itemId = options.id ?? randomName();
    return ignorable(
      this.dispatch(creation(itemId, category, body, options)).then((receipt) => {
        const reason = receipt.ignored?.[itemId];
        // A duplicate is a repeat of the same creation: the item exists.
        if (reason && reason !== "duplicate") throw new GregorError(`item ${itemId} was not created: ${reason}`);
        return { ...receipt, itemId };
      }),
    );
  }

  dismiss(what: string | readonly string[] | DismissOptions): Promise<Receipt> {
    return this.dispatch(dismissal(what));
  }

  ack(seq = this.synchronizer.mirror.seq): void {
    this.seen(seq);
  }

  setForeground(foreground: boolean): void {
    this._foreground = foreground;
    this.updateForeground();
  }

  on(name: string, handler: (event: ItemEvent) => void): () => void {
    return this._handle((event) => "item" in event && covers(name, event.item.category) && handler(event));
  }

  onExternal(name: string, handler: (event: ExternalEvent) => void): () => void {
    return this._handle((event) => {
      if (event.type === "gap") handler(event);
      else if (event.type === "external" && event.system === name) handler({ ...event, type: "message" });
    });
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.connector.stop();
    for (const remove of this._removeListeners) remove();
    this.env.stopTimer(this._timer);
    this._reject("the client was closed", true);
    this.markChanged();
  }

  // Events of the connector.

  frame(frame: Frame): { code: number; reason: string } | undefined {
    const { send, changes, completed, end } = this.synchronizer.receive(frame, this.env.monotonic());
    this.connector.send(send);
    this.applied(changes, completed);
    return end;
  }

  /** Sets user and device from a token. Closes the client and returns false if an earlier token had others. */
  identify(token: string): boolean {
    const { sub, device } = claimsOf(token);
    return this.setUser(sub, device, true);
  }

  connectionChanged(): void {
    const { status, why } = this.connector;
    if (status === "stopped") this.error(this._reject(`client stopped: ${why}`, true));
    this.markChanged();
  }

  error(error: unknown): void {
    try {
      this.options.onError?.(error instanceof Error ? error : new Error(`${error}`));
    } catch {
      // Nothing is thrown in the background.
    }
  }

  // Hooks of `full.ts`.

  /** Called at the end of the constructor. */
  protected launch(): void {
    this.connector.start();
  }

  protected suspend(): void {
    this.connector.stop();
  }

  protected resume(): void {
    this.connector.start();
  }

  /** Called when an entry was enqueued, before it is sent. */
  protected stored(_entry: Entry): void {}

  /** Called when entries have left the outbox. */
  protected completed(_done: Completed[]): void {}

  /** Deletes the copy and the outbox of the previous user. */
  protected clear(): void {
    this.synchronizer.mirror = new Mirror();
    this.synchronizer.outbox = new Outbox();
    this.wantedAck = 0;
    this.loaded = false;
    this._reject("the token is of another user or device");
  }

  /** Reports whether the user looks at the page. */
  protected updateForeground(): void {
    this.connector.setForeground(this.isForeground);
  }

  get isForeground(): boolean {
    return this._foreground ?? this.env.visible();
  }

  /** Returns the members of the connection that storage and tabs decide. */
  protected sharedConnection(): Partial<Connection> {
    return {};
  }

  protected connectionNow(): Connection {
    const { status: own, transport, why, code } = this.connector;
    const before = this._store?.computed.connection;
    const next = {
      status: this.closed ? "stopped" : own === "idle" ? "starting" : own,
      transport, why, code,
      leader: own === "connected",
      offline: own === "connecting" && why !== null,
      persisted: false,
      ...this.sharedConnection(),
    } as Connection;
    return replaced(before, { ...next, since: before?.status === next.status ? before.since : this.env.now() });
  }

  // Shared with `full.ts`.

  /**
   * Records that the user has seen the state up to `seq`, and reports it now and after each new connection.
   *
   * Capped at the seq of the copy: after a failover, another tab may still report a seq of the lost history.
   */
  seen(seq: number): void {
    const { mirror } = this.synchronizer;
    if (mirror.cursor) seq = Math.min(seq, mirror.seq);
    if (seq > this.wantedAck) this.connector.send([{ ack: (this.wantedAck = seq) }]);
  }

  /** Sets user and device, and deletes the copy of others. Closes the client and returns false if a token had set others. */
  setUser(user: string, device: string, isOfToken: boolean): boolean {
    const isSame = this.user === null || (this.user === user && this.device === device);
    if (!isSame) {
      this.clear();
      if (this.isUserOfToken) {
        this.connector.why = "the token is of another user or device";
        this.close();
        return false;
      }
    }
    this.isUserOfToken ||= isOfToken;
    this.user = user;
    this.device = device;
    return true;
  }

  applied(changes: Change[], done: Completed[]): void {
    const now = this.clock.now();
    for (const change of changes) {
      if (change.type === "synced") {
        this.loaded = true;
        this._settle.resolve();
        // Sent again: the connection is new, and the seq of the copy may be lower than before.
        const { wantedAck } = this;
        this.wantedAck = 0;
        this.seen(wantedAck);
      } else this._emit(change, now);
    }
    this.settle(done);
    if (done.length) this.completed(done);
    this.markChanged();
  }

  /** Settles the promises of entries that have left the outbox. */
  settle(done: Completed[]): void {
    for (const { key, receipt, problem } of done) {
      const waiting = this._receipts.get(key);
      this._receipts.delete(key);
      if (problem) {
        const error = new GregorError(`${problem.code ?? problem.status}: ${problem.detail ?? problem.title}`, problem);
        waiting?.reject(error);
        this.error(error);
      } else waiting?.resolve(receipt!);
    }
  }

  sendPending(): void {
    this.connector.send(this.synchronizer.tick(this.env.monotonic()));
  }

  /** Marks the state as changed. The listeners are called once, in a microtask after all changes of this turn. */
  markChanged(): void {
    this._dirty = true;
    if (this._announced) return;
    this._announced = true;
    queueMicrotask(() => {
      this._announced = false;
      this.getState();
      if (!this._store.missed) return;
      this._store.missed = false;
      for (const listener of [...this._listeners]) this.guard(listener);
    });
  }

  /** Calls a function of the application, and reports its error to `onError`. */
  guard(call: () => void): void {
    try {
      call();
    } catch (error) {
      this.error(error);
    }
  }

  protected _put(message: Message, after?: string): { key?: string; receipt: Promise<Receipt> } {
    try {
      if (this.closed || this.connector.status === "stopped") throw new GregorError(`client stopped: ${this.connector.why ?? "closed"}`);
      // Storage, tabs and the server must get the same message: the caller may change it later, or it may have values
      // that are not JSON.
      message = JSON.parse(JSON.stringify(message));
      const entry = this.synchronizer.put(message, this.clock.now(), after);
      // Stored before it is sent: a reload between the two sends it again, which changes nothing.
      this.stored(entry);
      this.sendPending();
      this.markChanged();
      const receipt = new Promise<Receipt>((resolve, reject) => this._receipts.set(entry.key, { resolve, reject }));
      return { key: entry.key, receipt: ignorable(receipt) };
    } catch (error) {
      return { receipt: ignorable(Promise.reject(error)) };
    }
  }

  private _handle(handler: (event: any) => void): () => void {
    this._handlers.add(handler);
    return () => this._handlers.delete(handler);
  }

  private _emit(change: Change, now: number): void {
    let event: object = change;
    if ("item" in change) {
      const { id, item, rendered } = change as typeof change & { rendered?: Rendering };
      event = { ...change, item: this._store.show(id, item, this.synchronizer.mirror, now, rendered) };
    }
    for (const handler of [...this._handlers]) this.guard(() => handler(event));
  }

  /** Starts the timer of the next expiry, reminder, digest check or end of a wait. */
  private _plan(now: number): void {
    this.env.stopTimer(this._timer);
    const waitMs = Math.min((this._store.nextMoment(now) - now) * 1000, this.synchronizer.nextTick() - this.env.monotonic());
    if (waitMs === Infinity || this.closed) return;
    this._timer = this.env.startTimer(() => {
      this.sendPending();
      this.markChanged();
    }, Math.max(1, waitMs));
  }

  /** Rejects the promises of all entries; with `isFinal` also `ready`. Returns their error. */
  private _reject(text: string, isFinal?: boolean): Error {
    const error = new GregorError(text);
    if (isFinal) this._settle.reject(error);
    for (const { reject } of this._receipts.values()) reject(error);
    this._receipts.clear();
    return error;
  }
}

/** Returns the three addresses of the server without a slash at the end. */
export function endpointsOf(url: string | Endpoints): Endpoints {
  // Relative to the page: `url: "/"` is the host of the page. The `s` of https and wss stays.
  const read = (text: string, scheme: string) =>
    new URL(text, (globalThis as any).location?.href).href.replace(/^(http|ws)/, scheme).replace(/\/?([?#].*)?$/, "");
  const all = typeof url === "string" ? { api: url, websocket: url, streams: url } : url;
  return { api: read(all.api, "http"), websocket: read(all.websocket, "ws"), streams: read(all.streams, "http") };
}
