/**
 * Copy and outbox in IndexedDB, so that both survive a reload.
 *
 * A handle of IndexedDB can die while the page lives (WebKit loses it in the background). Each failure drops the handle
 * and opens a new one, three times at most; then the page goes on without storage, and `persisted` is false. Nothing is
 * lost by that: the pending mark of a message leaves only with the server's receipt.
 */

import { type Env, within } from "./env";
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
  private _queue: Promise<boolean> = Promise.resolve(true);

  constructor(
    private _env: Env,
    private _name: string,
    private _gaveUp: (error: Error) => void,
  ) {}

  async load(): Promise<Saved | null> {
    let copy!: IDBRequest;
    let entries!: IDBRequest;
    const isRead = await this._run((copies, outbox) => {
      copy = copies.get(0);
      entries = outbox.getAll();
    });
    return isRead ? { copy: copy.result, entries: entries.result } : null;
  }

  saveCopy(copy: SavedCopy): void {
    this._run((copies) => copies.put(copy, 0));
  }

  putEntry(entry: Entry): void {
    this._run((_, outbox) => outbox.put(entry, entry.key));
  }

  deleteEntries(keys: string[]): void {
    this._run((_, outbox) => keys.forEach((key) => outbox.delete(key)));
  }

  /** Deletes everything. */
  wipe(): Promise<unknown> {
    return this._run((copies, outbox) => {
      copies.clear();
      outbox.clear();
    });
  }

  /** Runs transactions one after another. Returns whether this one was completed: false without a usable database. */
  private _run(work: (copies: IDBObjectStore, outbox: IDBObjectStore) => void): Promise<boolean> {
    return (this._queue = this._queue.then(async () => {
      while (this.persisted) {
        try {
          await this._transact(work);
          this._reopens = 0;
          return true;
        } catch (error) {
          this._database?.then((database) => database.close()).catch(() => {});
          this._database = null;
          if (++this._reopens > MAX_REOPENS) {
            this.persisted = false;
            this._gaveUp(error as Error);
          }
        }
      }
      return false;
    }));
  }

  private async _transact(work: (copies: IDBObjectStore, outbox: IDBObjectStore) => void): Promise<void> {
    const database = await (this._database ??= this._within(this._open()));
    const transaction = database.transaction([COPY, OUTBOX], "readwrite");
    work(transaction.objectStore(COPY), transaction.objectStore(OUTBOX));
    await this._within(
      new Promise<void>((resolve, reject) => {
        transaction.oncomplete = () => resolve();
        transaction.onabort = () => reject(transaction.error ?? new Error("IndexedDB aborted"));
      }),
    );
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
    });
  }

  private _within<T>(work: Promise<T>): Promise<T> {
    return within(this._env, work, REQUEST_MS, "IndexedDB does not answer");
  }
}
