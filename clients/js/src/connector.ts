/**
 * Keeps one connection open: fetches tokens, reconnects with backoff, detects dead connections.
 *
 * The connector only carries frames; the synchronizer makes and reads them. `fallback.ts` changes the transport.
 */

import type { ServerClock } from "./clock";
import { type Env, within } from "./env";
import type { Frame } from "./mirror";
import { MAX_WAIT_MS } from "./outbox";
import type { Synchronizer } from "./synchronizer";
import { ABNORMAL, BUFFERED, type Link, type Transport } from "./transports";
import type { Endpoints, TokenSource } from "./types";

const FIRST_DELAY_MS = 500;
const MAX_DELAY_MS = 20_000;
/** After a connection of this length, the backoff starts from the beginning. */
const GOOD_MS = 10_000;
/** Timeout of the first frame. */
const OPEN_MS = 5_000;
/** Timeout of the first sync object after that: a large copy may take long on a slow link. */
const SYNC_MS = 60_000;
/** Timeout of the token function. */
const TOKEN_MS = 30_000;
/** Silence after which a ping is sent: the gateway sends something every 25 s ± 10 %; a poll takes 25 s. */
const SILENCE_MS = 35_000;
/** A connection is dead if a ping has no answer for this long. Time in which the page was suspended does not count. */
const DEAD_MS = 10_000;
/** Interval of the checks for an answer. A later check counts as 1.5 intervals: its timer was throttled, or the machine slept. */
const STEP_MS = 1_000;
const TOKEN_EXPIRED = 4004;
const UNAUTHORISED = 4501;
/** The client stops after this many refused tokens in a row. */
const MAX_REFUSED = 5;
const NOT_A_JWT = "the token is not a JWT";

export interface ConnectorOptions {
  env: Env;
  clock: ServerClock;
  endpoints: Endpoints;
  transports: readonly Transport[];
  token: TokenSource;
  /** The members of `hello` that do not change: session, filter, language. */
  hello: Frame;
}

/** Receives what happens on the connection. */
export interface ConnectorEvents {
  /** A frame that concerns the synchronizer. Returns a close if the server refused `hello`. */
  frame(frame: Frame): { code: number; reason: string } | undefined;
  /** A token arrived. Returns false if it is of another user, and must not be used. */
  identify(token: string): boolean;
  /** Status, transport or reason changed. */
  connectionChanged(): void;
  error(error: unknown): void;
}

export interface Attempt {
  link: Link | null;
  transport: Transport;
  /** Whether a frame arrived. */
  alive: boolean;
  /** Whether the attempt has ended. Its later events are ignored. */
  over: boolean;
  heardAt: number;
  /** Milliseconds since an unanswered ping, without suspended time; -1 without such a ping. */
  waited: number;
  syncedAt: number;
  /** The foreground that was last sent to the server. */
  foreground?: boolean;
}

export class Connector {
  status: "idle" | "connecting" | "connected" | "stopped" = "idle";
  why: string | null = null;
  code: number | null = null;
  foreground = false;
  protected _current: Attempt | null = null;
  /** Index of the transport of the next attempt. */
  protected _level = 0;
  private _failures = 0;
  /** The moment for which the server asked to reconnect; 0 without such a hint. */
  private _hintAt = 0;
  /** The server asked to wait until this moment: no event of the page may end the wait earlier. */
  private _earliest = 0;
  private _token: string | null = null;
  private _isFresh!: boolean;
  /** The number of tokens that were refused since the last connection. */
  private _refused = 0;
  private _retryTimer: unknown;
  private _watchTimer: unknown;

  constructor(protected _options: ConnectorOptions, protected _synchronizer: Synchronizer, protected _events: ConnectorEvents) {}

  get transport() {
    return this.status === "connected" ? this._current!.transport.name : null;
  }

  /** Connects, unless a connection exists or the client has stopped. */
  start(): void {
    if (this.status === "idle") this._connect();
  }

  /** Disconnects until `start`. */
  stop(): void {
    if (this.status !== "stopped") this._end("idle");
  }

  /** Connects at once instead of waiting for a retry; if a connection exists, sends a ping to check it. */
  wake(): void {
    if (this.status === "connecting" && !this._current) {
      if (this._options.env.monotonic() < this._earliest) return;
      this._failures = 0;
      this._connect();
    } else if (this._current?.alive && this._current.waited < 0) this._ping(this._current);
  }

  /** Sends frames if a connection is in sync; otherwise they are dropped. */
  send(frames: Frame[]): void {
    if (frames.length && this._synchronizer.synced) this._current?.link?.send(frames);
  }

