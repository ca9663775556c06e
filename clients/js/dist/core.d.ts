/** The core alone: WebSocket, nothing stored, no sharing between tabs. */
import type { ConnectOptions, CoreClient } from "./types.js";
export { GregorError } from "./client.js";
export type * from "./types.js";
/** Connects one user's device by WebSocket. The client reconnects by itself until `close`. */
export declare const connect: (options: ConnectOptions) => CoreClient;
