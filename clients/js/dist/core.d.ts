/** The core alone: WebSocket, nothing stored, no sharing between tabs. */
import type { Client, ConnectOptions } from "./types.js";
export { GregorError } from "./client.js";
export { digestOf } from "./digest.js";
export { Synchronizer } from "./synchronizer.js";
export type * from "./types.js";
/** Connects one user's device by WebSocket. The client reconnects by itself until `close`. */
export declare const connect: (options: ConnectOptions) => Client;
