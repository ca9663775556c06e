/** Calls of the HTTP API that answer with a JSON document. */
import type { Client } from "../types.js";
/** Reads a document, or writes `body` to it. Returns the document of the response. Rejects if the server refuses. */
export declare function call<T extends object>(client: Client, path: string, method?: string, body?: object): Promise<T>;