  /** Reports whether a page is in the foreground, in each `hello` and at each change. */
  setForeground(foreground: boolean): void {
    this.foreground = foreground;
    const attempt = this._current;
    // Frames before the first sync are dropped; `_onSynced` repeats this call.
    if (attempt?.foreground === !foreground && this._synchronizer.synced) this.send([{ foreground: (attempt.foreground = foreground) }]);
  }

  /** Returns the present token, or a new one if it expires within a minute or `force` is true. Rejects if the function fails. */
  async freshToken(force = false): Promise<string> {
    const { env, clock, token } = this._options;
    if (this._token !== null && !force && claimsOf(this._token).exp > clock.now() + 60) return this._token;
    const text = "no token within 30 s";
    const fresh = (typeof token === "string" ? token : await within(env, token(), TOKEN_MS, text)).trim();
    // Throws for a text that is not a token, such as a login page.
    claimsOf(fresh);
    this._isFresh = true;
    return (this._token = fresh);
  }

  private async _connect(): Promise<void> {
    const { env } = this._options;
    env.stopTimer(this._retryTimer);
    this._setStatus("connecting");
    this._isFresh = false;
    const attempt = (this._current = this._attempt(this._level));
    let token: string;
    try {
      token = await this.freshToken();
      if (attempt.over || !this._events.identify(token)) return;
    } catch (error) {
      if (attempt.over) return;
      // The transport did not fail: the next attempt uses it again.
      attempt.alive = true;
      const text = `${(error as Error)?.message ?? error}`;
      // Reported once, and not after each retry.
      if (!this.why?.endsWith(text)) this._events.error(error);
      return this._onClosed(attempt, text === NOT_A_JWT ? TOKEN_EXPIRED : ABNORMAL, `no device token: ${text}`);
    }
    this._open(attempt, token, this._synchronizer.opened());
  }

  protected _attempt(level: number): Attempt {
    const { env, transports } = this._options;
    return { link: null, transport: transports[level]!, alive: false, over: false, heardAt: env.monotonic(), waited: -1, syncedAt: 0 };
  }

  /** Opens the transport of an attempt. `failed` is called when it ends, `first` before its first frame. */
  protected _open(
    attempt: Attempt,
    token: string,
    position: Frame,
    failed = (code: number, reason: string) => this._onClosed(attempt, code, reason),
    first = () => {},
  ): void {
    const { env, endpoints, hello } = this._options;
    const closed = (code: number, reason: string) => {
      env.stopTimer(timer);
      if (attempt.over) return;
      this._drop(attempt);
      failed(code, reason);
    };
    let timer = env.startTimer(() => {
      // A proxy that buffers a stream may also keep its headers.
      if (!attempt.alive) return closed(BUFFERED, "no frame arrived");
      timer = env.startTimer(() => {
        if (attempt.syncedAt) return;
        attempt.alive = false;
        closed(ABNORMAL, "no sync object");
      }, SYNC_MS);
    }, OPEN_MS);
    const request = {
      env, endpoints, token,
      hello: { ...hello, ...position, foreground: (attempt.foreground = this.foreground) },
      position: () => this._synchronizer.position(),
    };
    const events = {
      heard: () => {
        attempt.heardAt = env.monotonic();
        attempt.waited = -1;
      },
      frame: (frame: Frame) => {
        if (attempt.over) return;
        if (!attempt.alive) first();
        attempt.alive = true;
        this._onFrame(attempt, frame, closed);
      },
      closed,
    };
    try {
      attempt.link = attempt.transport.open(request, events);
    } catch (error) {
      // The policy of the page or the WebSocket class refuses the URL.
      closed(ABNORMAL, (error as Error).message);
    }
  }

  /** Closes an attempt, whose later events are then ignored. */
  protected _drop(attempt: Attempt | null | undefined): void {
    if (!attempt) return;
    attempt.over = true;
    attempt.link?.close();
  }

  /** Hook of `fallback.ts`, for a transport that received no frame. Returns the delay of the next attempt in milliseconds. */
  protected _transportFailed(_code: number, delay: number): number {
    return delay;
  }

  /** Hook of `fallback.ts`, for a connection that is in sync. */
  protected _planUpgrade(): void {}

  private _onFrame(attempt: Attempt, frame: Frame, closed: (code: number, reason: string) => void): void {
    if (frame.ping !== undefined) attempt.link?.send([{ pong: frame.ping }]);
    else if (frame.reconnect) this._reconnectIn(attempt, frame.reconnect.after_ms);
    else if (frame.refresh) this._refresh(attempt);
    else {
      if (frame.welcome?.now) this._options.clock.learn(frame.welcome.now);
      const wasSynced = this._synchronizer.synced;
      const end = this._events.frame(frame);
      if (end) closed(end.code, end.reason);
      else if (!wasSynced && this._synchronizer.synced) this._onSynced(attempt);
    }
  }

