/** Clients that are made from the attributes of elements. Elements with equal attributes share one. */

import type { Client, TokenSource } from "../types";
import { getModules } from "./modules";

const shared = new Map<string, { client: Client; users: number }>();

/** A shared client. The element calls `release` when it no longer needs the client. */
export interface Borrowed {
  client: Client;
  release(): void;
}

/** The attributes that choose the client. */
export const SOURCE_ATTRIBUTES = ["url", "websocket-url", "stream-url", "token", "token-url", "categories", "store"];

/** Returns the client for the attributes of an element, or null if `url` and a token are missing. */
export function borrow(element: Element, render: string): Borrowed | null {
  const given = (name: string): string => element.getAttribute(name) ?? "";
  const api = given("url");
  const tokenUrl = given("token-url");
  if (!api || !(tokenUrl || given("token"))) return null;
  const key = JSON.stringify([render, ...SOURCE_ATTRIBUTES.map(given)]);
  let entry = shared.get(key);
  if (entry === undefined) {
    const websocket = given("websocket-url");
    const client = getModules().connect({
      url: websocket ? { api, websocket, streams: given("stream-url") || api } : api,
      token: tokenUrl ? fetchToken(tokenUrl) : given("token"),
      render,
      ...(given("categories") && { categories: given("categories").split(/[\s,]+/) }),
      ...(given("store") && { store: given("store") }),
    });
    shared.set(key, (entry = { client, users: 0 }));
  }
  const borrowed = entry;
  borrowed.users += 1;
  return { client: borrowed.client, release: () => release(key, borrowed) };
}

function release(key: string, entry: { client: Client; users: number }): void {
  entry.users -= 1;
  // Closed later: a framework moves an element by removing and adding it, which must not lose the connection.
  setTimeout(() => {
    if (entry.users > 0 || shared.get(key) !== entry) return;
    shared.delete(key);
    entry.client.close();
  }, 1_000);
}

/** Reads a token from a URL of your login service: plain text, or JSON with the member `token`. */
function fetchToken(url: string): TokenSource {
  return async () => {
    const response = await fetch(url, { credentials: "same-origin", cache: "no-store" });
    if (!response.ok) throw new Error(`${url} answered ${response.status} instead of a device token`);
    const body = (await response.text()).trim();
    return body.startsWith("{") ? (JSON.parse(body) as { token: string }).token : body;
  };
}
