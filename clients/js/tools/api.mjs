/** Writes the API report: `node tools/api.mjs` writes what each entry point exports, from the types in dist, to api/. */

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const ENTRIES = ["index", "core", "react", "sw", "inbox"];

const DECLARED = /^(?:export )?(?:declare )?(?:abstract )?(?:const|function|class|interface|type) ([\w$]+)/;
const REEXPORT = /^export (?:type )?(?:\{([^}]*)\}|\*) from "(\.[^"]*)"/;
const isExport = (statement) => /^export (?!\{\})/.test(statement);
const nameOf = (statement) => DECLARED.exec(statement)?.[1];
const namesIn = (list) => list.split(",").map((name) => name.trim().replace(/^type /, "").split(" as ")[0]);
const fileOf = (path, from) => join(dirname(path), from.replace(/\.js$/, ".d.ts"));

/** Returns the top-level statements of a file of types, without comments and private members. */
function statements(path) {
  const text = readFileSync(path, "utf8").replace(/\/\*[^]*?\*\/\s*/g, "").replace(/^ +private .*\n/gm, "");
  return text.split(/\n(?=[^\s}])/).map((statement) => statement.trim()).filter(Boolean);
}

/** Adds to `found` the wanted statements of a file, and every declaration of the package that they name. */
function collect(path, isWanted, found) {
  const all = statements(path);
  const imports = all.flatMap((line) => [...line.matchAll(/^import (?:type )?\{([^}]*)\} from "(\.[^"]*)"/g)]);
  for (const statement of all.filter(isWanted)) {
    if (found.has(statement)) continue;
    found.add(statement);
    const [, exported, source] = REEXPORT.exec(statement) ?? [];
    if (source) collect(fileOf(path, source), (other) => (exported ? namesIn(exported).includes(nameOf(other)) : isExport(other)), found);
    if (source) continue;
    const words = new Set(statement.match(/[\w$]+/g));
    collect(path, (other) => words.has(nameOf(other)), found);
    for (const [, list, from] of imports) {
      const used = namesIn(list).filter((name) => words.has(name));
      if (used.length) collect(fileOf(path, from), (other) => used.includes(nameOf(other)), found);
    }
  }
}

/** Returns the exports of an entry point with every declaration that they name, sorted. */
export function report(folder, entry) {
  const found = new Set();
  collect(join(folder, `${entry}.d.ts`), isExport, found);
  return `${[...found].sort().join("\n\n")}\n`;
}

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
if (process.argv[1] === fileURLToPath(import.meta.url)) {
  mkdirSync(join(root, "api"), { recursive: true });
  for (const entry of ENTRIES) writeFileSync(join(root, "api", `${entry}.api.txt`), report(join(root, "dist"), entry));
}
