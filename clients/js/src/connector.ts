/**
 * Keeps one connection: token, transport by evidence, back-off, detection of a dead connection.
 *
 * The synchronizer decides what is sent; the connector only carries frames.
 */

import type { ServerClock } from "./clock";
import type { Env } from "./env";
import type { Frame } from "./mirror";
import type { Synchronizer } from "./synchronizer";
import { ABNORMAL, BUFFERED, type Link, REFUSED, type Transport } from "./transports";
import type { Endpoints, TokenSource } from "./types";

const FIRST_DELAY_MS = 500;
const MAX_DELAY_MS = 20_000;
/** A connection that lived this long was good: the delays start again. */
const GOOD_MS = 10_000;
/** Time for the first frame. */
const OPEN_MS = 5_000;
/** Silence after which a ping is sent: the gateway sends something every 25 s ± 10 %; a poll takes 25 s. */
const SILENCE_MS = 35_000;
/** Running time that a ping may stay unanswered. */
const DEAD_MS = 10_000;
/** A timer that is this late was throttled, or the machine slept: that time does not count as running. */
const STEP_MS = 1_000;
/** Delays before a better transport is tried again; the last one repeats. Below 5 minutes in any case. */
const UPGRADE_MS = [10_000, 60_000, 240_000];
const TOKEN_EXPIRED = 4004;
const UNAUTHORISED = 4501;

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
  error(error: Error): void;
}

interface Attempt {
  link: Link | null;
  transport: Transport;
  /** Whether a frame arrived. */
  alive: boolean;
  heardAt: number;
  /** Milliseconds of running time since an unanswered ping; -1 without one. */
  waited: number;
  syncedAt: number;
}

export class Connector {
  status: "idle" | "connecting" | "connected" | "stopped" = "idle";
  why: string | null = null;
  code: number | null = null;
  foreground = false;
  private current: Attempt | null = null;
  private upgrade: Attempt | null = null;
  private level = 0;
  private failures = 0;
  private upgrades = 0;
  private generation = 0;
  private hintAt = 0;
  private token: string | null = null;
  private isFresh = false;
  private retryTimer: unknown;
  private watchTimer: unknown;
  private upgradeTimer: unknown;

  constructor(private options: ConnectorOptions, private synchronizer: Synchronizer, private events: ConnectorEvents) {}

  get transport() {
    return this.status === "connected" ? this.current!.transport.name : null;
  }

  /** Connects, unless a connection exists or was closed for good. */
  start(): void {
    if (this.status === "idle") this.connect();
  }

  /** Disconnects until `start`. */
  stop(): void {
    if (this.status !== "stopped") this.end("idle");
  }

  /** Tries again at once if a retry waits; otherwise finds out whether the connection is alive. */
  wake(): void {
    if (this.status === "connecting" && !this.current) {
      this.failures = 0;
      this.connect();
    } else if (this.current?.alive && this.current.waited < 0 && this.transport !== "poll") this.ping(this.current);
  }

  /** Sends frames if a connection is in sync; otherwise they are dropped. */
  send(frames: Frame[]): void {
    if (frames.length && this.synchronizer.synced) this.current?.link?.send(frames);
  }

  /** Reports whether the user looks at a page, now and in each `hello`. */
  setForeground(foreground: boolean): void {
    if (this.foreground === foreground) return;
    this.foreground = foreground;
    this.send([{ foreground }]);
  }

  /** Returns a token that has not expired. */
  async freshToken(force = false): Promise<string> {
    if (this.token !== null && !force && claimsOf(this.token).exp > this.options.clock.now() + 60) return this.token;
    const { token } = this.options;
    this.token = (typeof token === "string" ? token : await token()).trim();
    this.isFresh = true;
    return this.token;
  }

  /** Forgets the token: the server refused it. */
  dropToken(): void {
    this.token = null;
  }

  private async connect(): Promise<void> {
    const { env } = this.options;
    env.clearTimeout(this.retryTimer);
    this.setStatus("connecting");
    const generation = ++this.generation;
    this.isFresh = false;
    const transport = this.options.transports[this.level]!;
    const attempt: Attempt = { link: null, transport, alive: false, heardAt: env.monotonic(), waited: -1, syncedAt: 0 };
    this.current = attempt;
    let token: string;
    try {
      token = await this.freshToken();
      if (generation !== this.generation) return;
      if (!this.events.identify(token)) return;
    } catch (error) {
      if (generation !== this.generation) return;
      this.events.error(error as Error);
      return this.onClosed(attempt, ABNORMAL, `no device token: ${(error as Error).message}`);
    }
    this.open(attempt, token, this.synchronizer.opened());
  }

