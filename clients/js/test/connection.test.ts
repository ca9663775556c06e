/** Failures of the connection in virtual time: tokens, a first sync that dies, hints of the server, values that are not JSON. */

import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { defaultEnv } from "../src/env";
import { FullClient } from "../src/full";
import { Mirror } from "../src/mirror";
import { Outbox } from "../src/outbox";
import { poll, REFUSED, sse, type Transport } from "../src/transports";
import { sign, waitUntil } from "./support/gregor";
import { World } from "./support/world";

const good = sign({ sub: "alice", device: "browser", exp: 2e9 });
const browser = () => new World({ locks: true, freezeEvent: true });

test("a first sync that does not come is tried again", async () => {
  const world = browser();
  world.gateway.withholdsSync = true;
  const tab = world.open();
  await world.pass(60_000);
  world.gateway.withholdsSync = false;
  await world.pass(40_000);
  assert.equal(tab.client.connection.status, "connected");
});

for (const [name, first, error] of [
  ["never settles", () => new Promise<string>(() => {}), /no token within 30 s/],
  ["rejects without an error", () => Promise.reject(undefined), /undefined/],
  ["returns a login page", () => "<html>", /not a JWT/],
] as const) {
  test(`a token function that ${name} is called again`, async () => {
    const world = browser();
    let calls = 0;
    const tab = world.open(true, { token: () => (calls++ ? good : first()) });
    await world.pass(40_000);
    assert.equal(tab.client.connection.status, "connected");
    assert.equal(tab.client.connection.transport, "websocket");
    assert.match(tab.errors.map(({ message }) => message).join(), error);
  });
}

for (const [name, token, refusal, calls, why] of [
  ["not a JWT", () => "<html>", null, 5, /not a JWT/],
  ["expired", () => good, 4004, 5, /4004/],
  ["refused", () => good, 4501, 1, /4501/],
  ["a string that is not a JWT", "<html>", null, 1, /not a JWT/],
  ["a string that is refused", good, 4501, 1, /4501/],
] as const) {
  test(`a client stops if each token is ${name}`, async () => {
    const world = browser();
    world.gateway.refusal = refusal;
    let called = 0;
    const tab = world.open(true, { token: typeof token === "string" ? token : () => (called++, token()) });
    await world.pass(120_000);
    const { status, why: reason } = tab.client.connection;
    assert.deepEqual([status, Math.max(called, world.gateway.hellos.length)], ["stopped", refusal ? calls : called]);
    assert.match(reason!, why);
    assert.ok(called <= calls, `${called} calls`);
    await assert.rejects(tab.client.ready, /client stopped/);
    // A token that is not a JWT is reported once, not at each of the five tries. The constructor reads a string, too.
    const reports = refusal ? 0 : typeof token === "string" ? 2 : 1;
    const expected = [...Array(reports).fill("the token is not a JWT"), `client stopped: ${reason}`];
    assert.deepEqual(tab.errors.map(({ message }) => message), expected);
  });
}

test("a failing token function is reported once for each cause", async () => {
  const world = browser();
  let cause = "404";
  const tab = world.open(true, { token: () => Promise.reject(new Error(cause)) });
  await world.pass(120_000);
  cause = "500";
  await world.pass(120_000);
  assert.deepEqual(tab.errors.map(({ message }) => message), ["404", "500"]);
  assert.match(tab.client.connection.why!, /no device token: 500/);
});

test("refused tokens are counted since the last connection", async () => {
  const world = browser();
  let calls = 0;
  const tab = world.open(true, { token: () => (++calls % 4 ? "<html>" : good) });
  for (let n = 0; n < 3; n++) {
    await world.pass(60_000);
    assert.equal(tab.client.connection.status, "connected");
    world.gateway.cut(4004, "token_expired");
  }
});

