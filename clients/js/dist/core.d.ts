/** The small client: WebSocket only, outbox in memory, no sharing between tabs. */
import type { ConnectOptions, CoreClient } from "./types.js";
export { GregorError } from "./client.js";
export type * from "./types.js";
/** Connects one user's device by WebSocket. The client reconnects until `close`, or until it stops (`connection.status`). */
export declare const connect: (options: ConnectOptions) => CoreClient;
