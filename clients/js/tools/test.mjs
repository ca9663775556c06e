/** Bundles the tests and runs them with node:test. `node tools/test.mjs [NAME …]` runs the files that contain a name. */

import { spawnSync } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const out = join(root, "node_modules", ".cache", "tests");
const names = process.argv.slice(2);
const files = readdirSync(join(root, "test")).filter(
  (name) => /\.test\.tsx?$/.test(name) && (!names.length || names.some((part) => name.includes(part))),
);

rmSync(out, { recursive: true, force: true });
await build({
  entryPoints: files.map((name) => join(root, "test", name)),
  outdir: out,
  bundle: true,
  packages: "external",
  format: "esm",
  platform: "node",
  target: "node20",
  sourcemap: "inline",
  jsx: "automatic",
  logLevel: "warning",
});
const built = readdirSync(out).map((name) => join(out, name));
const done = spawnSync(process.execPath, ["--enable-source-maps", "--test", "--test-reporter=spec", ...built], {
  stdio: "inherit",
  cwd: root,
});
process.exit(done.status ?? 1);