test("a refreshed token of another user is not sent", async () => {
  const world = browser();
  const tokens = [good, sign({ sub: "bob", device: "browser", exp: 2e9 })];
  const tab = world.open(true, { token: () => tokens.shift() ?? good });
  await world.pass(2_000);
  for (const socket of world.gateway.sockets) socket.deliver({ refresh: true });
  await world.pass(100);
  assert.equal(tab.client.connection.status, "stopped");
  assert.deepEqual(world.gateway.tokens, []);
});

test("the digest is checked every five minutes; a wrong copy is replaced and counted", async () => {
  const world = browser();
  const tab = world.open();
  world.gateway.create("a");
  await world.pass(2_000);
  world.gateway.createUnheard("b");
  await world.pass(303_000);
  assert.deepEqual(tab.ids, ["a", "b"]);
  assert.equal(tab.client.getState().mismatches, 1);

  await world.pass(600_000);
  assert.equal(world.gateway.resyncs.length, 3);
  assert.equal(tab.client.getState().mismatches, 1);
});

test("streams that are cut early do not delay the return to the WebSocket", async () => {
  const world = browser();
  const { env } = world.open(false).client;
  let isRefused = true;
  const link = { send() {}, ping() {}, close() {} };
  const synced = { system: "gregor", sync: "full", seq: 1, cursor: "aaaaaa-1", body: {} };
  // A proxy that ends each stream after 50 s.
  const stream = (name: "websocket" | "sse", isOpen: () => boolean): Transport => ({
    name,
    open(_request, events) {
      if (isOpen()) env.startTimer(() => (events.heard(), events.frame(synced)), 10);
      env.startTimer(() => events.closed(1006, ""), isOpen() ? 50_000 : 10);
      return link;
    },
  });
  const transports = [stream("websocket", () => !isRefused), stream("sse", () => true)];
  const client = new FullClient({ url: "http://gateway", token: good, tabs: false }, transports, env);
  const transport = () => client.connection.transport;
  await world.pass(600_000);
  assert.equal(transport(), "sse");

  isRefused = false;
  let waited = 0;
  for (; transport() !== "websocket" && waited < 600; waited++) await world.pass(1_000);
  assert.ok(waited <= 300, `${waited} s`);
});

test("a connection is dead ten seconds after a ping without an answer", async () => {
  const world = browser();
  const tab = world.open();
  await world.pass(2_000);
  world.gateway.isSilent = true;
  await world.pass(43_000);
  assert.equal(tab.client.connection.status, "connected");
  await world.pass(4_000);
  assert.match(tab.client.connection.why!, /no answer to a ping/);
  world.gateway.isSilent = false;
  await world.pass(10_000);
  assert.equal(tab.client.connection.status, "connected");
});

test("a suspended page does not count its connection as dead", async () => {
  const world = new World({ locks: true, freezeEvent: false });
  const tab = world.open();
  await world.pass(30_000);
  world.gateway.isSilent = true;
  await world.pass(8_000); // a ping was sent
  tab.hide();
  tab.freeze();
  await world.pass(600_000);
  world.gateway.isSilent = false;
  tab.thaw();
  tab.show();
  await world.pass(1_000);
  world.gateway.create("a");
  await world.pass(30_000);
  assert.equal(tab.client.connection.status, "connected");
  assert.equal(world.gateway.hellos.length, 1);
});

test("a page reconnects when the server asks for it", async () => {
  const world = browser();
  world.open();
  await world.pass(2_000);
  for (const socket of world.gateway.sockets) socket.deliver({ reconnect: { after_ms: 7_000 } });
  await world.pass(6_900);
  assert.equal(world.gateway.hellos.length, 1);
  await world.pass(200);
  assert.equal(world.gateway.hellos.length, 2);
});

test("requests to reconnect without end have a backoff", async () => {
  const world = browser();
  world.open();
  await world.pass(2_000);
  for (let passed = 0; passed < 60_000; passed += 100) {
    for (const socket of world.gateway.sockets) socket.deliver({ reconnect: { after_ms: 0 } });
    await world.pass(100);
  }
  assert.ok(world.gateway.hellos.length < 30, `${world.gateway.hellos.length} connections`);
});

