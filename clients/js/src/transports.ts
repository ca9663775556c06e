/** The three transports: WebSocket, SSE and long poll (docs/reference/websocket.md). All carry the same frames. */

import { type Env, within } from "./env";
import { randomName } from "./messages";
import type { Frame } from "./mirror";
import { MAX_LENGTH } from "./outbox";
import type { Endpoints, TransportName } from "./types";

/** An open or opening connection. */
export interface Link {
  send(frames: Frame[]): void;
  /** Makes the server send something, to check that the connection is alive. */
  ping(): void;
  close(): void;
}

/** Receives the events of a link. It ignores events after the first `closed`, and after it has closed the link. */
export interface LinkEvents {
  /** Bytes arrived, whether or not they complete a frame. */
  heard(): void;
  frame(frame: Frame): void;
  closed(code: number, reason: string): void;
}

export interface LinkRequest {
  env: Env;
  endpoints: Endpoints;
  token: string;
  /** The members of `hello`, without the token. */
  hello: Frame;
  /** Returns the present cursor and digest, for the next poll. */
  position(): Frame;
}

export interface Transport {
  name: TransportName;
  open(request: LinkRequest, events: LinkEvents): Link;
}

/** Close code of a connection that ended without a close frame (RFC 6455, section 7.4.1). */
export const ABNORMAL = 1006;
/** Our own code, never on the wire: headers arrived, but no byte of the stream. A proxy buffers it. */
export const BUFFERED = 3001;
/** Our own code, never on the wire: the gateway answered, but refused the request. */
export const REFUSED = 3002;

export const websocket: Transport = {
  name: "websocket",
  open({ env, endpoints, token, hello }, events) {
    const socket = new env.WebSocket(`${endpoints.websocket}/v1/connect`, ["gregor.v1"]);
    const send = (frame: Frame) => socket.send(JSON.stringify(frame));
    // The token is a member of hello: the headers of an upgrade are logged more often than frames.
    socket.onopen = () => {
      events.heard();
      send({ hello: { ...hello, token } });
    };
    socket.onmessage = (event: { data: string }) => {
      events.heard();
      try {
        events.frame(JSON.parse(event.data));
      } catch (error) {
        // A frame that was not applied must not be skipped: the next connection resumes before it.
        events.closed(ABNORMAL, (error as Error).message);
      }
    };
    socket.onerror = () => {};
    socket.onclose = (event: { code: number; reason: string }) => events.closed(event.code, event.reason);
    return {
      send: (frames) => {
        if (socket.readyState === 1) frames.forEach(send);
      },
      ping: () => socket.readyState === 1 && send({ ping: 1 }),
      close: () => socket.close(),
    };
  },
};

/** Timeout of the first byte after the headers of a stream: a proxy buffers a stream that is silent for longer. */
const FIRST_BYTE_MS = 2_000;

export const sse: Transport = {
  name: "sse",
  open(request, events) {
    return http(request, events, true, async (get, isOpen) => {
      const response = await get("stream", request.hello);
      if (!response) return;
      const { env } = request;
      const timer = env.startTimer(() => events.closed(BUFFERED, "a proxy buffers the stream"), FIRST_BYTE_MS);
      const reader = response.body!.getReader();
      const decoder = new TextDecoder();
      let text = "";
      for (;;) {
        const { done, value } = await reader.read();
        env.stopTimer(timer);
        if (done || !isOpen()) break;
        events.heard();
        text += decoder.decode(value, { stream: true });
        const parts = text.split("\n\n");
        text = parts.pop()!;
        for (const part of parts) {
          // A frame is one line that ends with \n. A text in it may have U+2028, at which `.` and `$` would end the line.
          const data = /^data: ([^\n]+)/m.exec(part);
          if (data) receive(JSON.parse(data[1]!), events);
        }
      }
      events.closed(ABNORMAL, "the stream ended");
    });
  },
};

