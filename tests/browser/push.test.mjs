/**
 * Pushes that arrive in a service worker of Chromium, delivered by the DevTools protocol.
 *
 * The bodies are those of the delivery service. What no test here can show: a real push service, Safari, a click by a
 * person (Chromium refuses `focus` and `openWindow` after a click that a script dispatches, so these are recorded).
 */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { dirname, join } from "node:path";
import { after, before, beforeEach, test } from "node:test";
import { GREGOR, root, startCluster } from "./support/cluster.mjs";
import { Chromium } from "./support/devtools.mjs";

const WORKER = `
import { handlePushes } from "/client/sw.js";
globalThis.calls = [];
const record = (object, name, call) => (object[name] = (...given) => (calls.push([name, ...given.slice(0, 1)]), call?.apply(object, given)));
record(registration, "showNotification", registration.showNotification);
for (const name of ["setAppBadge", "clearAppBadge"]) record(navigator, name, navigator[name]);
record(clients, "openWindow", async () => null);
record(WindowClient.prototype, "focus", async () => null);
addEventListener("install", () => skipWaiting());
handlePushes({ title: (badge) => badge + " new" });
`;

let cluster, chromium, page, worker, registrationId;

before(async () => {
  [cluster, chromium] = await Promise.all([startCluster(), Chromium.start()]);
  const { proxy, origin } = cluster;
  proxy.serve("/sw.js", WORKER, { "Content-Type": "text/javascript" });
  await chromium.send("Browser.grantPermissions", { origin, permissions: ["notifications"] });
  const registered = new Promise((resolve) =>
    chromium.on(({ method, params }) => {
      const found = method === "ServiceWorker.workerRegistrationUpdated" && params.registrations.find((each) => each.scopeURL === `${origin}/`);
      if (found) resolve(found.registrationId);
    }),
  );
  page = await chromium.open(proxy.serve("/app", "<!doctype html><title>App</title>"));
  await page.waitFor("document.title === 'App'");
  await page.send("ServiceWorker.enable");
  await page.evaluate("navigator.serviceWorker.register('/sw.js', { type: 'module' }).then(() => navigator.serviceWorker.ready).then(() => 0)");
  registrationId = await registered;
  worker = await chromium.worker(`${origin}/sw.js`);
});
beforeEach(async () => {
  await worker.evaluate("registration.getNotifications().then((all) => { for (const each of all) each.close(); calls.length = 0; })");
});
after(async () => {
  await chromium?.close();
  await cluster?.close();
});

/** Returns the body that the delivery service sends for a push. `members` belong to the object `gregor`. */
function bodyOf({ title = "Mail", text = "Hello", app_url = null, ...members }) {
  const data = { v: 1, uid: "alice", kind: "item", id: "a", category: "mail", link: "/mail/7", badge: 3, withdraw: [], ...members };
  const script = join(root, "tests", "browser", "support", "push_bodies.py");
  const input = JSON.stringify({ app_url, pushes: [{ title, text, data }] });
  return JSON.parse(execFileSync(join(dirname(GREGOR), "python"), [script], { input }))[0];
}

/** Delivers a push, and waits until the worker has handled it. */
async function push(members) {
  const before = await worker.evaluate("calls.filter(([name]) => name.endsWith('AppBadge')).length");
  await page.send("ServiceWorker.deliverPushMessage", { origin: cluster.origin, registrationId, data: bodyOf(members) });
  await worker.waitFor(`calls.filter(([name]) => name.endsWith('AppBadge')).length > ${before}`);
}

/** Returns title, text and tag of the notifications on the screen. */
function shown() {
  return worker.evaluate("registration.getNotifications().then((all) => all.map(({ title, body, tag }) => [title, body, tag]))");
}

function calls(name) {
  return worker.evaluate(`calls.filter(([called]) => called === '${name}').map(([, ...given]) => given)`);
}

for (const [label, app_url] of [["classic", null], ["declarative", "https://app.example.com"]]) {
  test(`a ${label} push shows its item and sets the badge`, async () => {
    assert.equal(JSON.parse(bodyOf({ app_url })).web_push, app_url ? 8030 : undefined);

    await push({ app_url });

    assert.deepEqual(await shown(), [["Mail", "Hello", "gregor:a"]]);
    assert.deepEqual(await calls("setAppBadge"), [[3]]);
  });

  test(`a ${label} push replaces the one of the same item`, async () => {
    await push({ app_url });
    await push({ app_url, kind: "remind", title: "Reminder" });

    assert.deepEqual(await shown(), [["Reminder", "Hello", "gregor:a"]]);
  });

  test(`a ${label} push withdraws other notifications`, async () => {
    await push({ app_url });
    await push({ app_url, id: "b" });
    await push({ app_url, id: "c", title: "Third", withdraw: ["a", "b"], badge: 1 });

    assert.deepEqual(await shown(), [["Third", "Hello", "gregor:c"]]);
    assert.deepEqual((await calls("setAppBadge")).at(-1), [1]);
  });
}

test("a withdrawal shows a notification before it closes all", async () => {
  await push({});
  await push({ title: "", text: "", kind: "withdraw", id: null, badge: 0, withdraw: ["a"] });

  // Safari ends a subscription after three pushes that showed nothing.
  assert.deepEqual((await calls("showNotification")).map(([title]) => title), ["Mail", "0 new"]);
  assert.deepEqual(await shown(), []);
  assert.equal((await calls("clearAppBadge")).length, 1);
});

test("a click focuses an open page", async () => {
  await page.evaluate("navigator.serviceWorker.onmessage = ({ data }) => (globalThis.clicked = data), 0");
  await push({});
  await click();

  await page.waitFor("globalThis.clicked");
  assert.deepEqual(await page.evaluate("clicked"), { gregor: "click", id: "a", link: "/mail/7" });
  assert.equal((await calls("focus")).length, 1);
  assert.deepEqual(await shown(), []);
});

test("a click without an open page opens the link", async () => {
  await push({});
  await page.send("Page.navigate", { url: "about:blank" });
  await worker.waitFor("clients.matchAll({ type: 'window', includeUncontrolled: true }).then((all) => all.length === 0)");
  await click();

  await worker.waitFor("calls.some(([name]) => name === 'openWindow')");
  assert.deepEqual(await calls("openWindow"), [[`${cluster.origin}/mail/7`]]);
});

/** Dispatches the click on the notification that is shown. */
function click() {
  return worker.evaluate(
    "registration.getNotifications().then(([notification]) => { dispatchEvent(new NotificationEvent('notificationclick', { notification })); })",
  );
}