test("a wait that the server asks for is at most an hour", async () => {
  const world = browser();
  world.open();
  await world.pass(2_000);
  world.gateway.cut(4006, "retry_after_ms=999999999");
  await world.pass(3_590_000);
  assert.equal(world.gateway.hellos.length, 1);
  await world.pass(20_000);
  assert.equal(world.gateway.hellos.length, 2);

  const outbox = new Outbox();
  outbox.put({ system: "gregor", body: {} }, new Map(), 0);
  const [{ ref }] = outbox.sendable(0) as [{ ref: string }];
  outbox.answered({ ref, problem: { code: "unavailable", retry_after_ms: 86_400_000 } }, 0, 0);
  assert.equal(outbox.holdUntil, 3_600_000);
});

/** A client whose first message is answered by a wait. Its timers fire 0.5 ms early, and each callback takes 1 ms. */
function rateLimited(retryAfterMs: number, keepsConnection: boolean) {
  const world = browser();
  const { env } = world.open(false).client;
  const result = { world, sent: [] as number[], resynced: [] as number[], timers: 0, deliver: (_frame: object) => {} };
  const startTimer = (callback: () => void, ms: number) => {
    result.timers++;
    return env.startTimer(() => (callback(), (world.now += 1)), ms - 0.5);
  };
  const problem = { code: "rate_limited", status: 429, retry_after_ms: retryAfterMs };
  const transport: Transport = {
    name: "sse",
    open(_request, events) {
      const isRefused = result.sent.length > 0;
      const synced = { system: "gregor", sync: "full", seq: 1, cursor: "aaaaaa-1", body: {} };
      result.deliver = (frame) => events.frame(frame);
      startTimer(() => (isRefused ? events.closed(1006, "") : events.frame(synced)), 10);
      const answer = (ref: string) => {
        events.frame({ ref, problem });
        if (!keepsConnection) events.closed(1006, "");
      };
      return {
        send(frames) {
          if (frames.some((frame) => frame.resync)) result.resynced.push(world.now);
          for (const { ref } of frames.filter((frame) => frame.ref)) {
            if (result.sent.push(world.now) === 1) startTimer(() => answer(ref), 10);
          }
        },
        ping: () => startTimer(() => events.heard(), 10),
        close() {},
      };
    },
  };
  const client = new FullClient({ url: "http://gateway", token: good, tabs: false }, [transport], { ...env, startTimer });
  client.dispatch({ system: "kbfs", body: {} });
  return result;
}

for (const retryAfterMs of [1, 400, 7_000]) {
  test(`a message is sent again after a wait of ${retryAfterMs} ms, even if the timer fires early`, async () => {
    const result = rateLimited(retryAfterMs, true);
    await result.world.pass(60_000);
    const [first, second, ...others] = result.sent;
    assert.deepEqual(others, []);
    const waited = second! - first!;
    assert.ok(waited >= retryAfterMs && waited <= retryAfterMs + 20, `${waited} ms`);
    assert.ok(result.timers < 100, `${result.timers} timers`);
  });
}

for (const stepS of [-3_600, 3_600]) {
  test(`a step of the server's clock by ${stepS} s changes neither a wait nor the check of the digest`, async () => {
    const result = rateLimited(7_000, true);
    await result.world.pass(1_000);
    result.deliver({ welcome: { now: 1.7e12 + result.world.now + stepS * 1_000 } });
    await result.world.pass(4_000);
    assert.equal(result.sent.length, 1);
    await result.world.pass(4_000);
    assert.equal(result.sent.length, 2);
    assert.deepEqual(result.resynced, []);
    await result.world.pass(300_000);
    assert.equal(result.resynced.length, 1);
  });
}

test("a wait that ends without a connection starts no timers", async () => {
  const result = rateLimited(400, false);
  await result.world.pass(60_000);
  assert.equal(result.sent.length, 1);
  assert.ok(result.timers < 200, `${result.timers} timers`);
});

