/** Reverse proxies of operators in front of the cluster, with the settings that hurt. */

import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { endWithProcess, until } from "./browser.mjs";
import { freePorts } from "./cluster.mjs";

export function hasProgram(name) {
  return spawnSync("sh", ["-c", `command -v ${name}`], { env: withSbin() }).status === 0;
}

/** Starts a haproxy that cuts a WebSocket after `idle` without a byte. */
export function startHaproxy(target, idle) {
  return start("haproxy", target, (port, host) => ({
    options: ["-db", "-f"],
    config: `defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  timeout tunnel ${idle}
frontend pages
  bind 127.0.0.1:${port}
  default_backend cluster
backend cluster
  server cluster ${host}
`,
  }));
}

/** Starts an nginx that passes no WebSocket, and buffers streams, because it compresses them. */
export function startNginx(target) {
  return start("nginx", target, (port, host, folder) => ({
    options: ["-e", "stderr", "-p", folder, "-c"],
    config: `daemon off; master_process off; pid ${folder}/nginx.pid; error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path ${folder}/body; proxy_temp_path ${folder}/proxy; fastcgi_temp_path ${folder}/fastcgi;
  uwsgi_temp_path ${folder}/uwsgi; scgi_temp_path ${folder}/scgi;
  server {
    listen 127.0.0.1:${port};
    gzip on;
    gzip_types *;
    location / {
      proxy_pass http://${host};
      proxy_set_header Host $host:$server_port;
      proxy_buffering on;
      proxy_ignore_headers X-Accel-Buffering;
    }
  }
}
`,
  }));
}

async function start(program, target, settings) {
  const folder = mkdtempSync(join(tmpdir(), `gregor-${program}-`));
  const port = await freePorts(1);
  const { options, config } = settings(port, new URL(target).host, folder);
  const path = join(folder, "config");
  writeFileSync(path, config);
  const child = spawn(program, [...options, path], { stdio: ["ignore", "ignore", "inherit"], env: withSbin() });
  endWithProcess(child);
  const origin = `http://127.0.0.1:${port}`;
  await until(() => fetch(origin).then(() => true, () => false), `${program} answers`);
  const close = async () => {
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await ended;
    rmSync(folder, { recursive: true, force: true });
  };
  return { origin, close };
}

/** Debian installs servers in a folder that the PATH of a user lacks. */
function withSbin() {
  return { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` };
}
