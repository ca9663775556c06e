/** The client with storage and tabs. */

import { GregorClient, GregorError, ignorable } from "./client";
import { defaultEnv, type Env, within } from "./env";
import { FallbackConnector } from "./fallback";
import { dismissal, secondsOf, snoozed } from "./messages";
import { copyOf, type Frame } from "./mirror";
import type { Completed, Entry } from "./outbox";
import { Persistence } from "./persistence";
import { Tabs } from "./tabs";
import type { Transport } from "./transports";
import type { Client, Connection, ConnectOptions, Receipt, Time } from "./types";

/** Longest time for which the first connection waits for the stored copy. */
const LOAD_MS = 2_000;
/** Delay of a write of the copy: one write covers many frames. */
const SAVE_MS = 500;

export class FullClient extends GregorClient implements Client {
  declare private _persistence: Persistence | undefined;
  declare private _tabs: Tabs | undefined;
  declare private _saveTimer: unknown;

  constructor(options: ConnectOptions, transports: readonly Transport[], env: Env = defaultEnv()) {
    super(options, transports, env, FallbackConnector);
  }

  async forget(): Promise<void> {
    this.close();
    await this._persistence?.wipe();
  }

  snooze(id: string, until: Time): Promise<Receipt> {
    const item = this.synchronizer.mirror.items.get(id);
    if (!item) return ignorable(Promise.reject(new GregorError(`snooze: no item ${id}`)));
    const copy = this._put(snoozed(id, item, secondsOf(until), this.device));
    // The dismissal is sent only after the server has accepted the copy: a refused copy loses nothing.
    return copy.key ? this._put(dismissal(id), copy.key).receipt : copy.receipt;
  }

  async api(path: string, init: RequestInit = {}): Promise<Response> {
    const call = async (force: boolean) => {
      const token = await this.connector.freshToken(force);
      this.identify(token);
      const headers = new Headers(init.headers);
      headers.set("Authorization", `Bearer ${token}`);
      return this.env.fetch(`${this.endpoints.api}/v1/${path.replace(/^~/, `users/${encodeURIComponent(this.user!)}`)}`, { ...init, headers });
    };
    const response = await call(false);
    return response.status === 401 && typeof this.options.token !== "string" ? call(true) : response;
  }

  override ack(seq?: number): void {
    super.ack(seq);
    this._tabs?.reportForeground();
  }

  override close(): void {
    if (this.closed) return;
    this._save();
    this._tabs?.close();
    this._tabs = undefined;
    super.close();
  }

  override frame(frame: Frame): { code: number; reason: string } | undefined {
    const end = super.frame(frame);
    if (frame.system || frame.welcome) this._tabs?.forward(frame);
    return end;
  }

  override connectionChanged(): void {
    super.connectionChanged();
    this._tabs?.connectionChanged();
  }

  // For tabs.

  /** Applies a frame that another tab received. If the digest differs, that tab repairs it. */
  follow(frame: Frame): void {
    const now = frame.welcome?.now ?? frame.now;
    if (now) this.clock.learn(now);
    const changes = this.synchronizer.mirror.apply(frame);
    this.applied(changes, this.synchronizer.outbox.reached(this.synchronizer.mirror.seq));
  }

  /** Adds an entry that another tab has enqueued. */
  adopt(entry: Entry): void {
    this.synchronizer.outbox.add(entry);
    this.sendPending();
    this.markChanged();
  }

  /** Completes entries whose answers another tab has received. */
  finish(done: Completed[]): void {
    for (const { key } of done) this.synchronizer.outbox.delete(key);
    this.settle(done);
    this.markChanged();
  }

  /** Returns whether a tab of this user can share its connection. Without a token, this tab takes over that user. */
  shares(user: string, device: string): boolean {
    const isSame = this.user === user && this.device === device;
    return isSame || (!this.isUserOfToken && this.setUser(user, device, false));
  }

  override setUser(user: string, device: string, isOfToken: boolean): boolean {
    const isFirst = this.user === null;
    const isOpen = super.setUser(user, device, isOfToken);
    // Entries that were stored before had no owner.
    if (isFirst) for (const entry of this.synchronizer.outbox.all()) this._keep(entry);
    return isOpen;
  }

  /** Reports the foreground of all tabs to the server. */
  tabsChanged(): void {
    this.connector.setForeground(this.isForeground || !!this._tabs?.foreground);
  }

