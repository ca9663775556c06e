/** The helper of service workers, in a fake of the worker's scope. */

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { handlePushes, subscribePush } from "../src/sw";

class Shown {
  closed = false;
  constructor(readonly title: string, readonly options: any) {}
  get tag() {
    return this.options.tag;
  }
  get data() {
    return this.options.data;
  }
  close() {
    this.closed = true;
  }
}

const scope: any = globalThis;
let shown: Shown[];
let badges: (number | null)[];
let opened: string[];
let pages: any[];
let handlers: Record<string, (event: any) => void>;

beforeEach(() => {
  shown = [];
  badges = [];
  opened = [];
  pages = [];
  handlers = {};
  scope.addEventListener = (type: string, handler: (event: any) => void) => (handlers[type] = handler);
  scope.registration = {
    async showNotification(title: string, options: any) {
      shown = shown.filter(({ tag }) => tag !== options.tag);
      shown.push(new Shown(title, options));
    },
    getNotifications: async () => shown.filter(({ closed }) => !closed),
  };
  Object.defineProperty(scope, "navigator", {
    configurable: true,
    value: { setAppBadge: async (n: number) => badges.push(n), clearAppBadge: async () => badges.push(null) },
  });
  scope.location = { origin: "https://app.example.com" };
  scope.clients = { matchAll: async () => pages, openWindow: async (url: string) => opened.push(url) };
  handlePushes({ title: (badge) => `${badge} new`, url: "/inbox" });
});

async function fire(type: string, event: object): Promise<void> {
  let work: Promise<unknown> = Promise.resolve();
  handlers[type]!({ ...event, waitUntil: (promise: Promise<unknown>) => (work = promise) });
  await work;
}

const gregor = { v: 1, uid: "alice", kind: "item", id: "a", category: "mail", link: "/mail/7", badge: 3, withdraw: [], cursor: "x-1" };
const push = (members: object, body: object = { title: "Mail", body: "Hello" }) =>
  fire("push", { data: { json: () => ({ ...body, gregor: { ...gregor, ...members } }) } });

test("a push shows its item and sets the badge", async () => {
  await push({});
  assert.deepEqual(shown.map(({ title, tag }) => [title, tag]), [["Mail", "gregor:a"]]);
  assert.deepEqual(badges, [3]);
});

for (const [name, json] of [
  ["null", () => null],
  ["a list", () => []],
  ["a withdrawal of null", () => ({ title: "Mail", gregor: { ...gregor, withdraw: null } })],
] as const) {
  test(`a push of ${name} shows something`, async () => {
    await fire("push", { data: { json } });
    assert.equal(shown.length, 1);
  });
}

test("a second push for an item replaces the first", async () => {
  await push({});
  await push({ kind: "remind" }, { title: "Reminder" });
  assert.deepEqual(shown.map(({ title, options }) => [title, options.renotify]), [["Reminder", true]]);
});

test("a withdrawal shows a notification, then closes it and that of the item", async () => {
  await push({});
  await push({ kind: "withdraw", id: null, badge: 0, withdraw: ["a"] }, {});
  assert.deepEqual(shown.map(({ title, closed }) => [title, closed]), [["Mail", true], ["0 new", true]]);
  assert.deepEqual(badges, [3, null]);
});

for (const [name, json] of [["is not JSON", () => JSON.parse("{")], ["is of another sender", () => ({ title: "Sale" })]] as const) {
  test(`a push that ${name} shows a notification and keeps the badge`, async () => {
    await push({});
    await fire("push", { data: { json } });
    assert.equal(shown.length, 2);
    assert.deepEqual(badges, [3]);
  });
}

test("a declarative push has its data in the notification", async () => {
  await fire("push", { notification: { title: "Mail", body: "Hello", data: { gregor } }, data: null });
  assert.deepEqual(shown.map(({ title, options }) => [title, options.body, options.tag]), [["Mail", "Hello", "gregor:a"]]);
});

test("a refused badge does not lose the notification", async () => {
  scope.navigator.setAppBadge = () => Promise.reject(new Error("not allowed"));
  await push({});
  assert.equal(shown.length, 1);
});

test("a click focuses an open page, or opens the link", async () => {
  await push({});
  await fire("notificationclick", { notification: shown[0] });
  assert.deepEqual(opened, ["https://app.example.com/mail/7"]);

  const messages: any[] = [];
  pages = [{ url: "https://app.example.com/", focus: async () => {}, postMessage: (message: any) => messages.push(message) }];
  await fire("notificationclick", { notification: shown[0] });
  assert.deepEqual(messages, [{ gregor: "click", id: "a", link: "/mail/7" }]);
});

for (const [link, expected] of [
  ["javascript:alert(1)", "https://app.example.com/inbox"],
  ["data:text/html,hello", "https://app.example.com/inbox"],
  ["intent://scan/#Intent;end", "https://app.example.com/inbox"],
  ["https://elsewhere.example.com/mail/7", "https://app.example.com/inbox"],
  ["//elsewhere.example.com", "https://app.example.com/inbox"],
  ["blob:https://app.example.com/5d2f", "https://app.example.com/inbox"],
  ["https://:0:", "https://app.example.com/inbox"],
  ["http://app.example.com/mail/7", "https://app.example.com/inbox"],
  ["mail/7", "https://app.example.com/mail/7"],
] as const) {
  test(`a click on ${link} opens a page of the app`, async () => {
    await push({ link });
    await fire("notificationclick", { notification: shown[0] });
    assert.deepEqual(opened, [expected]);
  });
}

test("an open page does not get a link that it could not open", async () => {
  const messages: any[] = [];
  pages = [{ url: "https://app.example.com/", focus: async () => {}, postMessage: (message: any) => messages.push(message) }];
  await push({ link: "javascript:alert(1)" });
  await fire("notificationclick", { notification: shown[0] });
  assert.deepEqual(messages, [{ gregor: "click", id: "a", link: null }]);
});

test("a click opens the link on the origin of `url`", async () => {
  handlePushes({ url: "https://www.example.com/inbox" });
  for (const link of ["https://www.example.com/mail/7", null, "https://app.example.com/x"]) await push({ id: link, link });
  for (const notification of shown) await fire("notificationclick", { notification });
  assert.deepEqual(opened, ["https://www.example.com/mail/7", "https://www.example.com/inbox", "https://app.example.com/x"]);
});

test("a subscription is registered with the device", async () => {
  const calls: any[] = [];
  const client: any = {
    getState: () => ({ device: "web" }),
    async api(path: string, init?: RequestInit) {
      calls.push([path, init?.body && JSON.parse(String(init.body))]);
      return Response.json(path === "push/webpush" ? { public_key: "BK" } : {});
    },
  };
  const keys = { p256dh: "p", auth: "a" };
  const subscription = { toJSON: () => ({ endpoint: "https://push", expirationTime: null, keys }) };
  await subscribePush(client, { pushManager: { subscribe: async () => subscription } } as any);
  const token = { endpoint: "https://push", keys };
  assert.deepEqual(calls, [["push/webpush", undefined], ["~/devices/web", { platform: "web", push: { provider: "webpush", token } }]]);
});
