/** Public types of the client: items, messages, receipts, the state of a page (docs/reference/websocket.md). */

/** Unix seconds, whole or decimal. */
export type Seconds = number;

/** A moment: a `Date`, or Unix seconds. */
export type Time = Date | Seconds;

/** A moment, or an offset from the creation such as `"+86400"` or `"+1d"`. */
export type TimeOrOffset = Time | `+${string}`;

/** The times of an item in Unix seconds. */
export interface Times {
  readonly created: Seconds;
  readonly expires?: Seconds;
  readonly remind_at?: readonly Seconds[];
}

/** An item as the server sends it. It never changes after its creation. */
export interface Item {
  readonly times: Times;
  /** Null: one item, shared by all devices. `"*"`: each device dismisses it for itself. Else the name of one device. */
  readonly for_device: string | null;
  readonly category: string;
  readonly body: unknown;
}

/** The texts of an item in the language `render`, by its notification type. */
export interface Rendering {
  readonly title: string;
  readonly text: string | null;
  readonly link: string | null;
}

/** An item as a page shows it. The object keeps its identity while nothing in it changes. */
export interface ShownItem extends Item {
  readonly id: string;
  /** Whether the item waits for the server: it was created on this device and is not confirmed yet. */
  readonly pending: boolean;
  /** Whether a reminder of the item lies in the past. */
  readonly due: boolean;
  /** Null without the option `render`, or if the item has no title. */
  readonly rendered: Rendering | null;
}

/**
 * The connection as a page shows it.
 *
 * `starting`: no connection was tried yet. `connecting`: an attempt, or the wait before the next one.
 * `connected`: the copy is in sync. `stopped`: closed for good, see `why`.
 */
export interface Connection {
  readonly status: "starting" | "connecting" | "connected" | "stopped";
  readonly transport: TransportName | null;
  /** Whether this tab holds the connection. False if it shares the connection of another tab. */
  readonly leader: boolean;
  /** Time of the last change of `status`, in milliseconds of `Date.now()`. */
  readonly since: number;
  /** Whether the server cannot be reached now, so that changes wait in the outbox. */
  readonly offline: boolean;
  /** Whether copy and outbox survive a reload. False without a usable IndexedDB. */
  readonly persisted: boolean;
  /** Why the last connection ended or could not be made; null if nothing has failed since the last success. */
  readonly why: string | null;
  /** Close code of the last connection; null if there was none. */
  readonly code: number | null;
}

export type TransportName = "websocket" | "sse" | "poll";

/** Everything that a page shows. A new object after each change; the same object while nothing changed. */
export interface State {
  /** The items to show: the proven copy with the outbox applied, without expired items. By `created`, newest first. */
  readonly items: readonly ShownItem[];
  /** The number of items that count for the badge: the same number as in a push. */
  readonly badge: number;
  readonly connection: Connection;
  /** Ids of the items that a message of the outbox creates or dismisses. */
  readonly pending: ReadonlySet<string>;
  /** Messages that the server has not confirmed yet. */
  readonly outbox: number;
  /** Whether `items` comes from the server or from the stored copy. False before the first of them. */
  readonly loaded: boolean;
  /** The user and device of the token; null before the first token. */
  readonly user: string | null;
  readonly device: string | null;
  /** Copies whose digest differed from the server's. Each was replaced by a full copy. */
  readonly mismatches: number;
}

/** A message to the server. System `gregor` changes the state; every other system is external. */
export interface Message {
  readonly system: string;
  readonly body: any;
  readonly id?: string;
  readonly not_before?: Seconds;
}

/** The answer of the server to an accepted message. */
export interface Receipt {
  readonly seq?: number;
  readonly created?: readonly string[];
  readonly dismissed?: readonly string[];
  /** Item ids that were not created: `conflict`, `dismissed`, `expired`, `stale` or `duplicate`. */
  readonly ignored?: Readonly<Record<string, string>>;
  readonly unchanged?: boolean;
  /** The id of a message that waits for its `not_before`. */
  readonly id?: string;
  readonly not_before?: Seconds;
}

/** An error document of the server (RFC 9457; docs/reference/errors.md). */
export interface Problem {
  readonly code?: string;
  readonly status?: number;
  readonly title?: string;
  readonly detail?: string;
  readonly errors?: readonly { readonly pointer: string; readonly detail: string }[];
  readonly retry_after_ms?: number;
}

/** Members of an item to create, apart from category and body. */
export interface CreateOptions {
  /** The id of the item; random unless given. */
  readonly id?: string;
  readonly forDevice?: string | null;
  readonly created?: Time;
  readonly expires?: TimeOrOffset;
  readonly remindAt?: readonly TimeOrOffset[];
}

/** Dismisses many items: all of a category, or all under a prefix (`""`: every item). */
export interface DismissOptions {
  readonly category?: string;
  readonly prefix?: string;
  /** Only items created up to this moment. Default: the newest item that this page shows. */
  readonly end?: Time;
  /** Ids to keep. */
  readonly skip?: readonly string[];
}

