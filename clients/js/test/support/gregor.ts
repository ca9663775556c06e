/** A running `gregor dev` for tests, with device tokens for it. */

import { type ChildProcess, spawn } from "node:child_process";
import { createHmac } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Endpoints, Message } from "../../src/types";

const SECRET = "a-secret-of-the-tests-with-32-bytes-or-more";
const ROOT = join(process.cwd(), "..", "..");

export interface Gregor {
  endpoints: Endpoints;
  token(uid: string, device: string, seconds?: number): string;
  /** Sends a message as a backend. */
  send(uid: string, message: Message): Promise<any>;
  call(path: string, init?: RequestInit): Promise<Response>;
  stop(): Promise<void>;
}

export async function startGregor(): Promise<Gregor> {
  const folder = mkdtempSync(join(tmpdir(), "gregor-js-"));
  const base = await freeBase();
  const python = process.env.PYTHON ?? join(ROOT, ".venv", "bin", "python");
  const command = "from gregor.cli import main; main()";
  const options = ["dev", "--json", "--fake-providers", "--port-base", String(base), "--data", join(folder, "data")];
  const process_ = spawn(python, ["-c", command, ...options], {
    env: { ...process.env, GREGOR_TOKEN_SECRET: SECRET, GREGOR_FLUSH_SPREAD: "1" },
    stdio: ["ignore", "pipe", "ignore"],
  });
  const addresses = await firstLine(process_);
  const headers = { Authorization: `Bearer ${addresses.key}`, "Content-Type": "application/json" };
  const call = (path: string, init: RequestInit = {}) => fetch(`${addresses.ingest}${path}`, { headers, ...init });
  return {
    endpoints: {
      api: `http://127.0.0.1:${base}`, websocket: `ws://127.0.0.1:${base + 1}`, streams: `http://127.0.0.1:${base + 2}`,
    },
    token: (uid, device, seconds = 3600) => sign({ sub: uid, device, iat: now(), exp: Math.floor(now()) + seconds }),
    call,
    async send(uid, message) {
      const response = await call(`/v1/users/${uid}/messages`, { method: "POST", body: JSON.stringify(message) });
      if (!response.ok) throw new Error(await response.text());
      return response.json();
    },
    async stop() {
      process_.kill("SIGTERM");
      await new Promise((resolve) => process_.once("exit", resolve));
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

const now = () => Date.now() / 1000;

/** Returns a device token: a JWT that is signed with HS256. */
export function sign(claims: object, secret = SECRET): string {
  const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const head = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  return `${head}.${createHmac("sha256", secret).update(head).digest("base64url")}`;
}

async function firstLine(child: ChildProcess): Promise<any> {
  for await (const line of createInterface({ input: child.stdout! })) {
    child.stdout!.resume();
    const addresses = JSON.parse(line);
    if (!addresses.ingest) throw new Error(`gregor dev printed ${line}`);
    return addresses;
  }
  throw new Error("gregor dev ended before it was ready");
}

/** Returns the first of twenty free ports. */
async function freeBase(): Promise<number> {
  for (;;) {
    const base = 20_000 + Math.floor(Math.random() * 2_000) * 20;
    const free = await Promise.all(Array.from({ length: 20 }, (_, at) => isFree(base + at)));
    if (free.every(Boolean)) return base;
  }
}

const isFree = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });

/** Waits until `condition` holds, looked at every 10 ms. */
export async function waitUntil(condition: () => unknown, what: string, ms = 10_000): Promise<void> {
  const end = performance.now() + ms;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
