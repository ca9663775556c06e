/** The elements: keyboard, languages, policies, accessibility. */

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { assertAccessible, elementPage, focused, launch, openPage, picture, STRICT, until } from "./support/browser.mjs";
import { startCluster } from "./support/cluster.mjs";

const TABS = "user=Friends, mail=Mail";
let cluster, browser;

before(async () => ([cluster, browser] = await Promise.all([startCluster(), launch()])));
afterEach(() => cluster.proxy.restore());
after(async () => {
  await browser?.close();
  await cluster?.close();
});

/** Opens a page with an element of a new user with these items, the last one newest. */
async function open(tag, ids, { options = {}, language = {}, attributes = {}, times = {} } = {}) {
  const user = await cluster.user();
  for (const id of ids) await cluster.create(user.uid, id, id < "m" ? "user.joined" : "mail", { title: `Item ${id}`, text: "Text" }, times);
  const given = { url: cluster.origin, token: user.tokens.phone, tabs: TABS, ...attributes };
  const path = `/page-${user.uid}`;
  const url = cluster.proxy.serve(path, elementPage(tag, given, language), { "Content-Security-Policy": STRICT });
  const page = await openPage(browser, url, options);
  await until(() => page.evaluate((name) => document.querySelector(name).client?.getState().loaded, tag), "the state is there");
  return { user, page };
}

test("no view violates a strict policy", async () => {
  const { page } = await open("gregor-bell", ["a1", "b1", "n1"]);

  await page.locator("gregor-bell").click();
  await page.locator("gregor-inbox .item").first().hover();
  await page.locator("gregor-inbox .snooze").first().click();
  await page.locator("gregor-inbox .menu").waitFor();
  await picture(page, "snooze");
  await page.keyboard.press("Escape");
  await page.locator("gregor-inbox .dismiss").first().click();
  await page.locator("gregor-inbox .undo button").waitFor({ state: "attached" });
  await picture(page, "undo");
  await page.locator("gregor-inbox .undo button").dispatchEvent("click"); // on a busy machine, the bar is gone before a real click
  await page.locator("gregor-inbox .earlier").click();
  await page.locator("gregor-inbox .earlier-item").first().waitFor();
  await picture(page, "earlier");
  await page.locator("gregor-inbox .preferences").click();
  await page.locator("gregor-inbox .preferences-view input").first().waitFor();

  assert.deepEqual(page.problems, []);
});

test("new items are announced after the clock of the device was set back", async () => {
  const { user, page } = await open("gregor-inbox", ["a1"]);
  await page.locator("gregor-inbox .item").waitFor();
  const announced = () => page.locator("gregor-inbox [role=status][part=quiet]").last().textContent();
  const create = (id) => cluster.create(user.uid, id, "mail", { title: `Item ${id}`, text: "Text" });
  await create("n1");
  await until(async () => (await announced()).includes("Item n1"), "the item is announced");

  await page.evaluate(() => {
    const now = Date.now;
    Date.now = () => now() - 3_600_000;
  });

  // An announcement follows another after five seconds, so the first ones of these items are silent.
  let last = 0;
  await until(async () => {
    await create(`p${++last}`);
    return !(await announced()).includes("Item n1");
  }, "a later item is announced");
});

for (const [label, options, language] of [
  ["light", { colorScheme: "light" }, {}],
  ["dark", { colorScheme: "dark" }, {}],
  ["right to left", {}, { lang: "ar", dir: "rtl" }],
]) {
  test(`every action works by keyboard: ${label}`, async () => {
    const { user, page } = await open("gregor-inbox", ["a1", "b1", "c1"], { options, language });
    await page.locator("gregor-inbox .item").nth(2).waitFor();

    for (let n = 0; n < 8 && !(await focused(page)).startsWith("LI"); n++) await page.keyboard.press("Tab");
    assert.equal(await focused(page), "LI#c1");
    await picture(page, `keyboard, ${label}`);
    await page.keyboard.press("j");
    assert.equal(await focused(page), "LI#b1");
    await page.keyboard.press("e");
    await until(async () => (await focused(page)) === "LI#a1", "the focus is on the next item");
    await until(async () => (await cluster.items(user.uid)).length === 2, "the item is dismissed");
    await page.locator("gregor-inbox .undo button").waitFor({ state: "attached" });
    await page.keyboard.press("z");
    await until(async () => (await cluster.items(user.uid)).length === 3, "a copy is there");
    await page.keyboard.press("h");
    await page.locator("gregor-inbox .menu").waitFor();
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("Escape");
    await until(async () => (await focused(page)) === "LI#a1", "the focus is back on the item");
    await page.keyboard.press("h");
    await page.locator("gregor-inbox .menu").waitFor();
    await page.keyboard.press("Enter");
    await until(async () => !(await cluster.items(user.uid)).includes("a1"), "the item is snoozed");
  });
}

