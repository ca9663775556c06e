/** The adapter of this client for `gregor conformance -- node tools/conformance.mjs`: JSON lines in and out. */

import { createInterface } from "node:readline";
import { digestOf, Synchronizer } from "../dist/core.js";

let synchronizer = new Synchronizer();
const receive = (now, text) => synchronizer.receive(JSON.parse(text), now).send;

const answers = {
  digest: ({ text }) => ({ digest: digestOf(JSON.parse(text)) }),
  start({ restore }) {
    synchronizer = restore ? Synchronizer.restore(restore) : new Synchronizer();
    return {};
  },
  open: () => ({ send: [{ hello: synchronizer.opened() }] }),
  receive: ({ now, frames }) => ({ send: frames.flatMap((text) => receive(now, text)) }),
  close() {
    synchronizer.closed();
    return {};
  },
  dispatch: ({ now, message }) => ({ send: synchronizer.put(message, now).send }),
  tick: ({ now }) => ({ send: synchronizer.tick(now) }),
  state({ now }) {
    const { cursor, digest, items } = synchronizer.mirror;
    const shown = synchronizer.shown(now).items;
    return {
      items: Object.fromEntries(shown), copy: Object.fromEntries(items), badge: synchronizer.badge(now), cursor, digest,
      pending: synchronizer.outbox.size, mismatches: synchronizer.mismatches,
    };
  },
  snapshot: () => ({ snapshot: synchronizer.snapshot() }),
};

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  process.stdout.write(`${JSON.stringify(answers[request.do](request))}\n`);
}
