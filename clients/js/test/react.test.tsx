/** The hooks of React: no render without a change, one connection, server rendering. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { createElement, StrictMode } from "react";
import { renderToString } from "react-dom/server";
import { connect } from "../src/core";
import { GregorProvider, useBadge, useConnection, useGregor, useItems } from "../src/react";
import { sign } from "./support/gregor";

class NeverSocket {
  readyState = 0;
  close(): void {}
}

function View() {
  const items = useItems("mail");
  const titles = useGregor((state) => state.items.map(({ id }) => id), (a, b) => a.join() === b.join());
  return createElement("p", null, `${useBadge()} ${useConnection().status} ${items.map(({ id }) => id)} ${titles}`);
}

test("a server renders the initial items, and nothing without a client", () => {
  const item = { times: { created: 1 }, for_device: null, category: "mail", body: null };
  const token = sign({ sub: "alice", device: "web", exp: 2e9 });
  const client = connect({ url: "http://gregor", token, WebSocket: NeverSocket, initial: { items: { a: item, b: { ...item, category: "user" } } } });
  const render = (value: typeof client | null) =>
    renderToString(createElement(StrictMode, null, createElement(GregorProvider, { client: value }, createElement(View))));
  try {
    assert.match(render(client), /2 connecting a a,b/);
    assert.match(render(null), /0 starting/);
  } finally {
    client.close();
  }
});