test("a bell works by keyboard and regains the focus", async () => {
  const { user, page } = await open("gregor-bell", ["a1", "b1", "c1"]);

  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await until(async () => (await focused(page)) === "LI#c1", "the first item has the focus");
  await page.keyboard.press("ArrowDown");
  assert.equal(await focused(page), "LI#b1");
  await page.keyboard.press("e");
  await until(async () => (await cluster.items(user.uid)).length === 2, "the item is dismissed");
  await until(async () => (await focused(page)) === "LI#a1", "the next item has the focus");
  await page.keyboard.press("Escape");
  await page.locator("gregor-inbox").waitFor({ state: "hidden" });
  assert.equal(await focused(page), "BUTTON");
  assert.match(await page.evaluate(() => document.activeElement.shadowRoot.activeElement.part.value), /^bell/);

  await page.keyboard.press("Enter");
  await until(async () => (await focused(page)) === "LI#c1", "the first item has the focus again");
});

/** Opens a bell, and collects its events `gregor-error` from the moment at which it gets these attributes. */
async function openBell(attributes) {
  const { uid, tokens } = await cluster.user();
  const url = cluster.proxy.serve(`/page-${uid}`, elementPage("gregor-bell", { url: cluster.origin }), { "Content-Security-Policy": STRICT });
  const page = await openPage(browser, url);
  await page.evaluate((given) => {
    globalThis.failures = [];
    document.addEventListener("gregor-error", ({ detail }) => globalThis.failures.push(detail.error.message));
    for (const [name, value] of Object.entries(given)) document.querySelector("gregor-bell").setAttribute(name, value);
  }, attributes(tokens));
  return page;
}

test("a token with a wrong signature is reported, and marks the bell", async () => {
  const page = await openBell(({ phone }) => ({ token: `${phone.slice(0, phone.lastIndexOf("."))}.${"A".repeat(43)}` }));

  await page.locator("gregor-bell [part='bell stopped'][aria-label*='Signed out']").click();
  await page.locator("gregor-inbox .status", { hasText: "Signed out" }).waitFor();

  await page.locator("gregor-inbox .empty").waitFor({ state: "hidden" });
  assert.equal(await page.locator("gregor-inbox .panel").getAttribute("aria-busy"), null);
  await assertAccessible(page, "stopped");
  const failures = await page.evaluate(() => globalThis.failures);
  assert.equal(failures.length, 1, failures.join());
  assert.match(failures[0], /^client stopped: 4501/);
});

test("a token URL that fails is reported once", async () => {
  let asked = 0;
  cluster.proxy.serve("/my/token", () => `<p>Sign in (${++asked})</p>`);
  const page = await openBell(() => ({ "token-url": "/my/nothing" }));
  await page.locator("gregor-bell [part='bell offline']").click();
  const failures = () => page.evaluate(() => globalThis.failures);
  await page.waitForResponse((response) => response.url().endsWith("/my/nothing")); // a retry

  assert.equal((await failures()).length, 1);
  assert.match((await failures())[0], /no device token: \/my\/nothing answered 404/);
  await page.evaluate(() => document.querySelector("gregor-bell").setAttribute("token-url", "/my/token"));

  await until(() => asked > 2, "a page that is not a token is requested again");
  assert.equal((await failures()).filter((each) => each.includes("the token is not a JWT")).length, 1);
});

test("tabs filter the list and work with arrow keys", async () => {
  const { page } = await open("gregor-inbox", ["a1", "b1", "n1"]);
  const rows = () => page.locator("gregor-inbox .item").count();

  await page.locator("gregor-inbox [role=tab]", { hasText: "All 3" }).focus();
  await page.keyboard.press("ArrowRight");
  await until(async () => (await rows()) === 2, "only friends");
  await page.keyboard.press("ArrowRight");
  await until(async () => (await rows()) === 1, "only mail");
});

test("dismiss all keeps an item that it did not show", async () => {
  const { user, page } = await open("gregor-inbox", ["a1", "b1"]);
  await page.locator("gregor-inbox .item").nth(1).waitFor();
  cluster.proxy.cut();
  await cluster.create(user.uid, "late", "user.joined", { title: "Late" });
  await page.locator("gregor-inbox .dismiss-all").click();
  cluster.proxy.restore();

  await until(async () => (await cluster.items(user.uid)).join() === "late", "only the late item is left", 30_000);
});

