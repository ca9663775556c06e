/** The whole client: every transport, copy and outbox in IndexedDB, one connection for all tabs. */
import type { Client, ConnectOptions } from "./types.js";
export { GregorError } from "./client.js";
export type * from "./types.js";
/** Connects one user's device. The client reconnects by itself until `close`. */
export declare const connect: (options: ConnectOptions) => Client;