  protected override async launch(): Promise<void> {
    const { store, tabs, url } = this.options;
    const name = `gregor:${typeof url === "string" ? url : url.websocket}:${typeof store === "string" ? store : ""}`;
    const { env } = this;
    if (store !== false && env.indexedDB) {
      this._persistence = new Persistence(env, name, (error) => {
        this.error(error);
        this.markChanged();
      });
      // Neither a slow database nor a damaged copy prevents the connection.
      await within(env, this._load(), LOAD_MS, "IndexedDB does not answer").catch((error) => this.error(error));
    }
    if (this.closed) return;
    if (tabs === false || !env.channel) return this.connector.start();
    this._tabs = new Tabs(this, name + this._filter);
    this._removeListeners.push(env.listen("freeze", () => this.suspend()), env.listen("resume", () => this.resume()));
    this._tabs.visibilityChanged(true);
    this.updateForeground();
  }

  protected override suspend(): void {
    this._save();
    (this._tabs ?? this.connector).stop();
  }

  protected override resume(): void {
    (this._tabs ?? this.connector).start();
  }

  protected override stored(entry: Entry): void {
    this._keep(entry);
    this._tabs?.post({ type: "put", entry });
  }

  protected override completed(done: Completed[]): void {
    this._persistence?.done.push(...done.map(({ key }) => key));
    this._tabs?.post({ type: "done", done });
  }

  protected override clear(): void {
    super.clear();
    void this._persistence?.wipe();
  }

  protected override updateForeground(): void {
    const visible = this.env.visible();
    if (!visible) this._save();
    this._tabs?.reportForeground();
    this._tabs?.visibilityChanged(visible);
    this.tabsChanged();
  }

  protected override sharedConnection(): Partial<Connection> {
    const persisted = this._persistence?.persisted ?? false;
    const tabs = this._tabs;
    if (!tabs || (!tabs.following && this.connector.status !== "idle")) return { persisted };
    const { following, why } = tabs;
    return { persisted, status: following ? "connected" : "connecting", offline: !!why, why, code: null };
  }

  override markChanged(): void {
    super.markChanged();
    // Only the tab that has the connection writes the copy.
    if (this._persistence && this.synchronizer.synced) this._saveTimer ??= this.env.startTimer(() => this._save(), SAVE_MS);
  }

  private _keep(entry: Entry): void {
    this._persistence?.putEntry(this.user === null ? entry : { ...entry, owner: this._owner });
  }

  private async _load(): Promise<void> {
    const saved = await this._persistence!.load();
    if (!saved || this.closed) return;
    const { copy, entries } = saved;
    const { outbox } = this.synchronizer;
    // Without a token, the page belongs to the owner of the stored data. A token of another user then deletes it.
    const owner = copy?.owner ?? entries.find((entry) => entry.owner)?.owner;
    if (owner !== undefined && this.user !== null && owner !== this._owner) return void this._persistence!.wipe();
    if (owner !== undefined && !this.isUserOfToken) [this.user, this.device] = owner.split("\n") as [string, string];
    // Stored entries are older than those of this page.
    const later = outbox.all();
    for (const { key } of later) outbox.delete(key);
    const own = entries.filter((entry) => entry.owner === undefined || entry.owner === owner);
    for (const entry of [...own.sort((a, b) => a.queued - b.queued), ...later]) outbox.add(entry);
    if (copy && copy.filter === this._filter && this.synchronizer.mirror.cursor === null) {
      // The digest is computed again: the next sync detects a damaged copy.
      this.synchronizer.mirror.apply(copy.frame);
      this.loaded = true;
    }
    // The connection may be in sync already, if the database is slow.
    this.sendPending();
    this.markChanged();
  }

  private get _owner(): string {
    return `${this.user}\n${this.device}`;
  }

  private get _filter(): string {
    const { categories, systems, render } = this.options;
    return JSON.stringify([categories, systems, render]);
  }

  private _save(): void {
    if (this._saveTimer === undefined) return;
    this.env.stopTimer(this._saveTimer);
    this._saveTimer = undefined;
    const frame = copyOf(this.synchronizer.mirror);
    if (frame) this._persistence?.saveCopy({ owner: this._owner, filter: this._filter, frame });
  }
}