test("unsent items and a lost network are marked", async () => {
  const { user, page } = await open("gregor-bell", ["a1"], { times: { remind_at: [Math.floor(Date.now() / 1_000) + 1] } });
  await page.locator("gregor-bell").click();
  await page.locator("gregor-inbox [data-id=a1] .mark", { hasText: "Reminder" }).waitFor();
  cluster.proxy.cut();
  await page.locator("gregor-inbox .status", { hasText: "Offline" }).waitFor();
  await page.evaluate(() => void document.querySelector("gregor-bell").client.create("mail", { title: "Written offline" }, { id: "n1" }));

  await page.locator("gregor-inbox [data-id=n1] .mark", { hasText: "Not sent yet" }).waitFor();
  await page.locator("gregor-bell [part='bell offline'] .badge", { hasText: "2" }).waitFor();
  await assertAccessible(page, "offline, not sent, reminder");
  cluster.proxy.restore();

  await page.locator("gregor-inbox [data-id=n1] .mark").waitFor({ state: "detached", timeout: 30_000 });
  await page.locator("gregor-inbox .status").waitFor({ state: "hidden" });
  assert.deepEqual((await cluster.items(user.uid)).sort(), ["a1", "n1"]);
});

test("undo brings back the reminders that have not fired", async () => {
  const later = Math.ceil(Date.now() / 1_000) + 3_600;
  const { user, page } = await open("gregor-inbox", ["a1"], { times: { created: 1_000, remind_at: [2_000, later] } });

  await page.locator("gregor-inbox .dismiss").click({ force: true });
  await page.locator("gregor-inbox .undo button").dispatchEvent("click"); // on a busy machine, the bar is gone before a real click

  const copy = await until(async () => {
    const { items } = await cluster.call(`/v1/users/${user.uid}/state`, undefined, "GET");
    return Object.entries(items).find(([id]) => id !== "a1")?.[1];
  }, "a copy is there");
  assert.deepEqual(copy.times, { created: 1_000, remind_at: [later] });
});

test("an earlier item has the title of its notification type", async () => {
  await cluster.call("/v1/categories/invoice", { title: "Invoice {{ body.number }}" }, "PUT");
  const { user, page } = await open("gregor-inbox", []);
  await cluster.create(user.uid, "i1", "invoice", { number: 7 });

  await page.locator("gregor-inbox .item", { hasText: "Invoice 7" }).locator(".dismiss").click({ force: true });
  await page.locator("gregor-inbox .earlier").click();

  await page.locator("gregor-inbox .earlier-item", { hasText: "Invoice 7" }).waitFor();
});

test("items are acknowledged after a second, even in steady traffic", async () => {
  const { user, page } = await open("gregor-inbox", ["a1"]);
  await page.locator("gregor-inbox .item").waitFor();
  const isAcked = async () => {
    const { timeline } = await cluster.call(`/v1/users/${user.uid}/items/a1`, undefined, "GET");
    return timeline.some(({ event }) => event === "acked");
  };

  let sent = 0;
  while (!(await isAcked()) && sent < 15) {
    await cluster.create(user.uid, `more${sent++}`, "mail", { title: "More" });
    await page.waitForTimeout(200);
  }

  console.log(`acknowledged after ${sent} more items`);
  assert.ok(sent < 15, "the traffic delayed the acknowledgement");
});

test("preferences are read and written", async () => {
  const { user, page } = await open("gregor-inbox", ["a1"]);

  await page.locator("gregor-inbox .preferences").click();
  await page.getByLabel("Friends: Push").uncheck();

  await until(
    async () => (await cluster.call(`/v1/users/${user.uid}/preferences`, undefined, "GET")).user?.push === false,
    "the preference is stored",
  );
});

test("quiet hours are set by keyboard, in the zone of the device", async () => {
  const { user, page } = await open("gregor-inbox", [], { options: { timezoneId: "Europe/Rome" } });
  const path = `/v1/users/${user.uid}/contact`;
  const isStored = (wanted) => until(async () => JSON.stringify(await cluster.call(path, undefined, "GET")) === JSON.stringify(wanted), "stored");
  await cluster.call(path, { email: "alice@example.com" }, "PUT");
  const stored = { email: "alice@example.com", timezone: "Europe/Rome" };

  await page.locator("gregor-inbox .preferences").click();
  const from = page.getByLabel("From");
  await from.waitFor();
  assert.equal(await from.isDisabled(), true);
  await page.getByLabel("Quiet hours").focus();
  await page.keyboard.press("Space");
  await isStored({ ...stored, quiet_hours: { from: "22:00", to: "07:00" } });
  await page.keyboard.press("Tab");
  await page.keyboard.type("0930PM");
  await isStored({ ...stored, quiet_hours: { from: "21:30", to: "07:00" } });

  await page.getByLabel("Quiet hours").focus();
  await page.keyboard.press("Space");
  await isStored(stored);
  await page.locator("gregor-inbox fieldset", { hasText: "Europe/Rome" }).waitFor();
});

