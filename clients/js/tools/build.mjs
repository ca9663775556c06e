/** Builds dist/: one file for each entry point, and the types. `node tools/build.mjs [FOLDER]` */

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { minify } from "terser";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const out = process.argv[2] ?? join(root, "dist");
const entries = ["index", "core", "react", "sw", "inbox", "inbox-more", "conformance"];

/**
 * Members that no page, no frame and no browser API names: they get short names. All private members begin with `_`.
 */
const INTERNAL = [
  "adopt", "alive", "answered", "become", "clock", "completed", "connectionChanged", "connectionNow", "connector", "deleteEntries", "env",
  "following", "fullCopyAt", "freshToken", "guard", "heard", "heardAt", "holdUntil", "identify", "isForeground", "isLooking",
  "isProven", "isVisible", "learn", "mirror", "overlay", "proven", "missed", "monotonic", "needsFull", "nextMoment", "nextTick", "opened", "putEntry",
  "reached", "reconnected", "saveCopy", "sendPending", "sendable", "settle", "shown", "sharedConnection", "stored", "syncedAt", "synchronizer",
  "tabsChanged", "updateForeground", "waited",
];

/** Checked by the tests: none of the names is a name of the public types or of the wire. */
const mangled = new RegExp(`^(_.*|${INTERNAL.join("|")})$`);

rmSync(out, { recursive: true, force: true });
/** The entry points of the elements share objects, so a member has one name in both. */
const shared = {};
for (const name of entries.filter((entry) => existsSync(join(root, "src", `${entry}.ts`)))) {
  const { outputFiles } = await build({
    entryPoints: [join(root, "src", `${name}.ts`)],
    outfile: join(out, `${name}.js`),
    bundle: true,
    format: "esm",
    target: "es2022",
    charset: "utf8",
    platform: name === "conformance" ? "node" : "browser",
    external: ["react", "./index.js", "./inbox-more.js"],
    legalComments: "none",
    write: false,
  });
  const names = name.startsWith("inbox") ? { props: shared.props } : {};
  const { code } = await minify(outputFiles[0].text, {
    module: true,
    ecma: 2022,
    compress: { passes: 3, pure_getters: true, unsafe_arrows: true },
    mangle: { properties: { regex: mangled } },
    nameCache: names,
  });
  if (name.startsWith("inbox")) shared.props = names.props;
  mkdirSync(out, { recursive: true });
  writeFileSync(join(out, `${name}.js`), code);
}
const options = ["--noEmit", "false", "--declaration", "--emitDeclarationOnly", "--outDir", out, "--rootDir", join(root, "src")];
const tsc = join(root, "node_modules", ".bin", "tsc");
execFileSync(tsc, ["-p", join(root, "tsconfig.build.json"), ...options], { stdio: "inherit" });

// Node resolves relative imports of types only with an extension.
for (const name of readdirSync(out, { recursive: true })) {
  const path = join(out, name);
  if (!name.endsWith(".d.ts") || !statSync(path).isFile()) continue;
  const text = readFileSync(path, "utf8");
  writeFileSync(path, text.replace(/((?:from|import\()\s*")(\.{1,2}\/[\w/-]+)(")/g, "$1$2.js$3"));
}
console.log(relative(process.cwd(), out), readdirSync(out).filter((name) => name.endsWith(".js")).join(" "));
