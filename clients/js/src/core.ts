/** The small client: WebSocket only, outbox in memory, no sharing between tabs. */

import { GregorClient } from "./client";
import { websocket } from "./transports";
import type { ConnectOptions, CoreClient } from "./types";

export { GregorError } from "./client";
export type * from "./types";

/** Connects one user's device by WebSocket. The client reconnects until `close`, or until it stops (`connection.status`). */
export const connect = (options: ConnectOptions): CoreClient => new GregorClient(options, [websocket]);