test("an item expires by the clock of the server", async () => {
  for (const aheadMs of [-7_200_000, 7_200_000]) {
    const world = new World({ locks: true, freezeEvent: true, aheadMs });
    const tab = world.open();
    await world.pass(2_000);
    world.gateway.create("a", "mail", 1.7e9 + 62);
    await world.pass(59_000);
    assert.deepEqual(tab.ids, ["a"]);
    await world.pass(1_100);
    assert.deepEqual(tab.ids, []);
  }
});

test("readers get the same objects until something changes", async () => {
  const world = browser();
  const { client } = world.open();
  world.gateway.create("a", "mail.new");
  await world.pass(2_000);
  let calls = 0;
  client.subscribe(() => calls++);
  const [state, mails, [a]] = [client.getState(), client.select("mail"), client.select()];
  await world.pass(600_000); // pings, and two comparisons of the digest
  assert.deepEqual([client.getState() === state, calls], [true, 0]);

  world.gateway.create("b", "user");
  await world.pass(100);
  assert.deepEqual([client.getState() === state, calls], [false, 1]);
  assert.deepEqual([client.select("mail") === mails, client.select().includes(a!)], [true, true]);
});

test("handlers get the changes of their category, and messages of their system", async () => {
  const world = browser();
  const tab = world.open();
  await world.pass(2_000);
  const seen: unknown[] = [];
  const end = tab.client.on("mail", (event) => seen.push([event.type, event.item.id]));
  tab.client.onExternal("kbfs", (event) => seen.push(event.type === "message" && event.body));
  world.gateway.create("a", "mail.new");
  world.gateway.create("b", "mailing");
  for (const system of ["kbfs", "other"]) world.gateway.publish({ system }, system);
  await world.pass(100);
  void tab.client.dismiss("a");
  await world.pass(100);
  end();
  world.gateway.create("c", "mail");
  await world.pass(100);
  assert.deepEqual(seen, [["created", "a"], { system: "kbfs" }, ["dismissed", "a"]]);
});

test("an item that is gone keeps its texts in the event", async () => {
  const world = browser();
  const { client } = world.open();
  await world.pass(2_000);
  const texts: unknown[] = [];
  client.on("mail", ({ type, item }) => texts.push([type, item.rendered]));
  const { seq } = client.synchronizer.mirror;
  const rendered = { title: "Three new", text: null, link: null };
  const item = { category: "mail", times: { created: 1 }, for_device: null, body: null };
  client.frame({ system: "gregor", seq: seq + 1, body: { create: { r: item } }, rendered: { r: rendered } });
  client.frame({ system: "gregor", seq: seq + 2, body: { dismiss: { ids: ["r"] } } });
  assert.deepEqual(texts, [["created", rendered], ["dismissed", rendered]]);
  assert.equal(client.synchronizer.mirror.rendered.size, 0);
});

test("a page event does not shorten the wait that the server asks for", async () => {
  const world = browser();
  const tab = world.open();
  await world.pass(2_000);
  world.gateway.cut(4006, "retry_after_ms=30000");
  await world.pass(1_000);
  tab.event("online");
  await world.pass(1_000);
  assert.equal(world.gateway.hellos.length, 1);
  await world.pass(30_000);
  assert.equal(world.gateway.hellos.length, 2);
});

test("a page event ends the wait after a lost connection", async () => {
  const world = browser();
  const tab = world.open(true, { transports: ["websocket"] });
  await world.pass(2_000);
  world.gateway.down = true;
  world.cut();
  await world.pass(20_000);
  world.gateway.down = false;
  tab.event("online");
  await world.pass(100);
  assert.equal(world.gateway.hellos.length, 2);
});

