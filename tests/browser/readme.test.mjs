/** The code in the README, the guide for web pages and the reference of the elements works as printed, apart from hosts and tokens. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { endWithProcess, launch, openPage, until } from "./support/browser.mjs";
import { freePorts, GREGOR, root, startCluster } from "./support/cluster.mjs";

const readme = readFileSync(join(root, "README.md"), "utf8");
let cluster, browser;

before(async () => ([cluster, browser] = await Promise.all([startCluster(), launch()])));
after(async () => {
  await browser?.close();
  await cluster?.close();
});

function example(language) {
  const [, code] = readme.split("## In a web page")[1].match(new RegExp("```" + language + "\\n(.*?)```", "s"));
  return code.replaceAll("https://push.example.com", cluster.origin).replace('"gregor-client"', '"/client/index.js"');
}

test("two lines of HTML show badge and list", async () => {
  const user = await cluster.user();
  cluster.proxy.serve("/my/token", user.tokens.phone, { "Content-Type": "text/plain" });
  const code = example("html");
  assert.equal(code.trim().split("\n").length, 2);
  const page = await openPage(browser, cluster.proxy.serve("/two-lines", `<!doctype html><title>t</title>${code}`));

  await cluster.create(user.uid, "hello", "user.joined", { title: "kbob just joined" });

  await page.locator("gregor-bell .badge", { hasText: "1" }).waitFor();
  await page.locator("gregor-bell").click();
  await page.locator("gregor-bell .item", { hasText: "kbob just joined" }).waitFor();
  await page.locator("gregor-bell .dismiss").click({ force: true });
  await until(async () => (await cluster.items(user.uid)).length === 0, "the item is dismissed on the server");
  assert.deepEqual(page.problems, []);
});

test("five lines of JavaScript keep a page in sync", async () => {
  const user = await cluster.user();
  cluster.proxy.serve("/my/token", user.tokens.phone, { "Content-Type": "text/plain" });
  const code = example("js");
  assert.equal(code.trim().split("\n").length, 5);
  const around = `const button = document.querySelector("button"), id = "m1";
    const render = (items, badge) => { document.title = items.map((item) => item.id) + "|" + badge; };`;
  const module = code.replace("\n", `\n${around}\n`);
  cluster.proxy.serve("/five-lines.js", module, { "Content-Type": "text/javascript" });
  const html = '<!doctype html><title>t</title><button>Dismiss</button><script type="module" src="/five-lines.js"></script>';
  const page = await openPage(browser, cluster.proxy.serve("/five-lines", html));

  await cluster.create(user.uid, "m1", "mail", { subject: "Hello" });
  await until(async () => (await page.title()) === "m1|1", "the page shows the item");
  await page.locator("button").click();

  await until(async () => (await page.title()) === "|0", "the page shows the dismissal");
  await until(async () => (await cluster.items(user.uid)).length === 0, "the item is dismissed on the server");
  assert.deepEqual(page.problems, []);
});

/** Returns the code of a section of the guide, with the addresses of the cluster. */
function guideCode(section, language, token = "") {
  const guide = readFileSync(join(root, "docs", "how-to", "web-page.md"), "utf8");
  const [, code] = guide.split(`## ${section}\n`)[1].match(new RegExp("```" + language + "\\n(.*?)```", "s"));
  return code
    .replaceAll("http://127.0.0.1:8700", cluster.addresses.ingest)
    .replaceAll("ws://127.0.0.1:8701", cluster.addresses.gateway)
    .replaceAll("http://127.0.0.1:8702", cluster.addresses.stream)
    .replaceAll("TOKEN", token);
}

/** Returns a page of the guide; each section has one. */
const guidePage = (section, token) => guideCode(section, "html", token);

test("the guide's page with the elements shows an item", async () => {
  const user = await cluster.user();
  const page = await openPage(browser, cluster.proxy.serve("/guide-1", guidePage("With the elements", user.tokens.phone)));
  await cluster.create(user.uid, "g1", "user.joined", { title: "kbob just joined" });

  await page.locator("gregor-bell .badge", { hasText: "1" }).waitFor();
  assert.deepEqual(page.problems, []);
});

