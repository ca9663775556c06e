/** The vectors that the server and all clients share (tests/vectors); the kit replays the others over JSON lines. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { createHash } from "node:crypto";
import { canonical, digestOf, sha256 } from "../src/digest";
import { counts, Mirror } from "../src/mirror";
import { Synchronizer } from "../src/synchronizer";

const read = (name: string) => JSON.parse(readFileSync(join(process.cwd(), "../../tests/vectors", `${name}.json`), "utf8"));

for (const { name, text, digest } of read("digests")) {
  test(`digest: ${name}`, () => assert.equal(digestOf(JSON.parse(text)), digest));
}

for (const { name, now, frames, state, sends } of read("frames")) {
  test(`frames: ${name}`, () => {
    const synchronizer = new Synchronizer();
    synchronizer.opened();
    assert.deepEqual(frames.flatMap((frame: any) => synchronizer.receive(frame, now).send), sends);
    assert.deepEqual(Object.fromEntries(synchronizer.shown(now).items), state.items);
    assert.equal(synchronizer.mirror.cursor, state.cursor);
    const { uncounted } = synchronizer.mirror;
    assert.equal(Object.values<any>(state.items).filter(({ category }) => counts(uncounted, category)).length, state.badge);
  });
}

for (const { name, now, copy, dispatch, sends, adds_id, shows } of read("messages")) {
  test(`message: ${name}`, () => {
    const synchronizer = new Synchronizer();
    synchronizer.opened();
    synchronizer.receive({ system: "gregor", sync: "full", cursor: "aaaaaa-5", body: { create: copy } }, now);
    synchronizer.put(dispatch, now);
    const [{ ref, id, ...message }] = synchronizer.tick(now) as any;
    assert.ok(ref);
    assert.equal(!!id, adds_id);
    assert.deepEqual(message, sends);
    assert.deepEqual([...synchronizer.shown(now).items.keys()].sort(), shows);
  });
}

test("an external message that overtook a resync comes once", () => {
  const mirror = new Mirror();
  const live = { system: "kbfs.favorites", seq: 13, body: 13 };
  const answer = { system: "gregor", sync: "delta", cursor: "t-14", external: [live, { ...live, seq: 14, body: 14 }] };
  const frames = [{ system: "gregor", sync: "full", cursor: "t-12", body: {} }, live, answer];
  const changes = frames.flatMap((frame) => mirror.apply(frame));
  assert.deepEqual(changes.flatMap((change) => (change.type === "external" ? [change.body] : [])), [13, 14]);
});

test("the built adapter passes the conformance kit", () => {
  const python = process.env.PYTHON ?? "../../.venv/bin/python";
  const kit = ["-c", "from gregor.cli import main; main()", "conformance", "--runs", "60", "--json"];
  const { runs, failures } = JSON.parse(execFileSync(python, [...kit, "--", process.execPath, "dist/conformance.js"], { encoding: "utf8" }));
  assert.deepEqual({ runs, failures }, { runs: 60, failures: [] });
});

test("sha256 equals that of node:crypto", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary", maxLength: 300 }), (text) => {
      const hex = Array.from(sha256(text), (word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
      assert.equal(hex, createHash("sha256").update(text, "utf8").digest("hex"));
    }),
    { numRuns: 300 },
  );
});

test("canonical form is a fixed point with sorted keys", () => {
  fc.assert(
    fc.property(fc.jsonValue(), (value) => {
      const text = canonical(value);
      assert.equal(canonical(JSON.parse(text)), text);
      assert.deepEqual(JSON.parse(text), JSON.parse(JSON.stringify(value)));
    }),
  );
});

test("canonical form of unsorted values equals that of the server", () => {
  const { value } = fc.letrec((tie) => ({
    value: fc.oneof({ maxDepth: 4 }, fc.jsonValue({ maxDepth: 1 }), fc.array(tie("value"), { maxLength: 12 }),
      fc.dictionary(fc.constantFrom("1", "2", "9", "10", "01", "-1", "__proto__", "b", "a", "é"), tie("value"))),
  }));
  const values = fc.sample(value, { numRuns: 300, seed: 8785 }).map((each) => JSON.parse(JSON.stringify(each)));
  const program = "import json, sys; from gregor.core.json_text import canonical_json; " +
    "print(json.dumps([canonical_json(value).decode() for value in json.load(sys.stdin)]))";
  const python = process.env.PYTHON ?? "../../.venv/bin/python";
  const expected = execFileSync(python, ["-c", program], { encoding: "utf8", input: JSON.stringify(values), maxBuffer: 2 ** 26 });
  assert.deepEqual(values.map(canonical), JSON.parse(expected));
});

test("canonical form reads each member at most twice, however deep the value is", () => {
  for (const wrap of [(inner: unknown) => ({ 10: 0, 2: inner }), (inner: unknown) => [inner, ...Array(10).fill(0)]]) {
    let reads = 0;
    let value: unknown = { get a() { return reads++ && 0; } };
    for (let depth = 0; depth < 60; depth++) value = wrap(value);
    canonical(value);
    assert.ok(reads <= 2, `${reads} reads`);
  }
});
