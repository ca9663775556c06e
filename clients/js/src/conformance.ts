/** The adapter of this client for the conformance kit: `gregor conformance -- node clients/js/dist/conformance.js`. */

import { createInterface } from "node:readline";
import { digestOf } from "./digest";
import { copyOf, counts, type Frame } from "./mirror";
import { Synchronizer } from "./synchronizer";

let synchronizer = new Synchronizer();

/** The response to each request (docs/how-to/conformance.md). */
const responses: Record<string, (request: any) => object> = {
  digest: ({ text }) => ({ digest: digestOf(JSON.parse(text)) }),
  start({ restore }) {
    synchronizer = new Synchronizer();
    if (restore?.copy) synchronizer.mirror.apply(restore.copy);
    for (const entry of restore?.outbox ?? []) synchronizer.outbox.add(entry);
    return {};
  },
  open: () => ({ send: [{ hello: synchronizer.opened() }] }),
  receive: ({ now, frames }) => ({ send: frames.flatMap((text: string): Frame[] => synchronizer.receive(JSON.parse(text), now * 1000).send) }),
  close() {
    synchronizer.closed();
    return {};
  },
  dispatch({ now, message }) {
    synchronizer.put(message, now);
    return { send: synchronizer.tick(now * 1000) };
  },
  tick: ({ now }) => ({ send: synchronizer.tick(now * 1000) }),
  state({ now }) {
    const { cursor, digest, items: copy, uncounted } = synchronizer.mirror;
    const { items } = synchronizer.shown(now);
    return {
      items: Object.fromEntries(items), copy: Object.fromEntries(copy), cursor, digest,
      badge: [...items.values()].filter(({ category }) => counts(uncounted, category)).length,
      pending: synchronizer.outbox.size, mismatches: synchronizer.mismatches,
    };
  },
  snapshot: () => ({ snapshot: { copy: copyOf(synchronizer.mirror), outbox: synchronizer.outbox.all() } }),
};

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  process.stdout.write(`${JSON.stringify(responses[request.do]!(request))}\n`);
}
