/**
 * Measures the digest: `node tools/bench.mjs` prints CPU times, compiler and garbage collector included.
 *
 * "digest" is the digest of 2,000 items, "full copy" also applies the sync object that brings them, and "one more" is a
 * live frame with one item.
 */

import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const resolveDir = join(dirname(fileURLToPath(import.meta.url)), "..", "src");
const contents = `export { Mirror } from "./mirror"; export { digestOf } from "./digest";`;
const { outputFiles } = await build({ stdin: { contents, resolveDir }, bundle: true, format: "esm", target: "es2022", write: false });
const { Mirror, digestOf } = await import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString("base64")}`);

// As the server sends them: canonical, so with sorted keys.
const item = (n) => ({
  body: { actor: `user${n % 37}`, link: `/threads/${n}`, text: `Anna wrote: "see you at ${n % 24} o’clock"`, title: `New message ${n}` },
  category: "mail.new",
  for_device: null,
  times: { created: 1.7e9 + n, expires: 1.8e9 + n },
});
const id = (n) => `0192f${n.toString(16).padStart(4, "0")}7c3e7abcd1234567890abcd`;
const create = Object.fromEntries(Array.from({ length: 2_000 }, (_, n) => [id(n), item(n)]));
const full = JSON.stringify({ sync: "full", cursor: "aaaaaa-1", digest: "", body: { create } });

/** Returns the CPU time of a call in milliseconds, of all threads: compiler and garbage collector included. */
function cpuMs(work) {
  const before = process.cpuUsage();
  work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1_000;
}

const digests = [];
const copies = [];
const deltas = [];
for (let run = 0; run < 60; run++) digests.push(cpuMs(() => digestOf(create)));
for (let run = 0; run < 60; run++) {
  const mirror = new Mirror();
  const frame = JSON.parse(full);
  copies.push(cpuMs(() => (mirror.apply(frame), mirror.digest)));
  deltas.push(
    cpuMs(() => {
      for (let n = 0; n < 100; n++) {
        mirror.apply({ system: "gregor", seq: n + 2, body: { create: { [id(n + 2_000)]: item(n) } } });
        mirror.digest;
      }
    }) / 100,
  );
}
for (const [name, times] of Object.entries({ digest: digests, "full copy": copies, "one more": deltas })) {
  const [first] = times;
  const sorted = times.toSorted((a, b) => a - b);
  console.log(`${name.padEnd(11)} first ${first.toFixed(2)}, p10 ${sorted[6].toFixed(2)}, p50 ${sorted[30].toFixed(2)} ms`);
}
