/** A running cluster behind one host, as in production: pages, API, WebSocket and streams have the same origin. */

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import http from "node:http";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { endWithProcess } from "./browser.mjs";

export const root = fileURLToPath(new URL("../../..", import.meta.url));
/** The command `gregor`; the Python of its environment is beside it. */
export const GREGOR = process.env.GREGOR ?? join(root, ".venv", "bin", "gregor");

/** Starts `gregor dev` on free ports, with these settings. `close()` ends it. */
export async function startCluster(settings = {}, tries = 3) {
  const data = mkdtempSync(join(tmpdir(), "gregor-browser-"));
  const base = await freePorts(5);
  const child = spawn(GREGOR, ["dev", "--json", "--data", data, "--port-base", String(base)], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, ...settings },
  });
  endWithProcess(child);
  let output = "";
  child.stderr.on("data", (text) => (output = (output + text).slice(-4_000)));
  const addresses = await new Promise((resolve, reject) => {
    createInterface({ input: child.stdout }).once("line", (line) => {
      const printed = JSON.parse(line);
      if (printed.ingest) resolve(printed);
      else reject(new Error(`gregor dev did not start: ${line} ${output}`));
    });
    child.once("exit", (code) => reject(new Error(`gregor dev ended with ${code}: ${output}`)));
  }).catch((error) => {
    rmSync(data, { recursive: true, force: true });
    // Another process may have taken a port since it was found free.
    if (tries > 1 && /port \d+ is in use|Address already in use/.test(error.message)) return null;
    throw error;
  });
  if (!addresses) return startCluster(settings, tries - 1);
  const proxy = await Proxy.start(addresses);
  const close = async () => {
    await proxy.close();
    child.removeAllListeners("exit");
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGTERM");
    await ended;
    rmSync(data, { recursive: true, force: true });
  };
  return new Cluster(addresses, proxy, child.pid, close);
}

class Cluster {
  constructor(addresses, proxy, pid, close) {
    Object.assign(this, { addresses, proxy, pid, close, origin: proxy.origin });
  }

  /** Calls the API with the service key. */
  async call(path, body, method = "POST") {
    const response = await fetch(this.addresses.ingest + path, {
      method,
      headers: { Authorization: `Bearer ${this.addresses.key}`, "Content-Type": "application/json" },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
    return response.status === 204 ? null : response.json();
  }

  /** Creates an item as a backend does. */
  async create(uid, id, category, body, times = {}) {
    await this.call(`/v1/users/${uid}/messages`, { system: "gregor", body: { create: { [id]: { category, body, times } } } });
  }

  async items(uid) {
    return Object.keys((await this.call(`/v1/users/${uid}/state`, undefined, "GET")).items);
  }

  /** Returns a new user with the tokens of two devices. */
  async user() {
    const response = await fetch(`${this.addresses.ingest}/demo/session`, { method: "POST" });
    return response.json();
  }
}

/** Routes by path like a reverse proxy, serves the pages of a test, and can cut the network. */
class Proxy {
  pages = new Map();
  isCut = false;
  refusesWebSockets = false;
  /** Open WebSocket connections, and the user of each (`urlOf`). */
  sockets = new Map();
  /** Number of WebSocket connections that each user has opened so far. */
  opened = new Map();

  static async start(addresses) {
    const proxy = new Proxy();
    proxy.addresses = addresses;
    proxy.server = http.createServer((request, response) => proxy.request(request, response));
    proxy.server.on("upgrade", (request, socket, head) => proxy.upgrade(request, socket, head));
    await new Promise((resolve) => proxy.server.listen(0, "127.0.0.1", resolve));
    proxy.origin = `http://127.0.0.1:${proxy.server.address().port}`;
    return proxy;
  }

  /** Returns a URL of the cluster whose WebSocket connections are counted for this user. */
  urlOf(uid) {
    return `${this.origin}/of/${uid}`;
  }

  /** Returns how many WebSocket connections of a user are open now. */
  open(uid) {
    return [...this.sockets.values()].filter((each) => each === uid).length;
  }

  /** Serves `content`, a text or a function that returns one, at `path` with these headers. */
  serve(path, content, headers = {}) {
    this.pages.set(path, { content, headers: { "Content-Type": "text/html; charset=utf-8", ...headers } });
    return this.origin + path;
  }

  /** Cuts all connections to the cluster, and refuses new ones; pages are still served. */
  cut() {
    this.isCut = true;
    for (const socket of this.sockets.keys()) socket.destroy();
  }

  restore() {
    this.isCut = false;
  }

  request(request, response) {
    const { path: url } = splitPath(request.url);
    const path = new URL(url, this.origin).pathname;
    const page = this.pages.get(path);
    if (page) {
      response.writeHead(200, page.headers).end(typeof page.content === "function" ? page.content() : page.content);
      return;
    }
    if (this.isCut && path.startsWith("/v1/")) return void request.socket.destroy();
    const isStream = /^\/v1\/(stream|poll|frames)/.test(path);
    const target = new URL(url, isStream ? this.addresses.stream : this.addresses.ingest);
    const options = { method: request.method, headers: { ...request.headers, host: target.host } };
    const onward = http.request(target, options, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    onward.on("error", () => response.destroy());
    request.pipe(onward);
  }

  upgrade(request, socket, head) {
    if (this.isCut) return void socket.destroy();
    if (this.refusesWebSockets || request.headers.upgrade?.toLowerCase() !== "websocket") {
      return void socket.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    const { uid, path } = splitPath(request.url);
    const { hostname, port } = new URL(this.addresses.gateway);
    const onward = net.connect(Number(port), hostname, () => {
      const lines = [`GET ${path} HTTP/1.1`];
      for (let n = 0; n < request.rawHeaders.length; n += 2) lines.push(`${request.rawHeaders[n]}: ${request.rawHeaders[n + 1]}`);
      onward.write(`${lines.join("\r\n")}\r\n\r\n`);
      onward.write(head);
      socket.pipe(onward).pipe(socket);
    });
    this.opened.set(uid, (this.opened.get(uid) ?? 0) + 1);
    this.sockets.set(socket, uid);
    socket.on("close", () => {
      this.sockets.delete(socket);
      onward.destroy();
    });
    for (const each of [socket, onward]) each.on("error", () => each.destroy());
    onward.on("close", () => socket.destroy());
  }

  async close() {
    for (const socket of this.sockets.keys()) socket.destroy();
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }
}

/** Splits a path into the user that `urlOf` put there, and the rest. */
function splitPath(url) {
  const [, uid, path] = /^(?:\/of\/([^/]+))?(.*)$/.exec(url);
  return { uid: uid ?? null, path };
}

/** Returns the first of `count` free ports in a row. */
export async function freePorts(count) {
  for (;;) {
    const first = 20_000 + Math.floor(Math.random() * 20_000);
    const ports = Array.from({ length: count }, (_, n) => first + n);
    if ((await Promise.all(ports.map(isFree))).every(Boolean)) return first;
  }
}

function isFree(port) {
  return new Promise((resolve) => {
    const server = net.createServer().once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}
