/** The packed package, and the list `INTERNAL` of the build: members that get short names must have no meaning outside of a bundle. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { test } from "node:test";
// @ts-expect-error The tools have no types.
import { packageFaults } from "../tools/package_faults.mjs";

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

test("the packed package has the licence of the project", () => {
  const [{ files }] = JSON.parse(execFileSync("npm", ["pack", "--dry-run", "--json"], { encoding: "utf8", stdio: "pipe" }));
  const paths = files.map(({ path }: { path: string }) => path);
  assert.ok(paths.includes("LICENSE"), paths.join());
  assert.equal(read("LICENSE"), read("../../LICENSE"));
});

test("checking the package keeps the file that npm pack made", () => {
  const { name, version } = JSON.parse(read("package.json"));
  const tarball = `${name}-${version}.tgz`;
  const isPlaced = !existsSync(tarball);
  if (isPlaced) writeFileSync(tarball, "packed by a user");
  const before = read(tarball);

  assert.deepEqual(packageFaults("."), []);

  assert.equal(existsSync(tarball) && read(tarball), before);
  if (isPlaced) rmSync(tarball);
});
