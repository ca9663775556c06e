/** Checks the package: dist is what the sources build, the sizes and the API report hold, publint and attw find nothing. */

import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { ENTRIES, report } from "./api.mjs";
import { packageFaults } from "./package_faults.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
/** Largest size of each entry point with all that it contains, in bytes after `gzip -9`. */
const LIMITS = { index: 12_416, core: 8_288, react: 1_024, sw: 2_048, inbox: 8_192, "inbox-more": 4_608 };
const faults = [];

const built = mkdtempSync(join(tmpdir(), "gregor-client-"));
execFileSync(process.execPath, [join(root, "tools", "build.mjs"), built], { stdio: "ignore" });
const names = (folder) => readdirSync(folder, { recursive: true }).filter((name) => statSync(join(folder, name)).isFile());
for (const name of new Set([...names(built), ...names(join(root, "dist"))])) {
  const [now, kept] = [built, join(root, "dist")].map((folder) => existsSync(join(folder, name)) && readFileSync(join(folder, name)));
  if (!now || !kept || !now.equals(kept)) faults.push(`dist/${name} differs from the sources: npm run build, and commit it`);
}
for (const entry of ENTRIES) {
  const path = join(root, "api", `${entry}.api.txt`);
  if (existsSync(path) && readFileSync(path, "utf8") === report(built, entry)) continue;
  faults.push(`the API of ${entry} differs from api/${entry}.api.txt: if that is intended, run node tools/api.mjs, and commit it`);
}
rmSync(built, { recursive: true });

for (const [name, limit] of Object.entries(LIMITS)) {
  const path = join(root, "dist", `${name}.js`);
  if (!existsSync(path)) continue;
  const size = gzipSync(readFileSync(path), { level: 9 }).length;
  console.log(`${name.padEnd(10)} ${String(size).padStart(6)} of ${limit} bytes`);
  if (size > limit) faults.push(`dist/${name}.js has ${size} bytes, more than ${limit}`);
}

faults.push(...packageFaults(root));

for (const fault of faults) console.error(`check: ${fault}`);
process.exit(faults.length ? 1 : 0);
