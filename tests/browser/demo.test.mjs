/** The demo of `gregor dev`: each story happens on both devices. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { assertAccessible, focused, launch, openPage, picture } from "./support/browser.mjs";
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

test("a click on a push opens its item", async () => {
  const page = await openDemo();
  await page.locator("[data-story=away]").click();

  await page.locator("#phone .popup", { hasText: "A proof of carla broke" }).click({ timeout: 20_000 });

  await happened(page, "Phone: you opened “A proof of carla broke”");
  assert.equal(await page.locator("#phone [data-switch=screen]").isChecked(), true);
  assert.equal(await page.locator("#phone .popup").count(), 0);
  assert.match(await focused(page), /^LI#/);
  assert.equal(await page.locator("#tablet [data-switch=screen]").isChecked(), false);
});

test("a click on a dark screen wakes it, and so does the next story", async () => {
  const page = await openDemo();
  await page.locator("[data-story=away]").click();
  await happened(page, "The item arrived on both devices");

  await page.locator("#phone .lock").click();
  await page.locator("#phone .item").waitFor();
  assert.equal(await page.locator("#tablet .lock").isVisible(), true);
  await page.locator("[data-story=joined]").click();

  await page.locator("#tablet .popup", { hasText: "kbob just joined" }).waitFor();
  assert.equal(await page.locator("#tablet .lock").isVisible(), false);
});

test("a story does not turn on a screen that the user turned off", async () => {
  const page = await openDemo();
  await page.locator("#tablet [data-switch=screen]").uncheck();

  await page.locator("[data-story=joined]").click();

  await page.locator("#phone .item", { hasText: "kbob just joined" }).waitFor();
  assert.equal(await page.locator("#tablet .lock").isVisible(), true);
});

test("only the newest push is kept while a device is offline", async () => {
  const page = await openDemo();
  await page.locator("#tablet [data-switch=network]").uncheck();
  for (const device of ["#phone", "#tablet"]) await page.locator(`${device} [data-switch=screen]`).uncheck();
  for (const story of ["joined", "invite"]) {
    await page.locator(`[data-story=${story}]`).click();
    await page.locator("#phone .popup").nth(story === "joined" ? 0 : 1).waitFor({ timeout: 20_000 });
  }
  await page.locator("#log li", { hasText: "Tablet: it has no network, so the push service keeps" }).nth(1).waitFor({ timeout: 20_000 });
  await picture(page, "demo, kept pushes");
  assert.equal(await page.locator("#tablet .popup").count(), 0);

  await page.locator("#tablet [data-switch=network]").check();

  await page.locator("#tablet .popup", { hasText: "You just shared" }).waitFor();
  assert.equal(await page.locator("#tablet .popup").count(), 1);
});

test("a push that was withdrawn meanwhile is never shown", async () => {
  const page = await openDemo();
  await page.locator("#tablet [data-switch=network]").uncheck();
  await page.locator("[data-story=away]").click();
  await happened(page, "Tablet: it has no network, so the push service keeps");

  await page.locator("#phone .popup").click();
  await page.locator("#phone .dismiss").click({ force: true });
  await happened(page, "Tablet: a withdrawal replaced the push");
  await page.locator("#tablet [data-switch=network]").check();

  await page.locator("#tablet .signal", { hasText: "online" }).waitFor();
  assert.equal(await page.locator("#tablet .popup").count(), 0);
});

test("a withdrawal reports that the screen is already on", async () => {
  const page = await openDemo();
  await page.locator("[data-story=away]").click();
  for (const device of ["#phone", "#tablet"]) await page.locator(`${device} .popup`).waitFor({ timeout: 20_000 });

  await page.evaluate(() => {
    document.querySelector("#tablet .lock").click();
    document.querySelector("#phone gregor-inbox").shadowRoot.querySelector(".dismiss").click();
  });

  await happened(page, "Tablet: a withdrawal found no push to remove, because the screen is on");
});

test("dismissing all logs a single item in the singular", async () => {
  const page = await openDemo();
  await page.locator("[data-story=joined]").click();
  await page.locator("#phone .item").waitFor();

  await page.locator("#phone .dismiss-all").click();

  await happened(page, "Phone: you dismissed the only item that it shows.");
});

for (const colorScheme of ["light", "dark"]) {
  test(`the status fits into a narrow screen: ${colorScheme}`, async () => {
    const page = await openDemo({ colorScheme, viewport: { width: 390, height: 844 } });
    await page.locator("[data-story=joined]").click();
    await page.locator("#tablet .item").waitFor();
    await page.locator("#tablet [data-switch=network]").uncheck();
    await page.locator("#tablet .dismiss").click({ force: true });

    await page.locator("#tablet .signal", { hasText: "offline · 1 waiting" }).waitFor();
    await picture(page, `demo, narrow offline, ${colorScheme}`);
    const bar = await page.locator("#tablet .statusbar").evaluate((bar) => {
      const [clock, signal] = [...bar.children].map((each) => each.getBoundingClientRect());
      const { scrollWidth, clientWidth } = bar.lastElementChild;
      return { gap: signal.left - clock.right, lines: signal.height / clock.height, cut: scrollWidth - clientWidth };
    });
    assert.ok(bar.gap >= 4, `${bar.gap} px between clock and status`);
    assert.equal(bar.lines, 1);
    assert.ok(bar.cut <= 0, `${bar.cut} px of the status are cut`);
  });
}

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