  private open(attempt: Attempt, token: string, position: Frame): void {
    const { env, endpoints, hello } = this.options;
    const timer = env.setTimeout(() => {
      if (!attempt.alive) closed(ABNORMAL, "no frame arrived");
    }, OPEN_MS);
    let isClosed = false;
    const closed = (code: number, reason: string) => {
      env.clearTimeout(timer);
      if (isClosed || !(attempt === this.current || attempt === this.upgrade)) return;
      isClosed = true;
      attempt.link?.close();
      if (attempt === this.upgrade) this.upgradeFailed();
      else this.onClosed(attempt, code, reason);
    };
    const request = {
      env, endpoints, token,
      hello: { ...hello, ...position, foreground: this.foreground },
      position: () => this.synchronizer.position(),
    };
    try {
      attempt.link = attempt.transport.open(request, {
        heard: () => {
          attempt.heardAt = env.monotonic();
          attempt.waited = -1;
        },
        frame: (frame) => {
          if (isClosed || !(attempt === this.current || attempt === this.upgrade)) return;
          attempt.alive = true;
          if (attempt === this.upgrade) this.upgraded(attempt);
          this.onFrame(attempt, frame, closed);
        },
        closed,
      });
    } catch (error) {
      // A page with a strict policy, or a WebSocket class that refuses the URL.
      closed(ABNORMAL, (error as Error).message);
    }
  }

  private onFrame(attempt: Attempt, frame: Frame, closed: (code: number, reason: string) => void): void {
    if (frame.ping !== undefined) attempt.link?.send([{ pong: frame.ping }]);
    else if (frame.reconnect) this.reconnectIn(frame.reconnect.after_ms);
    else if (frame.refresh) this.refresh();
    else {
      if (frame.welcome?.now) this.options.clock.learn(frame.welcome.now);
      const wasSynced = this.synchronizer.synced;
      const end = this.events.frame(frame);
      if (end) closed(end.code, end.reason);
      else if (!wasSynced && this.synchronizer.synced) this.onSynced(attempt);
    }
  }

  private onSynced(attempt: Attempt): void {
    attempt.syncedAt = this.options.env.monotonic();
    this.why = this.code = null;
    this.hintAt = 0;
    this.setStatus("connected");
    this.watch();
    if (this.level > 0) this.planUpgrade();
  }

  private onClosed(attempt: Attempt, code: number, reason: string): void {
    const { env, transports, token } = this.options;
    const wasSynced = attempt.syncedAt && env.monotonic() - attempt.syncedAt > GOOD_MS;
    this.generation++;
    this.dropUpgrade();
    attempt.link?.close();
    this.current = null;
    this.synchronizer.closed();
    this.why = `${code} ${reason}`.trim();
    this.code = code;
    const hasSource = typeof token !== "string";
    if (code === TOKEN_EXPIRED || code === UNAUTHORISED) this.dropToken();
    // A stored token may be refused where a fresh one is not.
    const isFinal = code === TOKEN_EXPIRED ? !hasSource : code >= 4500 && code < 4600 && !(code === UNAUTHORISED && hasSource && !this.isFresh);
    if (isFinal) return this.end("stopped");
    if (wasSynced) this.failures = 0;
    let delay = env.random() * Math.min(MAX_DELAY_MS, FIRST_DELAY_MS * 2 ** Math.min(this.failures++, 10));
    const wanted = /\bretry_after_ms=(\d{1,9})\b/.exec(reason);
    if (wanted) delay = Math.max(delay, +wanted[1]!);
    if (this.hintAt) delay = Math.max(0, this.hintAt - env.monotonic());
    this.hintAt = 0;
    if (!attempt.alive) {
      // Evidence: the next transport follows if the gateway answered. If nothing reached it, the best one is next but one.
      const isReached = code === BUFFERED || code === REFUSED || this.level === 0;
      this.level = isReached ? (this.level + 1) % transports.length : 0;
      if (code === BUFFERED) delay = 0;
    }
    this.setStatus("connecting");
    this.retryTimer = env.setTimeout(() => this.connect(), delay);
  }