export const poll: Transport = {
  name: "poll",
  open(request, events) {
    return http(request, events, false, async (get, isOpen) => {
      // The first poll returns at once, so that the page knows whether its copy is current.
      for (let wait = 0; isOpen(); wait = 25) {
        // Only the first poll has the foreground; later changes are posted.
        const once = wait ? { foreground: undefined } : {};
        const response = await get("poll", { ...request.hello, ...once, ...request.position(), wait });
        if (!response) return;
        const { frames, cursor, uncounted, now } = await response.json();
        if (!isOpen()) return;
        events.heard();
        events.frame({ welcome: { uncounted, now } });
        if (!wait && !frames.length) events.frame({ system: "gregor", sync: "unchanged", cursor });
        for (const frame of frames) receive(frame, events);
      }
    });
  },
};

function receive(frame: Frame, events: LinkEvents): void {
  if (frame.close) events.closed(frame.close.code, frame.close.reason);
  else events.frame(frame);
}

type Get = (path: string, query: Frame) => Promise<Response | null>;

/** Timeout of the response to a post: later messages wait for it. */
const POST_MS = 30_000;

/** Runs a stream or long polls, and posts the frames of the client. */
function http(
  request: LinkRequest,
  events: LinkEvents,
  isStream: boolean,
  run: (get: Get, isOpen: () => boolean) => Promise<void>,
): Link {
  const { env, endpoints, token, hello } = request;
  // A proxy may keep an earlier stream open. With the same session, the gateway would refuse this one as replaced (204).
  hello.session = randomName();
  const abort = new AbortController();
  const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
  let isOpen = true;
  const call = async (path: string, init: RequestInit): Promise<Response | null> => {
    const response = await env.fetch(`${endpoints.streams}/v1/${path}`, { ...init, headers, cache: "no-store", signal: abort.signal });
    if (response.status === 200) return response;
    const { code, reason } = await closeOf(response);
    events.closed(code, reason);
    return null;
  };
  const failed = (error: Error) => events.closed(ABNORMAL, error.message);
  const queue: string[] = [];
  let isPosting = false;
  const post = async (): Promise<void> => {
    while (queue.length && isOpen) {
      let body = queue.shift()!;
      while (queue.length && body.length + queue[0]!.length < MAX_LENGTH) body += `,${queue.shift()}`;
      const answer = call(`frames?session=${hello.session}`, { method: "POST", body: `[${body}]` }).then((response) => response?.json());
      for (const frame of (await within(env, answer, POST_MS, "no answer to a post")) ?? []) events.frame(frame);
    }
    isPosting = false;
  };
  run((path, query) => call(`${path}?${queryOf(query)}`, {}), () => isOpen).catch(failed);
  const send = (frames: Frame[]) => {
    queue.push(...frames.map((frame) => JSON.stringify(frame)));
    if (isPosting || !queue.length) return;
    isPosting = true;
    // In a microtask: all frames of one turn share a request.
    Promise.resolve().then(post).catch(failed);
  };
  return {
    send,
    // A stream has no pings; the answer to a resync arrives on it. A poll needs none: it always ends within 25 s.
    ping: () => isStream && send([{ resync: request.position() }]),
    close: () => {
      isOpen = false;
      abort.abort();
    },
  };
}

function queryOf(members: Frame): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(members)) {
    if (value === undefined) continue;
    // A query has no empty list: one empty value means the same.
    for (const one of value.length === 0 ? [""] : [value].flat()) query.append(name, one);
  }
  return query.toString();
}

/** Returns the close code and reason of a refused request (docs/reference/errors.md). */
async function closeOf(response: Response): Promise<{ code: number; reason: string }> {
  const { status } = response;
  if (status === 204) return { code: 4504, reason: "the session has ended" };
  const document = await response.json().catch(() => ({}));
  if (document.close) return document.close;
  const wait = +response.headers.get("retry-after")!;
  const reason = `${document.detail ?? `HTTP ${status}`}${wait ? ` retry_after_ms=${wait * 1000}` : ""}`;
  const codes: Record<number, number> = { 401: 4501, 403: 4503, 422: 4503 };
  // Without the code of a problem, it is the answer of a proxy or firewall, which may let a later request pass.
  return { code: (document.code && codes[status]) ?? REFUSED, reason };
}