/** A change of one item, for handlers. `live` is false if the item was read while catching up. */
export type ItemEvent =
  | { readonly type: "created"; readonly item: ShownItem; readonly live: boolean }
  | { readonly type: "dismissed"; readonly item: ShownItem; readonly reason: string | null }
  | { readonly type: "reminded"; readonly item: ShownItem; readonly at: Seconds };

/** A message of another system, or the notice that some were lost and its data must be loaded again. */
export type ExternalEvent =
  | { readonly type: "message"; readonly system: string; readonly body: unknown; readonly device: string | null }
  | { readonly type: "gap" };

/** Where the server is: one URL of a reverse proxy, or the three ports of `gregor dev`. */
export interface Endpoints {
  /** HTTP API (ingest), such as `http://127.0.0.1:8700`. */
  readonly api: string;
  /** WebSocket port of the gateway, such as `ws://127.0.0.1:8701`. */
  readonly websocket: string;
  /** Stream port of the gateway, such as `http://127.0.0.1:8702`. */
  readonly streams: string;
}

export type TokenSource = string | (() => string | Promise<string>);

export interface ConnectOptions {
  /** `https://push.example.com`, if one host serves all ports; otherwise all three URLs. */
  readonly url: string | Endpoints;
  /**
   * A device token, or a function that fetches a fresh one. It is called before each connection and each refresh. The
   * client stops after five tokens in a row that have expired or are not JWTs (`code` 4004).
   */
  readonly token: TokenSource;
  /** Only categories under these prefixes. */
  readonly categories?: readonly string[];
  /** Only external messages of these systems; `[]`: none. */
  readonly systems?: readonly string[];
  /** Language of titles and texts, such as `it-IT`. */
  readonly render?: string;
  /** Transports to use, best first. Default: all that the environment has. */
  readonly transports?: readonly TransportName[];
  /** False: this page holds its own connection and shares nothing with other tabs. */
  readonly tabs?: boolean;
  /** False: nothing is stored. A string: a name for the stored copy, if one origin has several users or devices. */
  readonly store?: boolean | string;
  /** Items for the first paint: the response of `GET /v1/users/{uid}/state`. */
  readonly initial?: { readonly items: Readonly<Record<string, Item>>; readonly badge?: number };
  /**
   * Called for each failure in the background; nothing is thrown there. A token function that fails in the same way at
   * each retry is reported once. A connection that is closed for good is reported, too.
   */
  readonly onError?: (error: Error) => void;
  /** A WebSocket class for environments without one, such as Node 20 (`import WebSocket from "ws"`). */
  readonly WebSocket?: unknown;
}

/** One user's state on one device, kept in sync: the client of `gregor-client/core`. */
export interface CoreClient {
  /** The state to show. The same object until something changes. */
  getState(): State;
  /** Calls `listener` after each change. Returns a function that ends the subscription. */
  subscribe(listener: () => void): () => void;
  /** The shown items of a category or prefix, or those for which `filter` is true. The same array until it changes. */
  select(filter?: string | ((item: ShownItem) => boolean)): readonly ShownItem[];
  readonly badge: number;
  readonly connection: Connection;
  /** Resolves when the copy is in sync for the first time. Rejects when the connection is closed for good. */
  readonly ready: Promise<void>;

  /** Puts a message into the outbox. The state shows its effect at once; the promise has the server's receipt. */
  dispatch(message: Message): Promise<Receipt>;
  /** Creates an item. */
  create(category: string, body?: unknown, options?: CreateOptions): Promise<Receipt & { readonly itemId: string }>;
  /** Dismisses items by id, or many at once. It does not dismiss items that this page has not shown. */
  dismiss(what: string | readonly string[] | DismissOptions): Promise<Receipt>;
  /** Reports that the user has seen everything up to now (or up to `seq`): no push is sent for it. */
  ack(seq?: number): void;
  /** Reports whether the user looks at this page. In a browser, the visibility of the page is reported by itself. */
  setForeground(foreground: boolean): void;

  /** Calls `handler` for each change of an item in a category or under a prefix (`""`: every item). */
  on(category: string, handler: (event: ItemEvent) => void): () => void;
  /** Calls `handler` for each message of an external system. */
  onExternal(system: string, handler: (event: ExternalEvent) => void): () => void;

  /** Closes the connection. The client cannot be used again. */
  close(): void;
}

/** The client of `gregor-client`: also storage, tabs, snooze and the HTTP API. */
export interface Client extends CoreClient {
  /** Dismisses an item now and creates a copy of it at `until`. */
  snooze(id: string, until: Time): Promise<Receipt>;
  /**
   * Calls the HTTP API with the device token. In `path`, `~` stands for the user: `"~/history?limit=50"`,
   * `"~/preferences"`, `"~/devices/phone"`.
   */
  api(path: string, init?: RequestInit): Promise<Response>;
  /** Deletes the stored copy and outbox, for a sign-out. The client is closed. */
  forget(): Promise<void>;
}
