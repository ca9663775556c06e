/** What publint and attw find in the package. */

import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Packs the package of a folder, and returns the output of each tool that refuses it. */
export function packageFaults(root) {
  // `attw --pack` would write and delete its file in `root`, where a user may have packed one.
  const folder = mkdtempSync(join(tmpdir(), "gregor-client-"));
  execFileSync("npm", ["pack", "--silent", "--pack-destination", folder], { cwd: root, stdio: "pipe" });
  const tarball = join(folder, readdirSync(folder)[0]);
  const faults = [];
  for (const [tool, options] of [["publint", ["--strict"]], ["attw", [tarball, "--profile", "esm-only"]]]) {
    try {
      execFileSync(join(root, "node_modules", ".bin", tool), options, { cwd: root, stdio: "pipe" });
    } catch (error) {
      faults.push(`${tool}: ${error.stdout}${error.stderr}`);
    }
  }
  rmSync(folder, { recursive: true });
  return faults;
}
