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
 * Members that no page, no frame, no message between tabs and no browser API that we use names: they get short names.
 * All private members begin with `_`.
 */
const INTERNAL = [
  "adopt", "alive", "answered", "applied", "changes", "clock", "completed", "computed", "connectionChanged", "connectionNow",
  "connector", "deleteEntries", "endpoints", "env", "finish", "follow", "following", "forward", "freshToken", "fullCopyAt", "guard",
  "heard", "heardAt", "holdUntil", "identify", "isForeground", "isUserOfToken", "launch", "learn", "listen", "load", "markChanged",
  "mirror", "missed",
  "monotonic", "needsFull", "nextMoment", "nextTick", "opened", "over", "overlay", "position", "proven", "putEntry",
  "reached", "receive", "reconnected", "reportForeground", "resume", "saveCopy", "seen", "sendPending", "sendable", "setUser", "settle", "sharedConnection",
  "shares", "shown", "start", "startTimer", "stop", "stopTimer", "stored", "suspend", "synced", "syncedAt", "synchronizer", "tabsChanged", "tick",
  "updateForeground", "visibilityChanged", "visible", "waited", "wake", "wantedAck", "wipe",
];

/** Checked by the tests: none of the names is a name of the public types or of the wire. */
const mangled = new RegExp(`^(_.*|${INTERNAL.join("|")})$`);

const minified = (name, text, nameCache) =>
  minify(text, {
    module: true,
    ecma: 2022,
    // `unsafe`: `Error(…)` without `new`, and similar, unless a page replaces the built-in classes of the language.
    compress: { passes: 3, pure_getters: true, unsafe: true, unsafe_arrows: true, conditionals: name.startsWith("inbox") },
    // The conformance kit names members by strings.
    mangle: { properties: name !== "conformance" && { regex: mangled, builtins: true } },
    nameCache,
  });

const ALPHABET = [..."etnsriocaulhdfpgmvybwxkjqz_$ETNSRIOCAULHDFPGMVYBWXKJQZ"];

/** Returns names for these members: the shortest for those that occur most often in `code`, which has the names `before`. */
function shortest(before, code) {
  const words = code.match(/[\w$]+/g);
  const uses = new Map();
  for (const word of words) uses.set(word, (uses.get(word) ?? 0) + 1);
  const members = [...code.matchAll(/\.([\w$]+)|([\w$]+):/g)].map(([, read, written]) => read ?? written);
  const ours = new Set(Object.values(before));
  const types = readFileSync(join(root, "src", "types.ts"), "utf8").replace(/\/\*[^]*?\*\//g, "");
  const taken = new Set([...members.filter((name) => !ours.has(name)), ...types.match(/\w+/g)]);
  const free = [...ALPHABET, ...ALPHABET.flatMap((first) => ALPHABET.map((second) => first + second))].filter(
    (name) => !taken.has(name) && !["as", "do", "if", "in", "is", "of"].includes(name),
  );
  const byUse = Object.keys(before).sort((a, b) => (uses.get(before[b]) ?? 0) - (uses.get(before[a]) ?? 0));
  return Object.fromEntries(byUse.map((name, at) => [name, free[at]]));
}

rmSync(out, { recursive: true, force: true });
/** The entry points of the elements share objects, so a member has one name in both. */
let shared;
for (const name of entries.filter((entry) => existsSync(join(root, "src", `${entry}.ts`)))) {
  const isInbox = name.startsWith("inbox");
  const { outputFiles } = await build({
    entryPoints: [join(root, "src", `${name}.ts`)],
    outfile: join(out, `${name}.js`),
    bundle: true,
    format: "esm",
    target: "es2022",
    charset: "utf8",
    platform: name === "conformance" ? "node" : "browser",
    external: ["react", "./index.js", "./inbox.js", "./inbox-more.js"],
    legalComments: "none",
    // Smaller for the elements; the other entry points are smaller without class fields.
    ...(isInbox && { tsconfigRaw: { compilerOptions: { useDefineForClassFields: true, verbatimModuleSyntax: true } } }),
    minifySyntax: !isInbox,
    write: false,
  });
  const { text } = outputFiles[0];
  const names = isInbox ? { props: shared } : {};
  let { code } = await minified(name, text, names);
  if (isInbox) shared = names.props;
  else if (name !== "conformance") {
    names.props = { props: shortest(names.props.props, code) };
    ({ code } = await minified(name, text, names));
  }
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
