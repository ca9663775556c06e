/**
 * Chromium by the raw DevTools protocol: its pages can be hidden, frozen, and kept in the back/forward cache.
 *
 * Playwright keeps every page visible and focused, so it cannot show these states. Protocol: a pipe of JSON texts, each
 * ended by a NUL.
 */

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { endWithProcess, findChromium, until } from "./browser.mjs";

const OPTIONS = ["--headless", "--no-sandbox", "--no-first-run", "--disable-gpu", "--remote-debugging-pipe"];

export class Chromium {
  #calls = new Map();
  #listeners = new Set();
  #lastId = 0;

  /** Starts a browser with a new profile. `close()` ends it. */
  static async start(...options) {
    const chromium = new Chromium();
    chromium.profile = mkdtempSync(join(tmpdir(), "gregor-chromium-"));
    const all = [...OPTIONS, `--user-data-dir=${chromium.profile}`, ...options, "about:blank"];
    chromium.child = spawn(findChromium(), all, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
    endWithProcess(chromium.child);
    const [, , , input, output] = chromium.child.stdio;
    chromium.input = input;
    let rest = "";
    output.setEncoding("utf8").on("data", (text) => {
      const messages = (rest + text).split("\0");
      rest = messages.pop();
      for (const message of messages) chromium.#receive(JSON.parse(message));
    });
    await chromium.send("Browser.getVersion");
    return chromium;
  }

  /** Sends a command to the browser, or to a page; returns its result. */
  send(method, params = {}, sessionId = undefined) {
    const id = ++this.#lastId;
    this.input.write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return new Promise((resolve, reject) => this.#calls.set(id, { resolve, reject, method }));
  }

  /** Calls `listener` for each event. Returns a function that ends it. */
  on(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #receive(message) {
    if (message.id === undefined) {
      for (const listener of [...this.#listeners]) listener(message);
      return;
    }
    const { resolve, reject, method } = this.#calls.get(message.id);
    this.#calls.delete(message.id);
    if (message.error) reject(new Error(`${method}: ${message.error.message}`));
    else resolve(message.result);
  }

  /** Opens a page in a tab in front, which hides the tab before. `background`: behind it; `newWindow`: beside it. */
  async open(url, options = {}) {
    const { targetId } = await this.send("Target.createTarget", { url, ...options });
    const { sessionId } = await this.send("Target.attachToTarget", { targetId, flatten: true });
    const page = new Page(this, targetId, sessionId);
    await page.send("Page.enable");
    await page.send("Runtime.enable");
    return page;
  }

  /** Returns the service worker whose script has this URL, as a page to evaluate in. */
  async worker(url) {
    const { targetInfos } = await until(async () => {
      const all = await this.send("Target.getTargets", { filter: [{ type: "service_worker" }] });
      return all.targetInfos.some((each) => each.url === url) && all;
    }, `the service worker ${url} runs`);
    const { targetId } = targetInfos.find((each) => each.url === url);
    const { sessionId } = await this.send("Target.attachToTarget", { targetId, flatten: true });
    return new Page(this, targetId, sessionId);
  }

  async close() {
    const ended = new Promise((resolve) => this.child.once("exit", resolve));
    this.child.kill();
    await ended;
    // Its child processes may still write for a moment; a retry of `rmSync` does not look for new files.
    await until(() => removed(this.profile), "the profile is removed");
  }
}

function removed(folder) {
  try {
    rmSync(folder, { recursive: true, force: true });
    return true;
  } catch {
    return false;
  }
}

export class Page {
  constructor(chromium, targetId, sessionId) {
    Object.assign(this, { chromium, targetId, sessionId });
  }

  send(method, params) {
    return this.chromium.send(method, params, this.sessionId);
  }

  /** Evaluates an expression in the page, and waits for its promise. */
  async evaluate(expression) {
    const options = { expression, awaitPromise: true, returnByValue: true };
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", options);
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  /** Waits until an expression is true in the page. Returns the milliseconds that it took. */
  async waitFor(expression, timeoutMs = 20_000) {
    const begun = performance.now();
    await until(() => this.evaluate(expression).catch(() => false), expression, timeoutMs);
    return performance.now() - begun;
  }

  /** Brings the tab to the front, and hides the one that was there. */
  show() {
    return this.send("Page.bringToFront");
  }

  freeze() {
    return this.send("Page.setWebLifecycleState", { state: "frozen" });
  }

  thaw() {
    return this.send("Page.setWebLifecycleState", { state: "active" });
  }

  close() {
    return this.chromium.send("Target.closeTarget", { targetId: this.targetId });
  }
}
