/**
 * Copy and outbox in IndexedDB: both survive a reload.
 *
 * A connection to IndexedDB can fail while the page is open (WebKit loses it in the background). After a failure, the
 * client opens the database again, at most three times in a row. Then it continues without storage, and `persisted` is
 * false. A message is still shown as pending until the receipt of the server has arrived.
 */

import { type Env, within } from "./env";
import type { Frame } from "./mirror";
import type { Entry } from "./outbox";

export interface SavedCopy {
  /** User and device of the copy. */
  owner: string;
  /** The filter of the copy: a copy with another filter is of another view. */
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
/** A request that takes longer than this has failed: on a lost connection, some browsers never answer. */
const REQUEST_MS = 3_000;

export class Persistence {
  /** Whether the database can be used; false for ever after too many failures. */
  persisted = true;
  /** Keys of entries whose effect the next copy shows. Without that copy, a page would load the state before them. */
  done: string[] = [];
  private _database?: Promise<IDBDatabase> | null;
  private _reopens = 0;
  private _queue: Promise<boolean> = Promise.resolve(true);

  constructor(
    private _env: Env,
    private _name: string,
    private _gaveUp: (error: Error) => void,
  ) {}

  /** Reads everything; null without a usable database. */
  async load(): Promise<Saved | null> {
    let copy!: IDBRequest;
    let entries!: IDBRequest;
    const isRead = await this._run((copies, outbox) => {
      copy = copies.get(0);
      entries = outbox.getAll();
    });
    return isRead ? { copy: copy.result, entries: entries.result } : null;
  }

  /** Stores a copy, and deletes `done` in the same transaction. */
  saveCopy(copy: SavedCopy): void {
    const done = this.done.splice(0);
    this._run((copies, outbox) => {
      copies.put(copy, 0);
      done.forEach((key) => outbox.delete(key));
    });
  }

  putEntry(entry: Entry): void {
    this._run((_, outbox) => outbox.put(entry, entry.key));
  }

  /** Deletes everything. */
  wipe(): Promise<unknown> {
    return this._run((copies, outbox) => {
      copies.clear();
      outbox.clear();
    });
  }

  /** Runs transactions one after another. Resolves to whether this one was completed: false without a usable database. */
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
        transaction.onabort = () => reject(transaction.error);
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
        // If another tab deletes the database, an open connection would block it.
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
