/** Three ways to the gateway (docs/reference/websocket.md). Each carries the same frames. */
import { type Env } from "./env.js";
import type { Frame } from "./mirror.js";
import type { Endpoints, TransportName } from "./types.js";
/** An open or opening connection. */
export interface Link {
    send(frames: Frame[]): void;
    /** Asks for a sign of life. */
    ping(): void;
    close(): void;
}
/** Receives what happens on a link. It ignores events after the first `closed`, and after it has closed the link. */
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
    /** The present position, for the next poll. */
    position(): Frame;
}
export interface Transport {
    name: TransportName;
    open(request: LinkRequest, events: LinkEvents): Link;
}
/** Never sent: no close frame arrived. */
export declare const ABNORMAL = 1006;
/** Ours, never on the wire: headers arrived, but no byte of the stream. A proxy buffers it. */
export declare const BUFFERED = 3001;
/** Ours, never on the wire: the gateway answered, but refused the request. */
export declare const REFUSED = 3002;
export declare const websocket: Transport;
export declare const sse: Transport;
export declare const poll: Transport;
