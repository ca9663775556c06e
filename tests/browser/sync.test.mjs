/** One state in several pages: dismissals cross, tabs share a connection, a reload loses nothing. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { elementPage, launch, openPage, quantilesWithin, until } from "./support/browser.mjs";
import { startCluster } from "./support/cluster.mjs";

const TRIES = 60;
let cluster, browser;

before(async () => ([cluster, browser] = await Promise.all([startCluster(), launch()])));
after(async () => {
  await browser?.close();
  await cluster?.close();
});

async function openDevice(user, device, options = {}) {
  const html = elementPage("gregor-inbox", { url: cluster.proxy.urlOf(user.uid), token: user.tokens[device] });
  const page = await openPage(browser, cluster.proxy.serve(`/${user.uid}-${device}`, html), options);
  await until(() => state(page, "loaded"), "the state is there");
  return page;
}

/** Returns a member of the state of a page. */
function state(page, member) {
  return page.evaluate((name) => document.querySelector("gregor-inbox").client?.getState()[name], member);
}

/** Returns how many entries a store of the client's database has. */
function stored(page, store) {
  return page.evaluate(async (name) => {
    const result = (request) => new Promise((resolve) => (request.onsuccess = () => resolve(request.result)));
    const [found] = (await indexedDB.databases()).filter((each) => each.name.startsWith("gregor:"));
    if (!found) return 0;
    const database = await result(indexedDB.open(found.name));
    const count = await result(database.transaction(name).objectStore(name).count());
    database.close();
    return count;
  }, store);
}

function shown(page) {
  return page.locator("gregor-inbox .item").count();
}

/** Dismisses an item by a click in `from`. Returns the milliseconds until `to` no longer shows it. */
async function dismissAcross(from, to, id) {
  await to.evaluate((wanted) => {
    const { shadowRoot } = document.querySelector("gregor-inbox");
    const row = shadowRoot.querySelector(`[data-id=${wanted}]`);
    globalThis.gone = new Promise((resolve) => {
      const observer = new MutationObserver(() => {
        if (row.isConnected) return;
        observer.disconnect();
        resolve(performance.timeOrigin + performance.now());
      });
      observer.observe(shadowRoot, { childList: true, subtree: true });
    });
  }, id);
  const begun = await from.evaluate((wanted) => {
    const row = document.querySelector("gregor-inbox").shadowRoot.querySelector(`[data-id=${wanted}]`);
    const at = performance.timeOrigin + performance.now();
    row.querySelector(".dismiss").click();
    return at;
  }, id);
  return (await to.evaluate(() => globalThis.gone)) - begun;
}

/** Measures dismissals in each direction by turns. */
async function dismissals(user, [one, other]) {
  const times = [];
  for (let n = 0; n < TRIES; n++) {
    const id = `d${n}-${Date.now()}`;
    await cluster.create(user.uid, id, "follow", { title: `Follower ${n}` });
    for (const page of [one, other]) await page.locator(`gregor-inbox [data-id=${id}]`).waitFor();
    times.push(await (n % 2 ? dismissAcross(other, one, id) : dismissAcross(one, other, id)));
  }
  return times;
}

test("a dismissal reaches another browser", async () => {
  const user = await cluster.user();
  const pages = await Promise.all([openDevice(user, "phone"), openDevice(user, "tablet")]);
  await quantilesWithin({ 0.5: 50, 0.99: 150 }, "dismissal across two browsers", () => dismissals(user, pages));
});

test("a dismissal reaches another tab", async () => {
  const user = await cluster.user();
  const first = await openDevice(user, "phone");
  const second = await openDevice(user, "phone", { context: first.context() });
  await until(() => cluster.proxy.open(user.uid) === 1, "one connection for both tabs");
  await quantilesWithin({ 0.5: 10 }, "dismissal from tab to tab", () => dismissals(user, [first, second]));
});

