/** Plants faults in the sharing of one connection: `node tools/mutants.mjs [NAME …]`. The random walk over tabs must fail with each. */

import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

/** Name, file, the text to replace, and its replacement. */
const MUTANTS = [
  ["never yields when hidden", "tabs", "(this._client.env.visible() ? 2 : 0)", "2"],
  ["steals the lock", "tabs", "{ signal: request.signal }", "{ signal: request.signal, steal: true } as any"],
  ["never connects after silence", "tabs", "this._leader = null;\n      connector.start();", "this._leader = null;"],
  ["two leaders", "tabs", "client.connector.stop();\n        this._releaseLock();", ""],
  ["the foreground of one tab only", "full", "this.isForeground || !!this._tabs?.foreground", "this.isForeground"],
  ["a tab ignores the acks of others", "tabs", "if (isSame) client.seen(message.ack);", "if (isSame);"],
  ["a new connection does not repeat the ack", "client", "this.seen(wantedAck);", ""],
  ["stays suspended after the back/forward cache", "tabs", "this._suspended = false;\n    this._leader", "this._leader"],
  ["keeps the lock after stop", "tabs", "this._releaseLock();\n    this.post({ type: \"bye\" })", "this.post({ type: \"bye\" })"],
  ["keeps its connection after stop", "tabs", "this._client.connector.stop();\n    this._releaseLock();", "this._releaseLock();"],
  ["frames are not forwarded", "full", "this._tabs?.forward(frame)", "void 0"],
  ["a follower never asks for a copy", "tabs", "message.count !== this._frameNumber)) this._requestCopy();", "message.count !== this._frameNumber)) void 0;"],
  ["entries of other tabs are ignored", "tabs", "return client.adopt(message.entry);", "return;"],
  ["answers are not shared", "tabs", "return client.finish(message.done);", "return;"],
  ["never tries again", "connector", "this._retryTimer = env.startTimer(() => this._connect(), delay);", ""],
];

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const out = join(root, "node_modules", ".cache", "mutants");
const wanted = process.argv.slice(2);
const survivors = [];
/** Time limit of the walks with one fault. Without a fault they take 20 s of CPU. */
const LIMIT_MS = 120_000;

/** Runs the walks with a fault. Returns the result: `caught`, `SURVIVED`, or `no end`. */
async function walk([name, file, from, to]) {
  const path = join(root, "src", `${file}.ts`);
  const text = readFileSync(path, "utf8");
  if (text.split(from).length !== 2) throw new Error(`${name}: ${file}.ts does not contain the text exactly once: ${from}`);
  const plant = {
    name: "plant",
    setup: ({ onLoad }) => onLoad({ filter: new RegExp(`src/${file}\\.ts$`) }, () => ({ contents: text.replace(from, () => to), loader: "ts" })),
  };
  const outfile = join(out, "tabs.test.js");
  const options = { bundle: true, packages: "external", format: "esm", platform: "node", target: "node20", logLevel: "error" };
  await build({ ...options, entryPoints: [join(root, "test", "tabs.test.ts")], outfile, plugins: [plant] });
  const env = { WALKS: "150", ENDS_EARLY: "1", ...process.env };
  // With some faults, tabs answer each other for ever: the walk is then ended by the time limit.
  const { status } = spawnSync(process.execPath, ["--test", "--test-name-pattern=random walk", outfile], { cwd: root, env, timeout: LIMIT_MS });
  return status === null ? "no end" : status ? "caught" : "SURVIVED";
}

mkdirSync(out, { recursive: true });
for (const mutant of MUTANTS.filter(([name]) => !wanted.length || wanted.some((part) => name.includes(part)))) {
  const found = await walk(mutant);
  console.log(`${found.padEnd(8)} ${mutant[0]}`);
  if (found === "SURVIVED") survivors.push(mutant[0]);
}
rmSync(out, { recursive: true });
process.exit(survivors.length ? 1 : 0);