test("members that are not JSON are sent neither to the server nor to tabs", async () => {
  const world = browser();
  const tabs = [world.open(), world.open()];
  await world.pass(10_000);
  const receipts = tabs.map(({ client }) => client.dispatch({ system: "kbfs", body: { n: 1, call: () => 1 } }));
  await world.pass(1_000);
  await Promise.all(receipts);
  assert.deepEqual(world.gateway.received.map(({ body }) => body), [{ n: 1 }, { n: 1 }]);
  assert.deepEqual(tabs.flatMap(({ errors }) => errors), []);
});

test("a message that cannot be written as JSON is refused and not kept", async () => {
  const world = browser();
  const tab = world.open();
  await assert.rejects(tab.client.dispatch({ system: "kbfs", body: { n: 1n } }), TypeError);
  assert.equal(tab.client.getState().outbox, 0);
});

test("a message that the caller changes later is sent unchanged", async () => {
  const world = browser();
  const tab = world.open();
  const body = { n: 1 };
  tab.client.dispatch({ system: "kbfs", body });
  body.n = 2;
  await world.pass(3_000);
  assert.deepEqual(world.gateway.received[0].body, { n: 1 });
});

test("messages for another user than that of the token are rejected", async () => {
  const world = browser();
  const tab = world.open();
  tab.client.setUser("carol", "browser", false);
  const receipt = tab.client.dispatch({ system: "kbfs", body: {} });
  await world.pass(3_000);
  await assert.rejects(receipt, /another user/);
  assert.equal(world.gateway.received.length, 0);
  assert.equal(tab.client.getState().user, "alice");
});

test("an ack is not sent for another user", async () => {
  const world = browser();
  const tab = world.open();
  tab.client.setUser("carol", "browser", false);
  tab.client.ack(7);
  await world.pass(3_000);
  assert.equal(tab.client.getState().user, "alice");
  assert.deepEqual(world.gateway.acks, []);
});

test("entries of one moment keep their order in storage", () => {
  const outbox = new Outbox();
  const queued = Array.from({ length: 100 }, () => outbox.put({ system: "kbfs", body: {} }, new Map(), 1.7e9).queued);
  assert.deepEqual(queued, [...new Set(queued)].sort((a, b) => a - b));
});

test("a post without an answer ends the connection", async () => {
  const closes: string[] = [];
  const env = {
    ...defaultEnv(),
    fetch: () => new Promise<Response>(() => {}),
    startTimer: (callback: () => void, ms: number) => setTimeout(callback, ms / 1000),
  };
  const endpoints = { api: "http://host", websocket: "ws://host", streams: "http://host" };
  const link = poll.open(
    { env, endpoints, token: good, hello: { session: "s" }, position: () => ({}) },
    { heard() {}, frame() {}, closed: (_code, reason) => void closes.push(reason) },
  );
  link.send([{ ack: 1 }]);
  await waitUntil(() => closes.length, "the connection is closed", 1_000);
  assert.deepEqual(closes, ["no answer to a post"]);
});

test("a refusal is final only if Gregor wrote it", async () => {
  const codes: number[] = [];
  const endpoints = { api: "http://host", websocket: "ws://host", streams: "http://host" };
  for (const status of [401, 403, 422]) {
    for (const document of ["<h1>Blocked by the firewall</h1>", JSON.stringify({ code: "forbidden" })]) {
      const env = { ...defaultEnv(), fetch: async () => new Response(document, { status }) };
      const before = codes.length;
      const request = { env, endpoints, token: good, hello: { session: "s" }, position: () => ({}) };
      poll.open(request, { heard() {}, frame() {}, closed: (code) => void codes.push(code) });
      await waitUntil(() => codes.length > before, "the poll is refused");
    }
  }
  assert.deepEqual(codes, [REFUSED, 4501, REFUSED, 4503, REFUSED, 4503]);
});

