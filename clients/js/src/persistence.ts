/**
 * Copy and outbox in IndexedDB, so that both survive a reload.
 *
 * A handle of IndexedDB can die while the page lives (WebKit loses it in the background). Each failure drops the handle
 * and opens a new one, three times at most; then the page goes on without storage, and `persisted` is false. Nothing is
 * lost by that: the pending mark of a message leaves only with the server's receipt.
 */

import type { Env } from "./env";
import type { Frame } from "./mirror";
import type { Entry } from "./outbox";

export interface SavedCopy {
  /** User and device of the copy. */
  owner: string;
  /** The filter with which it was made: another filter is another view. */
  filter: string;
  frame: Frame;
}

export interface Saved {
  copy: SavedCopy | undefined;
  entries: Entry[];
}

const COPY = "copy";
const OUTBOX = "outbox";
const MAX_REOPENS = 3;
/** A request that takes longer than this counts as failed: some browsers never answer on a dead handle. */
const REQUEST_MS = 3_000;

export class Persistence {
  persisted = true;
  private _database: Promise<IDBDatabase> | null = null;
  private _reopens = 0;
  private _queue: Promise<unknown> = Promise.resolve();

  constructor(
    private _env: Env,
    private _name: string,
    private _changed: () => void,
    private _error: (error: Error) => void,
  ) {
    if (!_env.indexedDB) this.persisted = false;
  }

  load(): Promise<Saved | null> {
    return this._run("readonly", (store) => {
      const copy = store(COPY).get(0);
      const entries = store(OUTBOX).getAll();
      return () => ({ copy: copy.result, entries: entries.result });
    });
  }

  saveCopy(copy: SavedCopy): void {
    void this._run("readwrite", (store) => void store(COPY).put(copy, 0));
  }

  putEntry(entry: Entry): void {
    void this._run("readwrite", (store) => void store(OUTBOX).put(entry, entry.key));
  }

  deleteEntries(keys: string[]): void {
    void this._run("readwrite", (store) => keys.forEach((key) => store(OUTBOX).delete(key)));
  }

  /** Deletes everything. */
  async wipe(): Promise<void> {
    await this._run("readwrite", (store) => {
      store(COPY).clear();
      store(OUTBOX).clear();
    });
  }

  /** Runs transactions one after another. Returns null without a usable database. */
  private _run<T>(
    mode: IDBTransactionMode,
    work: (store: (name: string) => IDBObjectStore) => (() => T) | void,
  ): Promise<T | null> {
    const run = async (): Promise<T | null> => {
      while (this.persisted) {
        try {
          const result = await this._transact(mode, work);
          this._reopens = 0;
          return result;
        } catch (error) {
          this._database?.then((database) => database.close()).catch(() => {});
          this._database = null;
          if (++this._reopens > MAX_REOPENS) {
            this.persisted = false;
            this._error(error as Error);
            this._changed();
          }
        }
      }
      return null;
    };
    const done = this._queue.then(run);
    this._queue = done;
    return done;
  }

  private async _transact<T>(
    mode: IDBTransactionMode,
    work: (store: (name: string) => IDBObjectStore) => (() => T) | void,
  ): Promise<T | null> {
    const database = await (this._database ??= this._within(this._open()));
    const transaction = database.transaction([COPY, OUTBOX], mode);
    const read = work((name) => transaction.objectStore(name));
    await this._within(
      new Promise<void>((resolve, reject) => {
        transaction.oncomplete = () => resolve();
        transaction.onabort = transaction.onerror = () => reject(transaction.error);
      }),
    );
    return read ? read() : null;
  }

  private _open(): Promise<IDBDatabase> {
    return new Promise((resolve, reject) => {
      const request = this._env.indexedDB!.open(this._name, 1);
      request.onupgradeneeded = () => {
        request.result.createObjectStore(COPY);
        request.result.createObjectStore(OUTBOX);
      };
      request.onsuccess = () => {
        // Another tab deletes the database: do not block it.
        request.result.onversionchange = request.result.onclose = () => {
          request.result.close();
          this._database = null;
        };
        resolve(request.result);
      };
      request.onerror = () => reject(request.error);
      request.onblocked = () => reject(new Error("IndexedDB is blocked by another tab"));
    });
  }

  private _within<T>(work: Promise<T>): Promise<T> {
    let timer: unknown;
    const late = new Promise<never>((_, reject) => {
      timer = this._env.setTimeout(() => reject(new Error("IndexedDB does not answer")), REQUEST_MS);
    });
    return Promise.race([work, late]).finally(() => this._env.clearTimeout(timer));
  }
}
