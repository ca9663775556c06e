/** The three transports: WebSocket, SSE and long poll (docs/reference/websocket.md). All carry the same frames. */
import { type Env } from "./env.js";
import type { Frame } from "./mirror.js";
import type { Endpoints, TransportName } from "./types.js";
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
export declare const ABNORMAL = 1006;
/** Our own code, never on the wire: headers arrived, but no byte of the stream. A proxy buffers it. */
export declare const BUFFERED = 3001;
/** Our own code, never on the wire: the gateway answered, but refused the request. */
export declare const REFUSED = 3002;
export declare const websocket: Transport;
export declare const sse: Transport;
export declare const poll: Transport;