  private end(status: "idle" | "stopped"): void {
    const { env } = this.options;
    this.generation++;
    this.dropUpgrade();
    env.clearTimeout(this.retryTimer);
    env.clearTimeout(this.watchTimer);
    this.current?.link?.close();
    this.current = null;
    this.synchronizer.closed();
    this.setStatus(status);
  }

  private reconnectIn(afterMs: number): void {
    const { env } = this.options;
    this.hintAt = env.monotonic() + afterMs;
    const generation = this.generation;
    env.setTimeout(() => {
      if (generation !== this.generation || !this.current) return;
      this.hintAt = env.monotonic();
      this.onClosed(this.current, 1000, "the server asked to reconnect");
    }, afterMs);
  }

  private async refresh(): Promise<void> {
    if (typeof this.options.token === "string") return;
    const generation = this.generation;
    try {
      const token = await this.freshToken(true);
      if (generation === this.generation) this.send([{ token }]);
    } catch (error) {
      // The next connection asks again.
      this.events.error(error as Error);
    }
  }

  // Detection of a dead connection: a ping was sent, and 10 s of running time passed without a byte.

  private watch(): void {
    const { env } = this.options;
    env.clearTimeout(this.watchTimer);
    const attempt = this.current;
    if (!attempt?.alive) return;
    const before = env.monotonic();
    const pause = attempt.waited < 0 ? Math.max(STEP_MS, SILENCE_MS - (before - attempt.heardAt)) : STEP_MS;
    this.watchTimer = env.setTimeout(() => {
      if (attempt !== this.current) return;
      if (attempt.waited >= 0) {
        attempt.waited += Math.min(env.monotonic() - before, 1.5 * STEP_MS);
        if (attempt.waited >= DEAD_MS) return this.onClosed(attempt, ABNORMAL, "no answer to a ping for 10 s");
      } else if (env.monotonic() - attempt.heardAt >= SILENCE_MS) return this.ping(attempt);
      this.watch();
    }, pause);
  }

  private ping(attempt: Attempt): void {
    attempt.waited = 0;
    // A stream has no pings; the answer to a resync comes by the stream. A poll that is this late is its own ping.
    const { name } = attempt.transport;
    if (name !== "poll") attempt.link?.send([name === "sse" ? { resync: this.synchronizer.position() } : { ping: 1 }]);
    this.watch();
  }

  // Back to a better transport: the new connection replaces the old one as soon as it has brought a frame.

  private planUpgrade(): void {
    const { env } = this.options;
    env.clearTimeout(this.upgradeTimer);
    this.upgradeTimer = env.setTimeout(() => this.tryUpgrade(), UPGRADE_MS[Math.min(this.upgrades++, UPGRADE_MS.length - 1)]!);
  }

  private async tryUpgrade(): Promise<void> {
    const { env, transports } = this.options;
    const generation = this.generation;
    const token = await this.freshToken().catch(() => null);
    if (generation !== this.generation || token === null || this.status !== "connected") return;
    const transport = transports[0]!;
    this.upgrade = { link: null, transport, alive: false, heardAt: env.monotonic(), waited: -1, syncedAt: 0 };
    this.open(this.upgrade, token, this.synchronizer.position());
  }

  private upgraded(attempt: Attempt): void {
    this.current?.link?.close();
    this.current = attempt;
    this.upgrade = null;
    this.level = this.upgrades = 0;
    this.synchronizer.opened();
  }

  private upgradeFailed(): void {
    this.upgrade = null;
    this.planUpgrade();
  }

  private dropUpgrade(): void {
    this.options.env.clearTimeout(this.upgradeTimer);
    this.upgrade?.link?.close();
    this.upgrade = null;
  }

  private setStatus(status: Connector["status"]): void {
    this.status = status;
    this.events.connectionChanged();
  }
}

/** Returns the claims of a token without checking it: only the server can. */
export function claimsOf(token: string): { sub: string; device: string; exp: number } {
  try {
    const part = token.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/");
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part), (unit) => unit.charCodeAt(0))));
  } catch {
    throw new Error("the token function returned something that is not a JWT");
  }
}
