/** The core alone: WebSocket, nothing stored, no sharing between tabs. */

import { GregorClient } from "./client";
import { websocket } from "./transports";
import type { Client, ConnectOptions } from "./types";

export { GregorError } from "./client";
export { digestOf } from "./digest";
export { Synchronizer } from "./synchronizer";
export type * from "./types";

/** Connects one user's device by WebSocket. The client reconnects by itself until `close`. */
export const connect = (options: ConnectOptions): Client => new GregorClient(options, [websocket]);