test("a link without a scheme never leads to another host", async () => {
  const { user, page } = await open("gregor-inbox", []);
  const foreign = ["//evil.example", "/\\evil.example", "/\t/evil.example", "/\n\\evil.example", "/\r\n/evil.example", "\\\\evil.example"];
  const scripts = ["javascript:alert(1)", "\u0001javascript:alert(1)", " java\tscript:alert(1)"];
  const good = ["/mail/7", "/mail//7", "/", "#7", "?mail=7", "https://other.example/7"];
  const links = [...foreign, ...scripts, ...good];
  for (const [n, link] of links.entries()) await cluster.create(user.uid, `n${n}`, "mail", { title: link, link });
  await page.locator("gregor-inbox .item").nth(links.length - 1).waitFor();

  const shown = await page.locator("gregor-inbox .item a").evaluateAll((all) => all.map((each) => each.getAttribute("href")));
  assert.deepEqual(shown.toSorted(), good.toSorted());
});

test("refused quiet hours are reset to the stored ones", async () => {
  const { user, page } = await open("gregor-inbox", []);
  const quiet_hours = { from: "22:00", to: "07:00" };
  await cluster.call(`/v1/users/${user.uid}/contact`, { timezone: "UTC", quiet_hours }, "PUT");
  await page.locator("gregor-inbox .preferences").click();

  await page.getByLabel("To").fill("22:00");

  await page.locator("gregor-inbox", { hasText: "This did not work" }).waitFor();
  await until(async () => (await page.getByLabel("To").inputValue()) === "07:00", "the stored time is shown");
});

for (const [language, direction, quiet] of [["de", "ltr", "Ruhezeit"], ["ar", "rtl", "ساعات الهدوء"]]) {
  test(`preferences are shown in ${language}`, async () => {
    const { page } = await open("gregor-inbox", [], { language: { lang: language, dir: direction } });
    await page.locator("gregor-inbox .preferences").click();
    await page.getByLabel(quiet).check();
    await assertAccessible(page, `preferences, ${language}`);
  });
}

test("Arabic and German have texts and text direction", async () => {
  const arabic = await open("gregor-inbox", [], { language: { lang: "ar", dir: "rtl" } });
  await arabic.page.locator("gregor-inbox", { hasText: "الإشعارات" }).waitFor();
  await picture(arabic.page, "empty, ar");
  assert.equal(await arabic.page.locator("gregor-inbox .panel").getAttribute("dir"), "rtl");
  const times = { created: Math.floor(Date.now() / 1_000) - 120 };
  const german = await open("gregor-inbox", ["a1"], { attributes: { locale: "de-AT" }, times });
  await german.page.locator("gregor-inbox", { hasText: "Benachrichtigungen" }).waitFor();
  await german.page.locator("gregor-inbox time", { hasText: /^vor \d Min\.$/ }).waitFor();
});

for (const [label, options, language] of [
  ["light", { colorScheme: "light" }, {}],
  ["dark at 390 px", { colorScheme: "dark", viewport: { width: 390, height: 800 } }, {}],
  ["right to left", { colorScheme: "light" }, { lang: "ar", dir: "rtl" }],
  ["forced colours", { forcedColors: "active" }, {}],
]) {
  test(`axe finds nothing serious: ${label}`, async () => {
    const { page } = await open("gregor-bell", ["a1", "b1", "n1"], { options, language });
    await page.locator("gregor-bell").click();
    await page.locator("gregor-inbox .item").nth(2).waitFor();
    await page.locator("gregor-inbox [role=tab]").first().waitFor();

    await assertAccessible(page, `list, ${label}`);
    await page.locator("gregor-inbox .preferences").click();
    await page.locator("gregor-inbox .preferences-view input").first().waitFor();
    await assertAccessible(page, `preferences, ${label}`);
  });
}

test("a thousand items are shown", async () => {
  const user = await cluster.user();
  const create = (n) => [`x${n}`, { category: "follow", body: { title: `Follower ${n}` }, times: {} }];
  for (let n = 0; n < 1_000; n += 100) {
    const entries = Array.from({ length: 100 }, (_, m) => create(n + m));
    await cluster.call(`/v1/users/${user.uid}/messages`, { system: "gregor", body: { create: Object.fromEntries(entries) } });
  }
  const html = elementPage("gregor-inbox", { url: cluster.origin, token: user.tokens.phone });
  const page = await openPage(browser, cluster.proxy.serve("/many", html));
  await until(async () => (await page.locator("gregor-inbox .item").count()) === 1_000, "all rows", 20_000);

  const ms = await page.evaluate(async () => {
    const inbox = document.querySelector("gregor-inbox");
    const begun = performance.now();
    await inbox.client.dismiss("x5");
    await new Promise(requestAnimationFrame);
    return performance.now() - begun;
  });
  console.log(`a dismissal among 1,000 rows, with its receipt: ${ms.toFixed(0)} ms`);
  await until(async () => (await page.locator("gregor-inbox .item").count()) === 999, "one row less");
});
