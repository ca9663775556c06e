/** The core alone: WebSocket, nothing stored, no sharing between tabs. */

import { GregorClient } from "./client";
import { websocket } from "./transports";
import type { ConnectOptions, CoreClient } from "./types";

export { GregorError } from "./client";
export type * from "./types";

/** Connects one user's device by WebSocket. The client reconnects by itself until `close`. */
export const connect = (options: ConnectOptions): CoreClient => new GregorClient(options, [websocket]);