test("the stored copy is painted at once, without the network", async () => {
  const user = await cluster.user();
  for (let n = 0; n < 100; n++) await cluster.create(user.uid, `p${n}`, "follow", { title: `Follower ${n}`, text: "Text" });
  const page = await openDevice(user, "phone");
  await until(async () => (await shown(page)) === 100, "all items");
  await until(async () => (await stored(page, "copy")) === 1, "the copy is stored");
  await page.addInitScript(() => {
    const define = customElements.define.bind(customElements);
    let begun;
    customElements.define = (name, ...rest) => {
      begun ??= performance.now();
      define(name, ...rest);
    };
    globalThis.painted = new Promise((resolve) => {
      const look = () => {
        const isThere = document.querySelector("gregor-inbox")?.shadowRoot?.querySelector(".item");
        if (!isThere) return requestAnimationFrame(look);
        // The frame of this callback is painted before the next task.
        return setTimeout(() => resolve(performance.now() - begun));
      };
      requestAnimationFrame(look);
    });
  });
  cluster.proxy.cut();
  // The fastest tenth: the others say how busy the machine is.
  await quantilesWithin({ 0.1: 50, 0.5: Infinity }, "first paint of 100 stored items after the start of the script", async () => {
    const times = [];
    for (let n = 0; n < 20; n++) {
      await page.reload();
      times.push(await page.evaluate(() => globalThis.painted));
      await until(async () => (await shown(page)) === 100, "all items");
    }
    return times;
  });
  cluster.proxy.restore();
});

test("two tabs share one connection; the other takes over", async () => {
  const user = await cluster.user();
  const first = await openDevice(user, "phone");
  const second = await openDevice(user, "phone", { context: first.context() });
  await until(() => cluster.proxy.open(user.uid) === 1, "one connection for both tabs");
  await cluster.create(user.uid, "s1", "follow", { title: "One" });
  for (const page of [first, second]) await page.locator("gregor-inbox [data-id=s1]").waitFor();

  const leader = (await state(first, "connection")).leader ? first : second;
  const other = leader === first ? second : first;
  const begun = performance.now();
  await leader.close();
  await until(async () => (await state(other, "connection")).leader, "the other tab holds the connection");
  const took = performance.now() - begun;

  console.log(`take-over after the leader closed: ${took.toFixed(0)} ms`);
  await cluster.create(user.uid, "s2", "follow", { title: "Two" });
  await other.locator("gregor-inbox [data-id=s2]").waitFor();
  assert.equal(cluster.proxy.open(user.uid), 1);
});

test("an offline dismissal survives a reload", async () => {
  const user = await cluster.user();
  for (const id of ["o1", "o2"]) await cluster.create(user.uid, id, "follow", { title: id });
  const page = await openDevice(user, "phone");
  await until(async () => (await shown(page)) === 2, "both items");
  await until(async () => (await stored(page, "copy")) === 1, "the copy is stored");
  cluster.proxy.cut();
  await page.locator("gregor-inbox [data-id=o1] .dismiss").click({ force: true });
  await until(async () => (await shown(page)) === 1, "the item is gone at once");
  await until(async () => (await stored(page, "outbox")) === 1, "the outbox is stored");
  await page.reload();
  await until(() => state(page, "loaded"), "the stored copy is shown");
  assert.equal(await shown(page), 1);
  assert.equal(await state(page, "outbox"), 1);
  assert.deepEqual((await cluster.items(user.uid)).sort(), ["o1", "o2"]);

  cluster.proxy.restore();

  await until(async () => (await cluster.items(user.uid)).join() === "o2", "the server has the dismissal", 30_000);
  await until(async () => (await state(page, "outbox")) === 0, "the outbox is empty");
});

test("a confirmed dismissal survives a reload at once, without the network", async () => {
  const user = await cluster.user();
  for (const id of ["c1", "c2"]) await cluster.create(user.uid, id, "follow", { title: id });
  const page = await openDevice(user, "phone");
  await until(async () => (await shown(page)) === 2, "both items");
  await until(async () => (await stored(page, "copy")) === 1, "the copy is stored");
  await page.evaluate(() => document.querySelector("gregor-inbox").client.dismiss("c1"));

  cluster.proxy.cut();
  await page.reload();
  await until(() => state(page, "loaded"), "the stored copy is shown");

  const ids = (await state(page, "items")).map(({ id }) => id);
  cluster.proxy.restore();
  assert.deepEqual(ids, ["c2"]);
});