test("a post has at most 1 MiB of UTF-8", async () => {
  const sizes: number[] = [];
  const fetch = async (url: string, { body }: RequestInit): Promise<Response> => {
    if (url.includes("/poll")) return new Promise(() => {});
    sizes.push(new TextEncoder().encode(body as string).length);
    return Response.json([]);
  };
  const endpoints = { api: "http://host", websocket: "ws://host", streams: "http://host" };
  const env = { ...defaultEnv(), fetch: fetch as typeof globalThis.fetch };
  const request = { env, endpoints, token: good, hello: { session: "s" }, position: () => ({}) };
  const link = poll.open(request, { heard() {}, frame() {}, closed() {} });
  link.send(Array.from({ length: 5 }, () => ({ system: "kbfs", body: "漢".repeat(80_000) })));
  await waitUntil(() => sizes.reduce((sum, size) => sum + size, 0) > 1_200_000, "all is posted");
  link.close();
  assert.ok(Math.max(...sizes) <= 1_048_576, `${sizes}`);
});

for (const body of [
  { create: { x: { category: "mail", body: "x".repeat(400_000) } } },
  { create: { x: null } },
  { create: { x: { category: "mail", times: { remind_at: "noon" } } } },
  { dismiss: { ids: 5 } },
  { dismiss: { intervals: [{ category: "mail", end: 9, skip: 5 }] } },
]) {
  test(`a message that can never be sent is refused at once: ${JSON.stringify(body).slice(0, 70)}`, async () => {
    const world = browser();
    const tab = world.open();
    world.gateway.create("a");
    await world.pass(2_000);
    await assert.rejects(tab.client.dispatch({ system: "gregor", body }), /too long|null|not a function|iterable/);
    tab.client.markChanged();
    assert.deepEqual([tab.ids, tab.client.getState().outbox], [["a"], 0]);
  });
}

test("a frame that cannot be read ends the connection, and is not skipped", async () => {
  const world = browser();
  const tab = world.open();
  await world.pass(2_000);
  for (const text of ["no JSON", "null"]) {
    const [socket] = world.gateway.sockets;
    socket!.onmessage!({ data: text });
    world.gateway.createUnheard(`after ${text}`);
    await world.pass(60_000);
    assert.ok(tab.ids.includes(`after ${text}`));
  }
  assert.equal(world.gateway.hellos.length, 3);
});

for (const [name, item] of Object.entries({
  "no object": 7,
  "no times": { category: "mail", for_device: null, body: null },
  "a number as category": { times: { created: 5 }, category: 7, for_device: null, body: null },
  "no category": { times: { created: 5 }, for_device: null, body: null },
  "a text as reminders": { times: { created: 5, remind_at: "noon" }, for_device: null, category: "mail", body: null },
  "a number as reminders": { times: { created: 5, remind_at: 7 }, for_device: null, category: "mail", body: null },
  "an object as an expiry": { times: { created: 5, expires: { valueOf: 1, toString: 1 } }, for_device: null, category: "mail", body: null },
  "an object as a reminder": { times: { created: 5, remind_at: [{ valueOf: 1, toString: 1 }] }, for_device: null, category: "mail", body: null },
})) {
  test(`a malformed item never enters the copy: ${name}`, async () => {
    const world = browser();
    const tab = world.open();
    await world.pass(2_000);
    const [socket] = world.gateway.sockets;
    socket!.onmessage!({ data: JSON.stringify({ system: "gregor", seq: 99, body: { create: { bad: item } } }) });
    world.gateway.createUnheard("good");
    await world.pass(60_000);
    assert.deepEqual([tab.ids, tab.client.badge], [["good"], 1]);
    assert.equal(world.gateway.hellos.length, 2);
    assert.equal(tab.client.connection.status, "connected");
  });
}

