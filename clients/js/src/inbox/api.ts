/** Calls of the HTTP API that answer with a JSON document. */

import type { Client } from "../types";

/** Reads a document, or writes `body` to it. Returns the document of the response. Rejects if the server refuses. */
export async function call<T extends object>(client: Client, path: string, method = "GET", body?: object): Promise<T> {
  const headers = { "Content-Type": "application/json" };
  const response = await client.api(path, body && { method, headers, body: JSON.stringify(body) });
  if (!response.ok) throw new Error(`${path} answered ${response.status}`);
  const text = await response.text();
  return (text ? JSON.parse(text) : {}) as T;
}
