/** The code blocks of the documentation compile against the built types. `tests/browser/readme.test.mjs` executes others. */

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

const PAGES = ["../../README.md", "README.md"];
// Inside the package, so that `gregor-client` is the package itself with its exports map.
const FOLDER = join("node_modules", ".cache", "docs");

/** Names of the page around an example. An example that declares one itself hides it. */
const AROUND = `declare global {
  const gregor: import("gregor-client").Client;
  const render: (items: readonly import("gregor-client").ShownItem[], badge: number) => void;
  const button: HTMLButtonElement;
  const id: string, a: string, b: string;
}
export {};
`;
const OPTIONS = ["--ignoreConfig", "--skipLibCheck", "--noEmit", "--strict", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler", "--jsx", "react-jsx"];

test("every JavaScript example compiles", () => {
  const examples = PAGES.flatMap((page) =>
    [...readFileSync(page, "utf8").matchAll(/```(?:js|jsx|ts|tsx)\n(.*?)```/gs)].map(([, code]) => code!),
  );
  // Each call of the table of the API is an example, too.
  const calls = readFileSync("README.md", "utf8").split("## API\n")[1]!.split("\n###")[0]!.match(/(?<=`)(?:await )?gregor\.[^`]+(?=`)/g)!;
  examples.push(calls.map((call) => `${call.replaceAll("…", "undefined")};\n`).join(""));
  assert.ok(examples.length >= 5 && calls.length > 15);

  rmSync(FOLDER, { recursive: true, force: true });
  mkdirSync(FOLDER, { recursive: true });
  writeFileSync(join(FOLDER, "around.d.ts"), AROUND);
  const names = examples.map((code, at) => {
    const name = join(FOLDER, `example-${at}.tsx`);
    writeFileSync(name, `${code}\nexport {};\n`);
    return name;
  });
  const { stdout } = spawnSync(join("node_modules", ".bin", "tsc"), [...OPTIONS, join(FOLDER, "around.d.ts"), ...names], { encoding: "utf8" });

  assert.equal(stdout, "");
});
