/** Storage and bad networks against a real `gregor dev`: reload with a full outbox, dead databases, proxies that buffer. */

import assert from "node:assert/strict";
import { createServer, request, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import { IDBFactory } from "fake-indexeddb";
import WebSocket from "ws";
import { defaultEnv, type Env } from "../src/env";
import { FullClient } from "../src/full";
import { poll, sse, websocket } from "../src/transports";
import type { ConnectOptions } from "../src/types";
import { type Gregor, startGregor, waitUntil } from "./support/gregor";

let gregor: Gregor;
let users = 0;
let online = true;
const open: FullClient[] = [];
const servers: Server[] = [];
const listeners = new Set<(event: any) => void>();
const listen: Env["listen"] = (type, listener) => {
  if (type === "online") listeners.add(listener);
  return () => listeners.delete(listener);
};
before(async () => {
  gregor = await startGregor();
});
after(async () => {
  for (const client of open) client.close();
  for (const server of servers) server.closeAllConnections(), server.close();
  await gregor.stop();
});

class Socket extends WebSocket {
  constructor(url: string, protocols: string[]) {
    super(online ? url : "ws://127.0.0.1:1", protocols);
  }
}

function client(uid: string, env: Partial<Env>, options: Partial<ConnectOptions> = {}): FullClient {
  const all = { ...defaultEnv(), WebSocket: Socket, indexedDB: null, listen, ...env };
  const made = new FullClient({ url: gregor.endpoints, token: () => gregor.token(uid, "web"), ...options }, [websocket, sse, poll], all);
  open.push(made);
  return made;
}

/** Restores the network, and fires the event `online`. */
function goOnline(): void {
  online = true;
  for (const listener of listeners) listener({});
}

const someone = () => `bob-${users++}`;
const ids = (shown: FullClient) => shown.select().map(({ id }) => id).sort();
const item = (id: string) => ({ system: "gregor", body: { create: { [id]: { category: "mail" } } } });
/** Closes a page as a reload does: the browser still finishes the transactions that the page began. */
async function reload(page: FullClient): Promise<void> {
  page.close();
  await (page as any)._persistence._queue;
}

/** Returns the stored entries of the outbox. */
async function entriesOf(indexedDB: IDBFactory): Promise<unknown[]> {
  const [{ name }] = (await indexedDB.databases()) as [{ name: string }];
  const database: IDBDatabase = await settled(indexedDB.open(name));
  const entries = await settled(database.transaction("outbox").objectStore("outbox").getAll());
  database.close();
  return entries;
}

/** Replaces members of the frame of the stored copy. */
async function damageCopy(indexedDB: IDBFactory, damage: object): Promise<void> {
  const [{ name }] = (await indexedDB.databases()) as [{ name: string }];
  const database: IDBDatabase = await settled(indexedDB.open(name));
  const copies = database.transaction("copy", "readwrite").objectStore("copy");
  const copy: any = await settled(copies.get(0));
  await settled(copies.put({ ...copy, frame: { ...copy.frame, ...damage } }, 0));
  database.close();
}

const settled = <T>(request: IDBRequest<T>): Promise<T> =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

test("copy and outbox survive a reload offline, and take effect once", async () => {
  const uid = someone();
  const storage = { indexedDB: new IDBFactory() };
  const only = { transports: ["websocket" as const] };
  const watcher = client(uid, {}, { token: gregor.token(uid, "watcher"), tabs: false });
  let externals = 0;
  watcher.onExternal("kbfs", () => externals++);
  await watcher.ready;
  await gregor.send(uid, item("a"));
  await gregor.send(uid, item("b"));
  const first = client(uid, storage, only);
  await first.ready;
  assert.equal(first.connection.persisted, true);
  await reload(first);

  online = false;
  const second = client(uid, storage, only);
  await waitUntil(() => second.getState().loaded, "the stored copy is shown");
  assert.deepEqual(ids(second), ["a", "b"]);
  second.dismiss("a");
  second.create("note", { text: "offline" }, { id: "n" });
  second.dispatch({ system: "kbfs", body: { n: 1 } });
  assert.deepEqual(ids(second), ["b", "n"]);
  await reload(second);

  const third = client(uid, storage, only);
  await waitUntil(() => third.getState().outbox === 3, "the stored outbox is loaded");
  assert.deepEqual(ids(third), ["b", "n"]);
  assert.equal(third.select("note")[0]!.pending, true);
  await waitUntil(() => third.connection.offline, "it is known that the server cannot be reached");

  goOnline();
  await waitUntil(() => third.getState().outbox === 0, "the server has confirmed everything");
  assert.equal(third.select("note")[0]!.pending, false);
  await waitUntil(() => externals === 1, "the external message arrives");
  assert.deepEqual(ids(watcher), ["b", "n"]);
  await reload(third);

  const fourth = client(uid, storage, only);
  await fourth.ready;
  assert.deepEqual([fourth.getState().outbox, externals], [0, 1]);
});

test("a confirmed message survives a reload that comes before the copy is stored", async () => {
  const uid = someone();
  // The page never stores its copy: a browser may end the transactions of a page that it unloads.
  const startTimer: Env["startTimer"] = (callback, ms) => ms !== 500 && setTimeout(callback, ms);
  const storage = { indexedDB: new IDBFactory() };
  await gregor.send(uid, item("a"));
  const stored = client(uid, storage);
  await stored.ready;
  await reload(stored);
  const first = client(uid, { ...storage, startTimer });
  await first.ready;
  await first.dismiss("a");
  await first.create("note", null, { id: "n" });
  assert.equal(first.getState().outbox, 0);

  online = false;
  const second = client(uid, storage, { transports: ["websocket"] });
  await waitUntil(() => second.getState().loaded, "the stored copy is shown");
  assert.deepEqual(ids(second), ["n"]);
  goOnline();
  await waitUntil(() => second.getState().outbox === 0, "the server has confirmed both again");
  assert.deepEqual(ids(second), ["n"]);
  await reload(second);
  assert.equal((await entriesOf(storage.indexedDB)).length, 0);
});

test("another user on the same browser sees nothing of the first", async () => {
  const storage = { indexedDB: new IDBFactory() };
  const [one, two] = [someone(), someone()];
  await gregor.send(one, item("secret"));
  const first = client(one, storage);
  await first.ready;
  first.ack();
  await reload(first);

  const second = client(two, storage, { token: gregor.token(two, "web") });
  await second.ready;
  assert.deepEqual(ids(second), []);
  assert.equal(second.getState().user, two);
});

for (const [name, options] of [
  ["with another filter", { categories: ["mail"] }],
  ["with the same filter", {}],
] as const) {
  test(`a stored message is never sent as another user, ${name}`, async () => {
    const storage = { indexedDB: new IDBFactory() };
    const [one, two] = [someone(), someone()];
    const first = client(one, storage);
    await first.ready;
    online = false;
    first.close();
    const offline = client(one, storage, { token: gregor.token(one, "web"), transports: ["websocket"] });
    void offline.dispatch(item("secret")).catch(() => {});
    await reload(offline);
    goOnline();

    const second = client(two, storage, options);
    await second.ready;
    await second.dispatch(item("own"));

    assert.deepEqual(ids(second), ["own"]);
    assert.equal(second.getState().outbox, 0);
  });
}

test("a message stored beside the copy of another user is not sent", async () => {
  const storage = { indexedDB: new IDBFactory() };
  const [one, two] = [someone(), someone()];
  const alone = { tabs: false, transports: ["websocket" as const] };
  const second = client(two, storage, alone);
  await second.ready;
  online = false;
  const first = client(one, storage, { ...alone, token: gregor.token(one, "web") });
  void first.dispatch(item("secret")).catch(() => {});
  await reload(first);
  await gregor.send(two, item("own"));
  await waitUntil(() => second.badge === 1, "the copy of the second user changes");
  await reload(second);
  goOnline();

  const third = client(two, storage, { ...alone, token: gregor.token(two, "web") });
  await third.ready;
  await third.dispatch(item("later"));
  assert.deepEqual(ids(third), ["later", "own"]);
});

test("a message put before the first token belongs to the user of that token", async () => {
  const storage = { indexedDB: new IDBFactory() };
  const [one, two] = [someone(), someone()];
  online = false;
  const first = client(one, storage, { transports: ["websocket"] });
  void first.dispatch(item("secret")).catch(() => {});
  await waitUntil(() => first.getState().user === one, "the first token arrives");
  await reload(first);
  goOnline();

  const second = client(two, storage, { token: gregor.token(two, "web") });
  await second.ready;
  await second.dispatch(item("own"));
  assert.deepEqual(ids(second), ["own"]);
});

test("the outbox of a slow database is sent after the first sync", async () => {
  const uid = someone();
  const factory = new IDBFactory();
  online = false;
  const first = client(uid, { indexedDB: factory }, { transports: ["websocket"], token: gregor.token(uid, "web") });
  void first.dispatch(item("a")).catch(() => {});
  await reload(first);
  goOnline();

  let answer = () => {};
  const answered = new Promise<void>((resolve) => (answer = resolve));
  const slow = {
    open(name: string, version: number) {
      const opening = factory.open(name, version);
      const request: any = { get result() { return opening.result; } };
      opening.onsuccess = () => void answered.then(() => request.onsuccess());
      return request;
    },
  } as unknown as IDBFactory;
  const env: Partial<Env> = { indexedDB: slow, startTimer: (callback, ms) => setTimeout(callback, ms === 2_000 ? 10 : ms) };
  const second = client(uid, env);
  await second.ready;
  answer();
  await waitUntil(() => ids(second).includes("a"), "the stored message is shown");
  await waitUntil(() => second.getState().outbox === 0, "the stored message is sent", 3_000);
});

for (const damage of [
  { uncounted: 7 },
  { uncounted: [7] },
  { body: { create: { a: { category: "mail", times: { created: 5, remind_at: 7 }, for_device: null, body: null } } } },
]) {
  test(`a damaged copy in the storage is not shown: ${JSON.stringify(damage).slice(0, 70)}`, async () => {
    const uid = someone();
    const storage = { indexedDB: new IDBFactory() };
    await gregor.send(uid, item("a"));
    const first = client(uid, storage);
    await first.ready;
    await reload(first);
    await damageCopy(storage.indexedDB, damage);

    online = false;
    const errors: Error[] = [];
    const second = client(uid, storage, { transports: ["websocket"], onError: (error) => errors.push(error) });
    await waitUntil(() => errors.some((error) => error instanceof TypeError), "the damage is reported");
    assert.deepEqual([ids(second), second.badge, second.getState().loaded], [[], 0, false]);
    goOnline();
    await second.ready;
    assert.deepEqual([ids(second), second.badge], [["a"], 1]);
  });
}

test("sign-out deletes the stored copy", async () => {
  const uid = someone();
  const storage = { indexedDB: new IDBFactory() };
  await gregor.send(uid, item("a"));
  const first = client(uid, storage);
  await first.ready;
  await first.forget();

  online = false;
  const second = client(uid, storage, { transports: ["websocket"] });
  await waitUntil(() => second.connection.offline, "the second page is offline");
  goOnline();
  assert.deepEqual(ids(second), []);
});

test("a database that fails is opened again, at most three times", async () => {
  const uid = someone();
  const factory = new IDBFactory();
  let opened = 0;
  let isDead = false;
  // As in WebKit: transactions on the handle fail, and a new handle may work.
  const dying = {
    open(name: string, version: number) {
      opened++;
      const request = factory.open(name, version);
      request.addEventListener("success", () => {
        const database: any = request.result;
        const transaction = database.transaction.bind(database);
        database.transaction = (...parts: any[]) => {
          if (isDead) throw new DOMException("Connection to Indexed Database server lost", "UnknownError");
          return transaction(...parts);
        };
      });
      return request;
    },
  } as unknown as IDBFactory;
  const errors: Error[] = [];
  const page = client(uid, { indexedDB: dying }, { onError: (error) => errors.push(error) });
  await page.ready;
  assert.deepEqual([opened, page.connection.persisted], [1, true]);

  isDead = true;
  page.create("note", null, { id: "n1" });
  await waitUntil(() => !page.connection.persisted, "the page goes on without storage");
  assert.equal(opened, 4);
  assert.match(errors[0]!.message, /server lost/);
  await page.create("note", null, { id: "n2" });
  assert.deepEqual(ids(page), ["n1", "n2"]);
});

// Fallback to other transports.

/** Long timers in a fiftieth of the time. */
const fast: Partial<Env> = { startTimer: (callback, ms) => setTimeout(callback, ms >= 10_000 ? ms / 50 : ms) };

class RefusedSocket extends WebSocket {
  constructor(_url: string, protocols: string[]) {
    super("ws://127.0.0.1:1", protocols);
  }
}

test("a refused WebSocket leads to a stream, and back to a WebSocket that works", async () => {
  const uid = someone();
  let isRefused = true;
  const Either = class extends WebSocket {
    constructor(url: string, protocols: string[]) {
      super(isRefused ? "ws://127.0.0.1:1" : url, protocols);
    }
  };
  const began = performance.now();
  const page = client(uid, { ...fast, WebSocket: Either });
  await page.ready;
  assert.equal(page.connection.transport, "sse");
  assert.ok(performance.now() - began < 3_000, "the stream is used within 3 s");

  isRefused = false;
  await waitUntil(() => page.connection.transport === "websocket", "the WebSocket is used again");
  await page.create("note", null, { id: "n" });
  assert.deepEqual(ids(page), ["n"]);
  assert.equal(page.getState().mismatches, 0);
});

test("a proxy that buffers streams leads to long polls within 3 s", async () => {
  const uid = someone();
  const buffering = createServer((incoming, outgoing) => {
    const upstream = request(gregor.endpoints.streams + incoming.url, { method: incoming.method, headers: incoming.headers }, (response) => {
      outgoing.writeHead(response.statusCode!, response.headers);
      if (!incoming.url!.startsWith("/v1/stream")) return response.pipe(outgoing);
      // Headers at once, the body when it is complete.
      outgoing.flushHeaders();
      const parts: Buffer[] = [];
      response.on("data", (part) => parts.push(part));
      response.on("end", () => outgoing.end(Buffer.concat(parts)));
      return undefined;
    });
    upstream.on("error", () => outgoing.destroy());
    outgoing.on("close", () => upstream.destroy());
    incoming.pipe(upstream);
  });
  servers.push(buffering);
  await new Promise<void>((resolve) => buffering.listen(0, "127.0.0.1", resolve));
  const streams = `http://127.0.0.1:${(buffering.address() as AddressInfo).port}`;

  const page = client(uid, { WebSocket: RefusedSocket }, { url: { ...gregor.endpoints, streams } });
  const began = performance.now();
  await page.ready;
  const took = performance.now() - began;
  assert.equal(page.connection.transport, "poll");
  assert.ok(took < 3_000, `polls are used after ${took} ms`);
  await gregor.send(uid, item("a"));
  await waitUntil(() => page.badge === 1, "a poll brings the item");
});

for (const transport of ["websocket", "sse", "poll"] as const) {
  test(`a message that the server cannot decode blocks nothing on ${transport}`, async () => {
    const shown = client(someone(), {}, { transports: [transport] });
    await shown.ready;
    const bodies = [12345678901234567890, "cut \ud83d", JSON.parse("[".repeat(100) + "]".repeat(100)), "x".repeat(270_000)];
    const refused = bodies.map((body) => shown.create("mail", body).catch(({ problem }) => problem?.code));
    await shown.create("mail", "next");
    assert.deepEqual(await Promise.all(refused), ["number_out_of_range", "malformed_json", "malformed_json", "message_too_large"]);
    assert.deepEqual([shown.getState().outbox, shown.connection.status], [0, "connected"]);
  });
}

test("a token is fetched again before it expires", async () => {
  const uid = someone();
  let calls = 0;
  const page = client(uid, {}, {
    token: () => {
      calls++;
      return gregor.token(uid, "web", calls === 1 ? 61 : 3600);
    },
  });
  await page.ready;
  await waitUntil(() => calls === 2, "the gateway asked for a fresh token");
  await page.create("note", null, { id: "n" });
  assert.equal(page.connection.status, "connected");
});

test("a failing token function is reported and tried again", async () => {
  const uid = someone();
  const errors: Error[] = [];
  const page = client(uid, {}, {
    token: () => (errors.length ? gregor.token(uid, "web") : Promise.reject(new Error("the session has ended"))),
    onError: (error) => errors.push(error),
  });
  await page.ready;
  assert.deepEqual(errors.map(({ message }) => message), ["the session has ended"]);
});
