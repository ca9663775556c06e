/** What happens between a page and the cluster: crashes, shutdowns, proxies that cut or buffer, hosts without TLS. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { elementPage, launch, openPage, until } from "./support/browser.mjs";
import { startCluster } from "./support/cluster.mjs";
import { hasProgram, startHaproxy, startNginx } from "./support/proxies.mjs";

const LAN = "gregor.lan";
let cluster, browser;

before(async () => {
  [cluster, browser] = await Promise.all([
    startCluster({ GREGOR_ORIGINS: `http://127.0.0.1:*,http://${LAN}:*` }),
    launch(`--host-resolver-rules=MAP ${LAN} 127.0.0.1`),
  ]);
});
after(async () => {
  await browser?.close();
  await cluster?.close();
});

/** Opens a page of a new user that reaches the cluster by `origin`. */
async function open(origin = cluster.origin, options = {}) {
  const user = await cluster.user();
  const path = `/failures-${user.uid}`;
  const url = `${origin}/of/${user.uid}`;
  cluster.proxy.serve(path, elementPage("gregor-inbox", { url, token: user.tokens.phone }));
  const page = await openPage(browser, origin + path, options);
  await until(async () => (await connection(page)).status === "connected", "the page is connected");
  return { user, page, url: origin + path };
}

/** Connections of 2 s are no good ones: the client waits up to 20 s before the next, and may be cut again before it sends. */
const BACKOFF_MS = 90_000;

function connection(page) {
  return page.evaluate(() => document.querySelector("gregor-inbox").client?.connection ?? {});
}

/** Creates an item and waits until the page shows it. */
async function receives(page, user, id) {
  await cluster.create(user.uid, id, "follow", { title: id });
  await page.locator(`gregor-inbox [data-id=${id}]`).waitFor({ timeout: BACKOFF_MS });
}

/** Dismisses an item in the page and waits until the server has it. */
async function dismisses(page, user, id, timeoutMs) {
  // Not by the mouse: the line "offline" comes and goes, and moves the button.
  await page.locator(`gregor-inbox [data-id=${id}] .dismiss`).dispatchEvent("click");
  await until(async () => !(await cluster.items(user.uid)).includes(id), "the item is dismissed on the server", timeoutMs);
}

/** Sends a signal to the gateway; `gregor dev` starts it again. */
function signalGateway(signal) {
  const children = readFileSync(`/proc/${cluster.pid}/task/${cluster.pid}/children`, "utf8").trim().split(" ");
  const pid = children.find((each) => readFileSync(`/proc/${each}/cmdline`, "utf8").includes("gregor_gateway"));
  process.kill(Number(pid), signal);
}

for (const [how, signal] of [["is killed", "SIGKILL"], ["shuts down", "SIGTERM"]]) {
  test(`a page catches up after its gateway ${how}`, async () => {
    const { user, page } = await open();
    await receives(page, user, "a");

    signalGateway(signal);
    await until(async () => (await connection(page)).status !== "connected", "the connection is lost");
    await cluster.create(user.uid, "b", "follow", { title: "b" });
    await page.locator("gregor-inbox [data-id=a] .dismiss").click({ force: true });

    await page.locator("gregor-inbox [data-id=b]").waitFor();
    await until(async () => (await cluster.items(user.uid)).join() === "b", "the server has the dismissal");
    assert.equal((await connection(page)).status, "connected");
  });
}

test("a page falls back to a stream and returns to WebSocket", async () => {
  cluster.proxy.refusesWebSockets = true;
  const { user, page } = await open();
  assert.equal((await connection(page)).transport, "sse");
  await receives(page, user, "a");
  await dismisses(page, user, "a");

  cluster.proxy.refusesWebSockets = false;

  await until(async () => (await connection(page)).transport === "websocket", "the page is back on WebSocket", 60_000);
  await receives(page, user, "b");
});

test("a page polls behind an nginx that buffers streams", { skip: !hasProgram("nginx") && "nginx is not installed" }, async () => {
  const nginx = await startNginx(cluster.proxy.origin);
  try {
    const { user, page } = await open(nginx.origin);
    assert.equal((await connection(page)).transport, "poll");
    await receives(page, user, "a");
    await dismisses(page, user, "a");
  } finally {
    await nginx.close();
  }
});

test("a page survives a haproxy that cuts idle connections", { skip: !hasProgram("haproxy") && "haproxy is not installed" }, async () => {
  const haproxy = await startHaproxy(cluster.proxy.origin, "2s");
  try {
    const { user, page } = await open(haproxy.origin);
    for (const id of ["a", "b", "c"]) {
      const before = cluster.proxy.opened.get(user.uid);
      await until(() => cluster.proxy.opened.get(user.uid) > before, "the idle connection was cut, and made again", BACKOFF_MS);
      await receives(page, user, id);
      await dismisses(page, user, id, BACKOFF_MS);
    }
  } finally {
    await haproxy.close();
  }
});

test("pages of a host without TLS share their state", async () => {
  const { user, page, url } = await open(cluster.origin.replace("127.0.0.1", LAN));
  assert.equal(await page.evaluate("isSecureContext || 'locks' in navigator"), false);
  const second = await openPage(browser, url, { context: page.context() });
  await receives(page, user, "a");
  await second.locator("gregor-inbox [data-id=a]").waitFor();

  await dismisses(second, user, "a");

  await page.locator("gregor-inbox [data-id=a]").waitFor({ state: "detached" });
  await until(() => cluster.proxy.open(user.uid) === 1, "one connection for both");
});
