/** The full client: all transports, copy and outbox in IndexedDB, one connection for all tabs. */
import type { Client, ConnectOptions } from "./types.js";
export { GregorError } from "./client.js";
export type * from "./types.js";
/** Connects one user's device. The client reconnects until `close`, or until it stops (`connection.status`). */
export declare const connect: (options: ConnectOptions) => Client;
