/** Chromium for the stories, and helpers for their pages. */

import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { loadavg } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const PLACES = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** The policy of the strictest pages: no inline code or style, and Trusted Types. */
export const STRICT =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws:; base-uri 'none'; form-action 'none'; " +
  "require-trusted-types-for 'script'";

/** Returns the path of Chromium. */
export function findChromium() {
  const path = PLACES.find((place) => place && existsSync(place));
  if (!path) throw new Error("no Chromium found: install the package chromium, or set CHROMIUM to its path");
  return path;
}

export function launch(...options) {
  return chromium.launch({ executablePath: findChromium(), args: ["--no-sandbox", ...options] });
}

/** Opens a page in a context with its own storage, and collects its errors and policy violations. */
export async function openPage(browser, url, options = {}) {
  const context = options.context ?? (await browser.newContext(options));
  const page = await context.newPage();
  page.problems = [];
  page.on("pageerror", (error) => page.problems.push(error.message));
  page.on("console", (message) => /Content.Security|TrustedHTML/.test(message.text()) && page.problems.push(message.text()));
  await page.goto(url);
  return page;
}

/** Returns a page with a bell or an inbox; `attributes` go to the element. */
export function elementPage(tag, attributes, { lang = "en", dir = "ltr" } = {}) {
  const given = Object.entries(attributes).map(([name, value]) => `${name}="${value}"`).join(" ");
  return `<!doctype html><html lang="${lang}" dir="${dir}"><meta charset="utf-8"><title>Page</title>
<meta name="color-scheme" content="light dark"><meta name="viewport" content="width=device-width">
<script type="module" src="/client/inbox.js"></script><main><h1>Page</h1><${tag} ${given}></${tag}></main></html>`;
}

/** Writes a picture of the page to the folder SCREENSHOTS, if it is set: a person must look at it. */
export async function picture(page, name) {
  const folder = process.env.SCREENSHOTS;
  if (!folder) return;
  mkdirSync(folder, { recursive: true });
  // Without the first frames of animations.
  await page.waitForTimeout(600);
  await page.screenshot({ path: join(folder, `${name}.png`) });
}

/** Fails if axe finds something serious in the page. `label` also names the picture of the page. */
export async function assertAccessible(page, label) {
  // A row that fades in has too little contrast for a moment.
  await page.emulateMedia({ reducedMotion: "reduce" });
  await picture(page, label);
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const serious = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  assert.deepEqual(serious.map(({ id, nodes }) => `${label}: ${id} ${nodes[0].html.slice(0, 120)}`), []);
}

/** Waits until `probe` returns a true value, and returns it. */
export async function until(probe, what, timeoutMs = 30_000) {
  const end = performance.now() + timeoutMs;
  for (;;) {
    const found = await probe();
    if (found) return found;
    if (performance.now() > end) assert.fail(`not within ${timeoutMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Runs a measurement until it returns at most `limitMs`, three times at most: a busy machine may delay one. */
export async function withinMs(limitMs, what, measure) {
  const times = [];
  while (times.length < 3 && !(times.at(-1) <= limitMs)) times.push(Math.round(await measure()));
  console.log(`${what}: ${times.join(", ")} ms (limit ${limitMs} ms, load ${loadavg()[0].toFixed(1)})`);
  assert.ok(times.at(-1) <= limitMs, `${what} took ${times.join(", ")} ms, more than ${limitMs} ms`);
}

/** Runs a measurement that returns times until their quantiles are below `limits`, such as `{ 0.5: 50 }`; three times at most. */
export async function quantilesWithin(limits, what, measure) {
  for (let round = 1; ; round++) {
    const times = (await measure()).sort((a, b) => a - b);
    const found = Object.entries(limits).map(([share, limit]) => ({ share, limit, ms: times[Math.floor(share * (times.length - 1))] }));
    const text = found.map(({ share, limit, ms }) => `p${share * 100} ${ms.toFixed(1)} ms${limit < Infinity ? ` (limit ${limit} ms)` : ""}`).join(", ");
    console.log(`${what}, ${times.length} tries: ${text}, load ${loadavg()[0].toFixed(1)}`);
    if (found.every(({ limit, ms }) => ms <= limit)) return;
    assert.ok(round < 3, `${what}: ${text}`);
  }
}

/** Kills a child process when this one ends, also after a failure. */
export function endWithProcess(child) {
  process.once("exit", () => child.kill());
}

/** Returns the element that has the focus, through shadow roots, as `TAG#id.part`. */
export function focused(page) {
  return page.evaluate(() => {
    let element = document.activeElement;
    while (element?.shadowRoot?.activeElement) element = element.shadowRoot.activeElement;
    return `${element.tagName}${element.dataset.id ? `#${element.dataset.id}` : ""}`;
  });
}
