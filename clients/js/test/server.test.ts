/** The client against a real `gregor dev`: every transport, and the outbox. */

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import WebSocket from "ws";
// The built file, with its short names of members.
import { connect } from "../dist/index.js";
import type { Client, ConnectOptions, TransportName } from "../src/types";
import { type Gregor, startGregor, waitUntil } from "./support/gregor";

let gregor: Gregor;
let users = 0;
const open: Client[] = [];
before(async () => {
  gregor = await startGregor();
});
after(async () => {
  for (const client of open) client.close();
  await gregor.stop();
});

function client(uid: string, device: string, options: Partial<ConnectOptions> = {}): Client {
  const made = connect({
    url: gregor.endpoints, token: gregor.token(uid, device), WebSocket, onError: (error) => console.error(device, error.message),
    ...options,
  });
  open.push(made);
  return made;
}
const someone = () => `alice-${users++}`;
const ids = (shown: Client) => shown.select().map(({ id }) => id).sort();

for (const transport of ["websocket", "sse", "poll"] as TransportName[]) {
  describe(transport, () => {
    test("an item appears, and a dismissal reaches the other device", async () => {
      const uid = someone();
      // These end a line for regular expressions, but not in a stream.
      const body = { name: "Bob\u2028data: {}\u2029\u0085" };
      await gregor.send(uid, { system: "gregor", body: { create: { first: { category: "mail", body } } } });
      const one = client(uid, "one", { transports: [transport] });
      const two = client(uid, "two");
      await Promise.all([one.ready, two.ready]);
      assert.equal(one.connection.transport, transport);
      assert.deepEqual(ids(one), ["first"]);
      assert.deepEqual(one.select()[0]!.body, body);

      await gregor.send(uid, { system: "gregor", body: { create: { second: { category: "mail" } } } });
      await waitUntil(() => one.badge === 2 && two.badge === 2, "both devices show two items");

      const receipt = one.dismiss("first");
      assert.deepEqual(ids(one), ["second"]);
      assert.deepEqual((await receipt).dismissed, ["first"]);
      await waitUntil(() => two.badge === 1, "the other device shows one item");
      assert.equal(one.getState().outbox, 0);
      assert.equal(one.getState().mismatches, 0);
    });
  });
}

test("a created item is pending until the receipt", async () => {
  const one = client(someone(), "one");
  await one.ready;

  const made = one.create("note", { text: "hello" }, { expires: "+1d" });
  assert.deepEqual(one.select("note").map(({ pending }) => pending), [true]);
  const { itemId } = await made;
  await waitUntil(() => !one.select("note")[0]!.pending, "the item is confirmed");
  assert.equal(one.select("note")[0]!.id, itemId);
});

test("the api is called with the user of the token", async () => {
  const one = client(someone(), "one");
  const response = await one.api("~/history?limit=5");
  assert.equal(response.status, 200);
  assert.deepEqual(await response.json(), { entries: [] });
});

test("a final close stops the client", async () => {
  const one = client(someone(), "one", { token: `${gregor.token("x", "y")}x` });
  await assert.rejects(one.ready, /4501/);
  assert.equal(one.connection.status, "stopped");
  await assert.rejects(one.dismiss("a"), /stopped/);
});
