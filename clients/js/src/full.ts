/** The client with storage and tabs. */

import { GregorClient } from "./client";
import type { Frame } from "./mirror";
import { Mirror } from "./mirror";
import type { Completed, Entry } from "./outbox";
import { Persistence } from "./persistence";
import { Tabs } from "./tabs";
import type { Connection } from "./types";

/** Longest time that a stored copy may delay the connection. */
const LOAD_MS = 2_000;
/** Delay of a write of the copy: many frames make one write. */
const SAVE_MS = 500;

export class FullClient extends GregorClient {
  declare private _persistence: Persistence | undefined;
  declare private _tabs: Tabs | undefined;
  declare private _saveTimer: unknown;

  override async forget(): Promise<void> {
    this.close();
    await this._persistence?.wipe();
  }

  override ack(seq?: number): void {
    super.ack(seq);
    if (!this.synchronizer.synced) this._tabs?.ack(seq ?? this.synchronizer.mirror.seq);
  }

  override close(): void {
    if (this.closed) return;
    this._save();
    this._tabs?.close();
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

  /** Applies a frame that another tab received. That tab repairs a mismatch. */
  follow(frame: Frame): void {
    const now = frame.welcome?.now ?? frame.now;
    if (now) this.clock.learn(now);
    const changes = this.synchronizer.mirror.apply(frame);
    this.process(changes, this.synchronizer.outbox.reached(this.synchronizer.mirror.seq));
  }

  /** Takes an entry that another tab put. */
  adopt(entry: Entry): void {
    this.synchronizer.outbox.add(entry);
    this.sendPending();
    this.changed();
  }

  /** Takes the answers to entries that another tab received. */
  finish(done: Completed[]): void {
    for (const { key } of done) this.synchronizer.outbox.delete(key);
    this.settle(done);
    this.changed();
  }

  /** Whether a connection of this user can be shared. */
  shares(user: string, device: string): boolean {
    const isSame = this.user === user && this.device === device;
    return isSame || (!this.isProven && this.become(user, device, false));
  }

  get isLooking(): boolean {
    return this.isForeground;
  }

  tabsChanged(): void {
    this.connector.setForeground(this.isForeground || !!this._tabs?.foreground);
  }

  protected override async begin(): Promise<void> {
    const { store, tabs, url } = this.options;
    const name = `gregor:${typeof url === "string" ? url : url.websocket}:${typeof store === "string" ? store : ""}`;
    const { env } = this;
    if (store !== false && env.indexedDB) {
      this._persistence = new Persistence(env, name, () => this.changed(), (error) => this.error(error));
      await Promise.race([this._load(), new Promise<void>((resolve) => env.setTimeout(resolve, LOAD_MS))]);
    }
    if (this.closed) return;
    if (tabs === false || !env.channel) return this.connector.start();
    this._tabs = new Tabs(this, name + this._filter);
    this.ends.push(env.listen("freeze", () => this.suspend()), env.listen("resume", () => this.resume()));
    this._tabs.start();
    this.updateForeground();
  }

  protected override suspend(): void {
    this._save();
    if (this._tabs) this._tabs.suspend();
    else super.suspend();
  }

  protected override resume(): void {
    if (this._tabs) this._tabs.resume();
    else super.resume();
  }

  protected override stored(entry: Entry): void {
    this._persistence?.putEntry(entry);
    this._tabs?.put(entry);
  }

  protected override completed(done: Completed[]): void {
    this._persistence?.deleteEntries(done.map(({ key }) => key));
    this._tabs?.done(done);
  }

  protected override clear(): void {
    super.clear();
    void this._persistence?.wipe();
  }

  protected override updateForeground(): void {
    const visible = this.env.visible();
    if (!visible) this._save();
    this._tabs?.here(this.isForeground);
    this._tabs?.shown(visible);
    this.tabsChanged();
  }

  protected override connectionNow(): Connection {
    const own = super.connectionNow();
    const persisted = this._persistence?.persisted ?? false;
    const tabs = this._tabs;
    if (!tabs || own.status === "stopped" || this.connector.status !== "idle") return this.describe({ ...own, persisted });
    const { following, why } = tabs;
    const status = following ? "connected" : "connecting";
    return this.describe({ ...own, persisted, status, leader: false, offline: !following && why !== null, why, code: null });
  }

  override changed(): void {
    super.changed();
    // Written by the tab that has the connection.
    if (this._persistence && this.synchronizer.synced) this._saveTimer ??= this.env.setTimeout(() => this._save(), SAVE_MS);
  }

  private async _load(): Promise<void> {
    const saved = await this._persistence!.load();
    if (!saved || this.closed) return;
    const { copy, entries } = saved;
    const { outbox } = this.synchronizer;
    if (copy && this.user !== null && copy.owner !== this._owner) return void this._persistence!.wipe();
    // Stored entries are older than those of this page.
    const later = outbox.all();
    for (const { key } of later) outbox.delete(key);
    for (const entry of [...entries.sort((a, b) => a.queued - b.queued), ...later]) outbox.add(entry);
    if (copy && copy.filter === this._filter && this.synchronizer.mirror.cursor === null) {
      this.synchronizer.mirror = Mirror.restore(copy.mirror);
      if (!this.isProven) [this.user, this.device] = copy.owner.split("\n") as [string, string];
      this.loaded = true;
    }
    this.changed();
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
    this.env.clearTimeout(this._saveTimer);
    this._saveTimer = undefined;
    if (this.user === null || this.synchronizer.mirror.cursor === null) return;
    this._persistence?.saveCopy({ owner: this._owner, filter: this._filter, mirror: this.synchronizer.mirror.snapshot() });
  }
}
