/** The list `INTERNAL` of the build: members that get short names must have no meaning outside of a bundle. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const read = (path: string) => readFileSync(path, "utf8");
const list = /const INTERNAL = \[([^\]]*)\]/.exec(read("tools/build.mjs"))![1]!;
const internal = [...list.matchAll(/"(\w+)"/g)].map(([, name]) => name!);

test("no internal member is a name of the public types", () => {
  const types = read("src/types.ts").replace(/\/\*[\s\S]*?\*\//g, "");
  assert.ok(internal.length > 30);
  assert.deepEqual(internal.filter((name) => new RegExp(`\\b${name}\\b`).test(types)), []);
});

test("no internal member is a name on the wire", () => {
  const pages = ["websocket.md", "http.md"].map((page) => read(`../../docs/reference/${page}`)).join("\n");
  assert.deepEqual(internal.filter((name) => pages.includes(`"${name}"`)), []);
});

test("no internal member is a name of the browser that the sources use as a string", () => {
  const globals = new Set([...Object.getOwnPropertyNames(globalThis), ...Object.getOwnPropertyNames(EventTarget.prototype)]);
  assert.deepEqual(internal.filter((name) => globals.has(name)), []);
});