for (const kind of ["live", "delta", "full"]) {
  test(`a frame with one malformed item changes nothing: ${kind}`, () => {
    const item = { times: { created: 5 }, for_device: null, category: "mail", body: null };
    const mirror = new Mirror();
    mirror.apply({ system: "gregor", sync: "full", cursor: "t-1", body: { create: { a: item } } });
    const before = [mirror.cursor, mirror.digest, [...mirror.items.keys()]];
    const frame = { system: "gregor", seq: 2, ...(kind === "live" ? {} : { sync: kind, cursor: "t-2" }) };
    assert.throws(() => mirror.apply({ ...frame, body: { dismiss: { ids: ["a"] }, create: { b: item, c: { category: "mail" } } } }));
    assert.deepEqual([mirror.cursor, mirror.digest, [...mirror.items.keys()]], before);
    const changes = mirror.apply({ ...frame, body: { create: { a: item, b: item } } });
    assert.deepEqual(changes.flatMap((change) => ("id" in change ? [[change.type, change.id]] : [])), [["created", "b"]]);
  });
}

for (const uncounted of [7, "mail", {}, [7], [null], ["", ["mail"]]]) {
  test(`malformed prefixes never enter the copy: ${JSON.stringify(uncounted)}`, async () => {
    const item = { times: { created: 5 }, for_device: null, category: "mail", body: null };
    const mirror = new Mirror();
    assert.throws(() => mirror.apply({ welcome: { uncounted } }));
    assert.throws(() => mirror.apply({ system: "gregor", sync: "full", cursor: "t-1", uncounted, body: { create: { a: item } } }));
    assert.deepEqual([mirror.cursor, mirror.items.size, mirror.uncounted], [null, 0, []]);

    const world = browser();
    const tab = world.open();
    await world.pass(2_000);
    const [socket] = world.gateway.sockets;
    socket!.onmessage!({ data: JSON.stringify({ welcome: { uncounted } }) });
    world.gateway.createUnheard("good");
    await world.pass(60_000);
    assert.deepEqual([tab.ids, tab.client.badge, world.gateway.hellos.length], [["good"], 1, 2]);
    assert.equal(tab.client.connection.status, "connected");
  });
}

test("a cursor that is not a text never enters the copy", () => {
  const mirror = new Mirror();
  assert.throws(() => mirror.apply({ system: "gregor", sync: "full", cursor: 7, body: {} }));
  assert.throws(() => mirror.apply({ system: "gregor", seq: 2, cursor: 7, body: {} }));
  assert.equal(mirror.cursor, null);
});

test("a redirect to another origin gets no token", async () => {
  // `fetch` removes the header (https://fetch.spec.whatwg.org/#http-redirect-fetch); the token must never move to the URL.
  const seen: unknown[] = [];
  const other = createServer((request, response) => {
    seen.push(request.headers.authorization, request.url);
    response.writeHead(401).end();
  });
  await new Promise<void>((done) => void other.listen(0, "127.0.0.1", done));
  const target = `http://127.0.0.1:${(other.address() as AddressInfo).port}/elsewhere`;
  const server = createServer((_request, response) => void response.writeHead(307, { Location: target }).end());
  await new Promise<void>((done) => void server.listen(0, "127.0.0.1", done));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const endpoints = { api: url, websocket: url.replace("http", "ws"), streams: url };
  const codes: number[] = [];
  for (const transport of [poll, sse]) {
    const request = { env: defaultEnv(), endpoints, token: good, hello: { session: "s" }, position: () => ({}) };
    transport.open(request, { heard() {}, frame() {}, closed: (code) => void codes.push(code) });
  }
  await waitUntil(() => codes.length === 2, "both are refused");
  assert.deepEqual(seen, [undefined, "/elsewhere", undefined, "/elsewhere"]);
  assert.deepEqual(codes, [REFUSED, REFUSED]);
  for (const each of [server, other]) each.close();
  for (const each of [server, other]) each.closeAllConnections();
});

test("a closed client accepts calls and reports nothing", async () => {
  const world = browser();
  const tab = world.open();
  await world.pass(2_000);
  tab.client.close();
  tab.client.setForeground(true);
  tab.client.ack(5);
  await assert.rejects(tab.client.dismiss("a"), /client stopped/);
  assert.deepEqual(tab.errors, []);
});