  private _onSynced(attempt: Attempt): void {
    attempt.syncedAt = this._options.env.monotonic();
    this.why = this.code = null;
    this._hintAt = this._refused = 0;
    this._setStatus("connected");
    this._watch();
    this.setForeground(this.foreground);
    this._planUpgrade();
  }

  protected _onClosed(attempt: Attempt, code: number, reason: string): void {
    const { env, token } = this._options;
    const now = env.monotonic();
    this._disconnect();
    this.why = `${code} ${reason}`.trim();
    this.code = code;
    let isFinal = code >= 4500 && code < 4600;
    if (code === TOKEN_EXPIRED || code === UNAUTHORISED) {
      this._token = null;
      // A token from an earlier connection may be refused although a fresh one would be accepted.
      isFinal = typeof token === "string" || ++this._refused >= MAX_REFUSED || (isFinal && this._isFresh);
    }
    if (isFinal) return this._end("stopped");
    const isGood = attempt.syncedAt && now - attempt.syncedAt > GOOD_MS;
    if (isGood) this._failures = 0;
    let delay = env.random() * Math.min(MAX_DELAY_MS, FIRST_DELAY_MS * 2 ** this._failures++);
    let least = +(/retry_after_ms=(\d{1,9})\b/.exec(reason)?.[1] ?? 0);
    if (this._hintAt) {
      least = Math.max(0, this._hintAt - now);
      // Otherwise the backoff counts, too: a server may ask for reconnects without end.
      if (isGood) delay = 0;
    }
    this._hintAt = 0;
    least = Math.min(least, MAX_WAIT_MS);
    this._earliest = now + least;
    delay = Math.max(delay, least);
    if (!attempt.alive) delay = this._transportFailed(code, delay);
    this._setStatus("connecting");
    this._retryTimer = env.startTimer(() => this._connect(), delay);
  }

  /** Closes the present connection or attempt. */
  protected _disconnect(): void {
    this._drop(this._current);
    this._current = null;
    this._synchronizer.closed();
  }

  private _end(status: "idle" | "stopped"): void {
    const { env } = this._options;
    this._disconnect();
    env.stopTimer(this._retryTimer);
    env.stopTimer(this._watchTimer);
    this._setStatus(status);
  }

  private _reconnectIn(attempt: Attempt, afterMs: number): void {
    const { env } = this._options;
    this._hintAt = env.monotonic() + afterMs;
    env.startTimer(() => {
      if (!attempt.over) this._onClosed(attempt, 1000, "the server asked to reconnect");
    }, afterMs);
  }

  private async _refresh(attempt: Attempt): Promise<void> {
    if (typeof this._options.token === "string") return;
    try {
      const token = await this.freshToken(true);
      if (!attempt.over && this._events.identify(token)) this.send([{ token }]);
    } catch (error) {
      // The next connection asks again.
      this._events.error(error);
    }
  }

  // Detection of a dead connection.

  private _watch(): void {
    const { env } = this._options;
    env.stopTimer(this._watchTimer);
    const attempt = this._current;
    if (!attempt?.alive) return;
    const before = env.monotonic();
    const pause = attempt.waited < 0 ? Math.max(STEP_MS, SILENCE_MS - (before - attempt.heardAt)) : STEP_MS;
    this._watchTimer = env.startTimer(() => {
      if (attempt !== this._current) return;
      if (attempt.waited >= 0) {
        attempt.waited += Math.min(env.monotonic() - before, 1.5 * STEP_MS);
        if (attempt.waited >= DEAD_MS) return this._onClosed(attempt, ABNORMAL, "no answer to a ping");
      } else if (env.monotonic() - attempt.heardAt >= SILENCE_MS) return this._ping(attempt);
      this._watch();
    }, pause);
  }

  private _ping(attempt: Attempt): void {
    attempt.waited = 0;
    attempt.link?.ping();
    this._watch();
  }

  private _setStatus(status: Connector["status"]): void {
    this.status = status;
    this._events.connectionChanged();
  }
}

/** Returns the claims of a token without checking it: only the server can. */
export function claimsOf(token: string): { sub: string; device: string; exp: number } {
  try {
    const part = token.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/");
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part), (unit) => unit.charCodeAt(0))));
  } catch {
    throw new Error(NOT_A_JWT);
  }
}