test("the guide's endpoint gives the elements a token", async () => {
  const folder = mkdtempSync(join(tmpdir(), "gregor-guide-"));
  const port = await freePorts(1);
  const program = guideCode("With the elements", "python").replace('".venv/bin/gregor"', JSON.stringify(GREGOR)).replace("8000", port);
  mkdirSync(join(folder, "page"));
  writeFileSync(join(folder, "page", "server.py"), program);
  const html = guidePage("With the elements");
  assert.match(html, / token=""/);
  writeFileSync(join(folder, "page", "elements.html"), html.replace('token=""', 'token-url="/my/token"'));
  const env = { ...process.env, GREGOR_URL: cluster.addresses.ingest };
  const server = spawn("python3", ["page/server.py"], { cwd: folder, env, stdio: "ignore" });
  endWithProcess(server);
  const url = `http://127.0.0.1:${port}/elements.html`;
  await until(() => fetch(url).then((response) => response.ok, () => false), "the server of the guide listens");

  const page = await openPage(browser, url);
  await cluster.create("alice", "g0", "user.joined", { title: "kbob just joined" });

  await page.locator("gregor-bell .badge", { hasText: "1" }).waitFor();
  assert.deepEqual(page.problems, []);
  server.kill();
  rmSync(folder, { recursive: true });
});

test("the guide's page with the client dismisses an item", async () => {
  const user = await cluster.user();
  const page = await openPage(browser, cluster.proxy.serve("/guide-2", guidePage("With the client", user.tokens.phone)));
  await cluster.create(user.uid, "g2", "user.joined", { title: "kbob just joined" });

  await page.locator("#list li", { hasText: "kbob just joined" }).waitFor();
  await page.locator("#badge", { hasText: "1" }).waitFor();
  await page.locator("#list button").click();
  await page.locator("#badge", { hasText: "0" }).waitFor();
  await until(async () => (await cluster.items(user.uid)).length === 0, "the item is dismissed on the server");
  assert.deepEqual(page.problems, []);
});

test("the guide's page with a WebSocket shows and dismisses an item", async () => {
  const user = await cluster.user();
  const url = cluster.proxy.serve("/guide-3", guidePage("WebSocket"));
  await showsAndDismisses(user, `${url}#${user.tokens.phone}`);
});

test("the guide's page with server-sent events shows and dismisses an item", async () => {
  const user = await cluster.user();
  const url = cluster.proxy.serve("/guide-4", streamPage());
  await showsAndDismisses(user, `${url}#${user.tokens.phone}`);
});

/** Returns the page of the section on WebSockets with the replacements of the section on server-sent events. */
function streamPage() {
  const page = guidePage("WebSocket");
  const [begin, end] = ["const getToken =", "function receive"].map((text) => page.indexOf(text));
  const getToken = page.slice(begin).match(/.*\n/)[0];
  return page.slice(0, begin).replace(/const GATEWAY.*\n/, "") + getToken + guideCode("Server-sent events", "js") + page.slice(end);
}

async function showsAndDismisses(user, url) {
  const page = await openPage(browser, url);
  await cluster.create(user.uid, "g3", "user.joined", { title: "kbob just joined" });

  await page.locator("#badge", { hasText: "1" }).waitFor();
  await page.locator("#list button").click();
  await page.locator("#badge", { hasText: "0" }).waitFor();
  await until(async () => (await cluster.items(user.uid)).length === 0, "the item is dismissed on the server");
  assert.deepEqual(page.problems, []);
}

test("the policy and the styles of the elements' reference work", async () => {
  const user = await cluster.user();
  const reference = readFileSync(join(root, "docs", "reference", "elements.md"), "utf8");
  const block = (section, language) => reference.split(section)[1].match(new RegExp("```" + language + "\\n(.*?)```", "s"))[1];
  const local = (text) => text.replaceAll("https://push.example.com", cluster.origin).replaceAll("wss://push.example.com", cluster.origin.replace("http", "ws"));
  cluster.proxy.serve("/my/token", user.tokens.phone, { "Content-Type": "text/plain" });
  cluster.proxy.serve("/reference.css", block("## Style", "css"), { "Content-Type": "text/css" });
  const html = `<!doctype html><title>t</title><link rel="stylesheet" href="/reference.css">${local(block("# Elements for web pages", "html").trim())}`;
  const policy = { "Content-Security-Policy": local(block("## Content Security Policy", "").replaceAll("\n", " ")) };
  const page = await openPage(browser, cluster.proxy.serve("/reference", html, policy));
  await cluster.create(user.uid, "g5", "user.joined", { title: "kbob just joined" });

  await page.locator("gregor-bell .badge", { hasText: "1" }).waitFor();
  await page.locator("gregor-bell").click();
  const title = page.locator("gregor-bell .item", { hasText: "kbob just joined" }).locator("[part~=item-title]");
  assert.equal(await title.evaluate((element) => getComputedStyle(element).fontWeight), "500");
  assert.deepEqual(page.problems, []);
});
