/** Tabs that are hidden, frozen, closed, or kept in the back/forward cache, by the raw DevTools protocol. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { elementPage, until, withinMs } from "./support/browser.mjs";
import { startCluster } from "./support/cluster.mjs";
import { Chromium } from "./support/devtools.mjs";

/** Seconds for which a page is hidden; 600 shows ten minutes. The gateway sends a ping every 25 s. */
const HIDDEN_S = Number(process.env.HIDDEN_SECONDS ?? 60);
/** Chromium lets the timers of a hidden page run once a minute, after five minutes; here after five seconds. */
const THROTTLE = "--enable-features=IntensiveWakeUpThrottling:grace_period_seconds/5";
const LEADS = "document.querySelector('gregor-inbox').client.connection.leader";
const LOADED = "document.querySelector('gregor-inbox')?.client?.getState().loaded";
const CONNECTED = "document.querySelector('gregor-inbox').client.connection.status === 'connected'";

let cluster, chromium, hidden;

before(async () => {
  [cluster, chromium] = await Promise.all([startCluster(), Chromium.start()]);
  hidden = await hide();
});
after(async () => {
  await hidden?.browser.close();
  await chromium?.close();
  await cluster?.close();
});

/** Returns the URL of a page with an inbox of a new user, the user, and the number of token calls so far. */
async function site() {
  const user = await cluster.user();
  const found = { ...user, tokenCalls: 0 };
  cluster.proxy.serve(`/token-${user.uid}`, () => (found.tokenCalls++, user.tokens.phone), { "Content-Type": "text/plain" });
  const html = elementPage("gregor-inbox", { url: cluster.proxy.urlOf(user.uid), "token-url": `/token-${user.uid}` });
  found.url = cluster.proxy.serve(`/inbox-${user.uid}`, html);
  return found;
}

/** Opens two tabs of a site in one window: the second one is in front. */
async function twoTabs() {
  const { url, uid } = await site();
  const first = await chromium.open(url, { newWindow: true });
  await first.waitFor(LOADED);
  const second = await chromium.open(url);
  await second.waitFor(LOADED);
  return { first, second, url, uid };
}

/** Opens two windows of a site, both visible: the first one leads. */
async function twoWindows() {
  const { url, uid } = await site();
  const leader = await chromium.open(url, { newWindow: true });
  await leader.waitFor(LEADS);
  const other = await chromium.open(url, { newWindow: true });
  await other.waitFor(LOADED);
  assert.equal(await other.evaluate("document.hidden"), false);
  return { leader, other, uid };
}

/** Creates an item and waits until the page shows it. */
async function receives(page, uid, id) {
  await cluster.create(uid, id, "follow", { title: id });
  await page.waitFor(`document.querySelector('gregor-inbox').client.getState().items.some(({ id }) => id === '${id}')`);
}

/** Hides the only page of a user in a browser that throttles its timers. */
async function hide() {
  const browser = await Chromium.start(THROTTLE);
  const { url, uid } = await site();
  const page = await browser.open(url);
  await page.waitFor(CONNECTED);
  const inFront = await browser.open("about:blank");
  await page.waitFor("document.hidden");
  return { browser, page, inFront, uid, since: performance.now() };
}

test("a hidden leader yields to the tab in front", async () => {
  const { first, second, uid } = await twoTabs();
  await second.waitFor(LEADS);
  let [inFront, behind] = [second, first];

  await withinMs(1_000, "take-over after the leader was hidden", async () => {
    [inFront, behind] = [behind, inFront];
    await inFront.show();
    return inFront.waitFor(LEADS);
  });

  await until(() => cluster.proxy.open(uid) === 1, "one connection");
  assert.equal(await behind.evaluate(LEADS), false);
  await receives(inFront, uid, "a");
});

test("a visible tab takes over from a frozen leader", async () => {
  await withinMs(6_000, "take-over after the leader was frozen", async () => {
    const { leader, other, uid } = await twoWindows();
    await leader.freeze();
    const took = await other.waitFor(LEADS);
    await receives(other, uid, "a");
    await leader.thaw();
    await receives(leader, uid, "b");
    await until(() => cluster.proxy.open(uid) === 1, "one connection");
    return took;
  });
});

test("a visible tab takes over from a leader that hangs", async () => {
  await withinMs(6_000, "take-over after the leader hung", async () => {
    const { leader, other, uid } = await twoWindows();
    const hanging = leader.evaluate("{ const end = performance.now() + 9_000; while (performance.now() < end); }");
    const took = await other.waitFor(LEADS);
    await receives(other, uid, "a");
    await hanging;
    await until(() => cluster.proxy.open(uid) === 1, "one connection");
    return took;
  });
});

test("a tab takes over from a closed leader", async () => {
  await withinMs(1_000, "take-over after the leader was closed", async () => {
    const { first, second, uid } = await twoTabs();
    await second.waitFor(LEADS);
    await second.close();
    const took = await first.waitFor(LEADS);
    await receives(first, uid, "a");
    return took;
  });
});

test("a page from the back/forward cache connects at once", async () => {
  await withinMs(1_000, "connection after the back/forward cache", async () => {
    const { url, uid } = await site();
    const page = await chromium.open(url, { newWindow: true });
    await page.waitFor(LEADS);
    await page.evaluate("addEventListener('pageshow', ({ persisted }) => (globalThis.cached = persisted)), 0");
    await page.send("Page.navigate", { url: cluster.proxy.serve("/elsewhere", "<!doctype html><title>Elsewhere</title>") });
    await page.waitFor("document.title === 'Elsewhere'");
    await until(() => cluster.proxy.open(uid) === 0, "no connection while the page is cached");
    await cluster.create(uid, "a", "follow", { title: "a" });

    await page.evaluate("history.back()");

    await page.waitFor("globalThis.cached !== undefined");
    assert.equal(await page.evaluate("globalThis.cached"), true);
    const took = await page.waitFor(CONNECTED);
    await page.waitFor("document.querySelector('gregor-inbox').client.badge === 1");
    return took;
  });
});

test("ten tabs have one connection and one token call", async () => {
  const visitor = await site();
  const first = await chromium.open(visitor.url, { newWindow: true });
  await first.waitFor(CONNECTED);
  const others = [];
  for (let n = 1; n < 10; n++) others.push(await chromium.open(visitor.url, n % 2 ? { newWindow: true } : { background: true }));
  for (const page of others) await page.waitFor(LOADED);

  await cluster.create(visitor.uid, "a", "follow", { title: "a" });
  for (const page of [first, ...others]) await page.waitFor("document.querySelector('gregor-inbox').client.badge === 1");

  assert.deepEqual([cluster.proxy.opened.get(visitor.uid), visitor.tokenCalls], [1, 1]);
});

test(`a page that is hidden for ${HIDDEN_S} s does not reconnect`, async () => {
  const { page, inFront, uid, since } = hidden;
  const left = since + HIDDEN_S * 1_000 - performance.now();
  if (left > 0) await new Promise((resolve) => setTimeout(resolve, left));

  assert.deepEqual([cluster.proxy.opened.get(uid), cluster.proxy.open(uid)], [1, 1]);
  assert.equal(await page.evaluate("document.hidden"), true);
  await receives(page, uid, "a");
  await inFront.close();
  await page.waitFor("!document.hidden");
  assert.equal(await page.evaluate(CONNECTED), true);
});
