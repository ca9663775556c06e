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
/** Title, text and link of an item in the language `render`, from the templates of its notification type. */
export interface Rendering {
    readonly title: string;
    readonly text: string | null;
    readonly link: string | null;
}
/** An item as a page shows it. The same object until one of its members changes. */
export interface ShownItem extends Item {
    readonly id: string;
    /** Whether the item was created on this device, and the server has not confirmed it yet. */
    readonly pending: boolean;
    /** Whether a time in `remind_at` has passed. */
    readonly due: boolean;
    /** Null without the option `render`, or if the item has no title. */
    readonly rendered: Rendering | null;
}
/**
 * The connection as a page shows it.
 *
 * `starting`: before the first attempt. `connecting`: during an attempt, or while waiting for the next one.
 * `connected`: the copy is in sync. `stopped`: the client has stopped and does not reconnect, see `why`.
 */
export interface Connection {
    readonly status: "starting" | "connecting" | "connected" | "stopped";
    readonly transport: TransportName | null;
    /** Whether this tab holds the connection. False if it shares the connection of another tab. */
    readonly leader: boolean;
    /** Time of the last change of `status`, in milliseconds of `Date.now()`. */
    readonly since: number;
    /** Whether the server cannot be reached now: changes wait in the outbox. */
    readonly offline: boolean;
    /** Whether copy and outbox survive a reload. False without a usable IndexedDB. */
    readonly persisted: boolean;
    /** Why the last connection or attempt failed; null if none has failed since the last success. */
    readonly why: string | null;
    /** Close code that belongs to `why`; null if `why` is null, or if it is from another tab. */
    readonly code: number | null;
}
export type TransportName = "websocket" | "sse" | "poll";
/** Everything that a page shows. The same object until something changes. */
export interface State {
    /** The items to show: the verified copy with the outbox applied, without expired items. By `created`, newest first. */
    readonly items: readonly ShownItem[];
    /** The number of items that count for the badge. It equals the badge of a push. */
    readonly badge: number;
    readonly connection: Connection;
    /** Ids of the items that a message of the outbox creates or dismisses. */
    readonly pending: ReadonlySet<string>;
    /** Messages that the server has not confirmed yet. */
    readonly outbox: number;
    /** Whether a copy has been loaded: from the server, from storage, or from the option `initial`. */
    readonly loaded: boolean;
    /** The user and device of the token; null before the first token. */
    readonly user: string | null;
    readonly device: string | null;
    /** The number of copies whose digest differed from the server's. Each was replaced by a full copy. */
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
    readonly errors?: readonly {
        readonly pointer: string;
        readonly detail: string;
    }[];
    readonly retry_after_ms?: number;
}
/** Members of an item to create, other than category and body. */
export interface CreateOptions {
    /** The id of the item. Default: a random id. */
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
/** A change of one item, for handlers. `live` is false if the item came in a sync object, and not as a live frame. */
export type ItemEvent = {
    readonly type: "created";
    readonly item: ShownItem;
    readonly live: boolean;
} | {
    readonly type: "dismissed";
    readonly item: ShownItem;
    readonly reason: string | null;
} | {
    readonly type: "reminded";
    readonly item: ShownItem;
    readonly at: Seconds;
};
/** A message of another system. `gap`: some were lost, so the page must load the data of that system again. */
export type ExternalEvent = {
    readonly type: "message";
    readonly system: string;
    readonly body: unknown;
    readonly device: string | null;
} | {
    readonly type: "gap";
};
/** The URLs of the three public ports of Gregor. */
export interface Endpoints {
    /** HTTP API (ingest), such as `http://127.0.0.1:8700`. */
    readonly api: string;
    /** WebSocket port of the gateway, such as `ws://127.0.0.1:8701`. */
    readonly websocket: string;
    /** Stream port of the gateway, such as `http://127.0.0.1:8702`. */
    readonly streams: string;
}
/** A device token, or a function that returns one. */
export type TokenSource = string | (() => string | Promise<string>);
export interface ConnectOptions {
    /** The URL of a reverse proxy in front of all ports, such as `https://push.example.com`; otherwise the three URLs. */
    readonly url: string | Endpoints;
    /**
     * A device token, or a function that fetches one. The client calls the function before a connection if it has no valid
     * token, and when the server asks for a refresh. It stops after five tokens in a row that have expired or are not JWTs
     * (`code` 4004).
     */
    readonly token: TokenSource;
    /** Receive only categories under these prefixes. */
    readonly categories?: readonly string[];
    /** Receive only external messages of these systems; `[]`: no external messages. */
    readonly systems?: readonly string[];
    /** Language of titles and texts, such as `it-IT`. */
    readonly render?: string;
    /** Transports that the client may use. Default: all that the environment supports. */
    readonly transports?: readonly TransportName[];
    /** False: this page holds its own connection and shares nothing with other tabs. */
    readonly tabs?: boolean;
    /** False: nothing is stored. A string: a name for the stored copy, if one origin has several users or devices. */
    readonly store?: boolean | string;
    /** Items for the first paint: the response of `GET /v1/users/{uid}/state`. */
    readonly initial?: {
        readonly items: Readonly<Record<string, Item>>;
        readonly badge?: number;
    };
    /**
     * Called for each error in the background, where the client throws nothing: a refused message, a listener that throws,
     * the end of the client (`status` is `stopped`). If the token function fails at each retry in the same way, it is
     * called once.
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
    /** Returns the shown items of a category or prefix, or those for which `filter` is true. The same array until it changes. */
    select(filter?: string | ((item: ShownItem) => boolean)): readonly ShownItem[];
    readonly badge: number;
    readonly connection: Connection;
    /** Resolves when the copy is in sync for the first time. Rejects if the client stops before that. */
    readonly ready: Promise<void>;
    /**
     * Puts a message into the outbox. The state shows its effect at once. Resolves with the receipt of the server; rejects
     * if the server refuses the message, the outbox is full, or the client is closed.
     */
    dispatch(message: Message): Promise<Receipt>;
    /** Creates an item. Also rejects if no item was created, such as for an id that was dismissed before. */
    create(category: string, body?: unknown, options?: CreateOptions): Promise<Receipt & {
        readonly itemId: string;
    }>;
    /** Dismisses items by id, or many at once. It does not dismiss items that this page has not shown. */
    dismiss(what: string | readonly string[] | DismissOptions): Promise<Receipt>;
    /** Reports that the user has seen everything up to now (or up to `seq`). Gregor then sends no push for it. */
    ack(seq?: number): void;
    /** Reports whether the user looks at this page. Until the first call, the client reports the visibility of the page. */
    setForeground(foreground: boolean): void;
    /** Calls `handler` for each change of an item in a category or under a prefix (`""`: every item). Returns a function that ends it. */
    on(category: string, handler: (event: ItemEvent) => void): () => void;
    /** Calls `handler` for each message of an external system, and for each gap. Returns a function that ends it. */
    onExternal(system: string, handler: (event: ExternalEvent) => void): () => void;
    /** Closes the connection. The client cannot be used again. */
    close(): void;
}
/** The client of `gregor-client`: also storage, tabs, snooze and the HTTP API. */
export interface Client extends CoreClient {
    /** Dismisses an item now and creates a copy of it at `until`. Rejects if the item is unknown or expires before that. */
    snooze(id: string, until: Time): Promise<Receipt>;
    /**
     * Calls the HTTP API with the device token. A `~` at the beginning of `path` stands for `users/` and the user's id:
     * `"~/history?limit=50"`, `"~/preferences"`, `"~/devices/phone"`.
     */
    api(path: string, init?: RequestInit): Promise<Response>;
    /** Closes the client, and deletes the stored copy and outbox. Call it when the user signs out. */
    forget(): Promise<void>;
}
