/** Builds dist/: one file for each entry point, and the types. `node tools/build.mjs [FOLDER]` */

import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const out = process.argv[2] ?? join(root, "dist");
const entries = ["index", "core", "react", "sw", "inbox", "inbox-more"].filter((name) => existsSync(join(root, "src", `${name}.ts`)));

rmSync(out, { recursive: true, force: true });
await build({
  entryPoints: entries.map((name) => join(root, "src", `${name}.ts`)),
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  external: ["react", "./index.js", "./inbox-more.js"],
  legalComments: "none",
  // Private members have no meaning outside of a bundle.
  mangleProps: /^_/,
});
const options = ["--noEmit", "false", "--declaration", "--emitDeclarationOnly", "--outDir", out, "--rootDir", join(root, "src")];
const tsc = join(root, "node_modules", ".bin", "tsc");
execFileSync(tsc, ["-p", join(root, "tsconfig.build.json"), ...options], { stdio: "inherit" });

// Node resolves relative imports of types only with an extension.
for (const name of readdirSync(out)) {
  if (!name.endsWith(".d.ts")) continue;
  const path = join(out, name);
  const text = readFileSync(path, "utf8").replace(/((?:from|import\()\s*")(\.\/[\w-]+)(")/g, "$1$2.js$3");
  writeFileSync(path, text);
}
console.log(relative(process.cwd(), out), readdirSync(out).filter((name) => name.endsWith(".js")).join(" "));
