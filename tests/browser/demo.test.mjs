/** The demo of `gregor dev`: each story happens on both devices. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { assertAccessible, launch, openPage, picture } from "./support/browser.mjs";
import { startCluster } from "./support/cluster.mjs";

let cluster, browser;

before(async () => ([cluster, browser] = await Promise.all([startCluster(), launch()])));
after(async () => {
  await browser?.close();
  await cluster?.close();
});

async function openDemo(options = {}) {
  const page = await openPage(browser, `${cluster.addresses.ingest}/demo`, options);
  await happened(page, "Both devices are connected");
  return page;
}

function happened(page, sentence) {
  return page.locator("#log li", { hasText: sentence }).first().waitFor({ timeout: 20_000 });
}

test("a friend joins, and a dismissal reaches the tablet", async () => {
  const page = await openDemo();
  await page.locator("[data-story=joined]").click();
  for (const device of ["#phone", "#tablet"]) await page.locator(`${device} .item`, { hasText: "kbob just joined" }).waitFor();

  await page.locator("#phone .dismiss").click({ force: true });

  await happened(page, "Tablet: “kbob just joined” is gone too");
  await picture(page, "demo, dismissed");
  assert.match(await page.locator("#latency").innerText(), /^[\d.]+ ms$/);
  assert.deepEqual(page.problems, []);
});

test("followers become a summary, and a reminder fires", async () => {
  const page = await openDemo();
  await page.locator("[data-story=invite]").click();
  for (let n = 0; n < 3; n++) await page.locator("[data-story=follower]").click();

  await page.locator("#tablet .item", { hasText: "3 people follow you" }).waitFor({ timeout: 20_000 });
  await happened(page, "A reminder of “You just shared with bob@twitter” fired");
  await page.locator("#phone .item[data-due]").waitFor();
  await picture(page, "demo, summary and reminder");
});

test("a favourite is deleted by an external message", async () => {
  const page = await openDemo();
  await page.locator("[data-story=favourite]").click();

  await happened(page, "Tablet: a message of kbfs.favorites arrived");
  await picture(page, "demo, favourite");
  assert.deepEqual(await page.locator("#tablet .favourites li").allInnerTexts(), ["alice", "alice,bob"]);
});

test("a push reaches dark screens and is withdrawn", async () => {
  const page = await openDemo();
  await page.locator("[data-story=away]").click();
  for (const device of ["#phone", "#tablet"]) await page.locator(`${device} .popup`, { hasText: "A proof of carla broke" }).waitFor({ timeout: 20_000 });
  await picture(page, "demo, away");

  await page.locator("#phone [data-switch=screen]").check();
  await page.locator("#phone .dismiss").click({ force: true });

  await happened(page, "Tablet: a withdrawal removed the push");
  assert.equal(await page.locator("#tablet .popup").count(), 0);
});

test("a device catches up after a lost network", async () => {
  const page = await openDemo();
  await page.locator("[data-story=offline]").click();

  await page.locator("#phone .item").nth(1).waitFor();
  assert.equal(await page.locator("#tablet .item").count(), 0);
  await picture(page, "demo, tunnel");
  await happened(page, "Tablet: it caught up with “New device: work laptop”");
});

for (const [label, options] of [
  ["light", { colorScheme: "light" }],
  ["dark at 390 px", { colorScheme: "dark", viewport: { width: 390, height: 844 } }],
]) {
  test(`axe finds nothing serious in the demo: ${label}`, async () => {
    const page = await openDemo(options);
    await page.locator("[data-story=joined]").click();
    await happened(page, "Tablet: “kbob just joined” arrived");

    const beside = await page.locator(".popup").evaluateAll((all) => {
      const end = (element) => element.getBoundingClientRect().right;
      return all.filter((popup) => end(popup) > end(popup.closest(".bezel"))).length;
    });
    assert.equal(beside, 0, "a pop-up is wider than its device");
    await assertAccessible(page, `demo, ${label}`);
    const width = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(width <= 0, `the page is ${width} px too wide`);
  });
}
