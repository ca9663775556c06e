/** The full client: all transports, copy and outbox in IndexedDB, one connection for all tabs. */

import { FullClient } from "./full";
import { poll, sse, websocket } from "./transports";
import type { Client, ConnectOptions } from "./types";

export { GregorError } from "./client";
export type * from "./types";

/** Connects one user's device. The client reconnects until `close`, or until it stops (`connection.status`). */
export const connect = (options: ConnectOptions): Client => new FullClient(options, [websocket, sse, poll]);
