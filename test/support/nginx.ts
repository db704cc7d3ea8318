import { spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { request } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import { findFreePort } from '../../tools/dev/free-port.ts';
import { createAuthority } from './certificates.ts';
import { placesOfOlder, writeConfiguration, writeIncludes, type Places } from './nginx-config.ts';
import { forgetProcess, registerProcess, signalTree } from './processes.ts';
import { requireTool } from './tools.ts';
import { until } from './until.ts';

export interface Nginx {
  httpPort: number;
  httpsPort: number;
  /** Everything that it used; certificates for `localhost`, and what ACME would put there in acme/. */
  folder: string;
  /** Lines of the access log, parsed. */
  accessLog(): Record<string, unknown>[];
  /** Over TLS as `servername`, the path as it is. */
  ask(path: string, options?: AskOptions): Promise<NginxAnswer>;
}

export interface AskOptions {
  method?: string;
  headers?: Record<string, string>;
  servername?: string;
  body?: string;
  /** After so long it hangs up, and rejects. */
  timeoutMs?: number;
}

export interface NginxAnswer {
  status: number;
  /** Names in lower case; a header that came twice with both values. */
  headers: Record<string, string>;
  body: string;
}

/**
 * A real nginx with the configuration of nginx/, before replicas on these ports of loopback. Only places and ports are
 * replaced, and what an nginx older than the one in compose.yaml does not know. Undefined as with requireTool.
 */
export async function startNginx(
  t: Test,
  replicas: number[],
  env: Record<string, string> = {},
): Promise<Nginx | undefined> {
  const nginx = requireTool(t, 'nginx');
  const certificate = nginx && createAuthority(t)?.issue('DNS:localhost');
  if (!nginx || !certificate) return undefined;
  const folder = mkdtempSync(join(tmpdir(), 'hardpoint-nginx-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }));
  // Its workers are another user when this one is root.
  chmodSync(folder, 0o755);
  for (const name of ['conf.d', 'acme', 'tmp']) mkdirSync(join(folder, name));
  copyFileSync(certificate.certificate, join(folder, 'fullchain.pem'));
  copyFileSync(certificate.key, join(folder, 'privkey.pem'));
  writeFileSync(join(folder, 'server_name.conf'), 'server_name localhost nginx;\n');
  writeFileSync(join(folder, 'mime.types'), 'types {}\n');

  const [httpPort, httpsPort, healthPort, statusPort] = [
    await findFreePort(),
    await findFreePort(),
    await findFreePort(),
    await findFreePort(),
  ];
  const server = replicas.map((port) => `server 127.0.0.1:${port} `).join('max_fails=2 fail_timeout=5s;');
  const places: Places = [
    // First: the folder itself may lie there.
    ['/tmp/', `${folder}/tmp/`],
    ['/etc/nginx/', `${folder}/`],
    ['/run/secrets/', `${folder}/`],
    ['/var/www/acme', `${folder}/acme`],
    ['/dev/stderr', `${folder}/error.log`],
    ['/dev/stdout', `${folder}/access.log`],
    ['127.0.0.1:8081', `127.0.0.1:${healthPort}`],
    ['listen 8082', `listen 127.0.0.1:${statusPort}`],
    ['listen 8080', `listen 127.0.0.1:${httpPort}`],
    ['listen 8443', `listen 127.0.0.1:${httpsPort}`],
    ['server api:8000 resolve ', server],
    ...placesOfOlder(nginx),
  ];
  writeConfiguration(folder, places);
  // One family is enough here: these ports are everybody's.
  writeIncludes(join(folder, 'tmp'), { IF_INET6: '/none', ...env });
  const args = ['-p', folder, '-e', join(folder, 'error.log'), '-c', join(folder, 'nginx.conf')];
  const check = spawnSync(nginx, [...args, '-t'], { encoding: 'utf8' });
  if (check.status !== 0) throw new Error(`nginx -t: ${check.stderr}`);

  const { pid } = spawn(nginx, [...args, '-g', 'daemon off;'], { stdio: 'ignore' });
  if (pid === undefined) throw new Error(`${nginx} did not start`);
  registerProcess(pid, 'nginx', folder);
  t.teardown(() => {
    signalTree(pid, 'SIGKILL');
    forgetProcess(pid);
  });
  const isUp = () =>
    fetch(`http://127.0.0.1:${healthPort}/nginx-health`).then(
      ({ ok }) => ok,
      () => false,
    );
  await until('nginx is up', isUp, 20_000);

  return {
    httpPort,
    httpsPort,
    folder,
    accessLog: () =>
      readFileSync(join(folder, 'access.log'), 'utf8')
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line)),
    ask: (path, options = {}) => ask(httpsPort, path, options),
  };
}

function ask(port: number, path: string, options: AskOptions): Promise<NginxAnswer> {
  const { servername = 'localhost', method = 'GET', headers = {}, body, timeoutMs } = options;
  return new Promise((resolve, reject) => {
    const sent = request({
      host: '127.0.0.1',
      port,
      path,
      method,
      servername,
      headers: { host: servername, ...headers },
      // A new connection each time; the certificate is that of a test.
      agent: false,
      rejectUnauthorized: false,
    });
    sent.once('error', reject);
    if (timeoutMs !== undefined) sent.setTimeout(timeoutMs, () => sent.destroy(new Error('gave up')));
    sent.once('response', (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.once('error', reject);
      response.once('end', () => {
        const { statusCode: status = 0, headersDistinct } = response;
        const lines = Object.entries(headersDistinct).map(([name, values = []]) => [name, values.join(', ')]);
        resolve({ status, headers: Object.fromEntries(lines), body: Buffer.concat(chunks).toString() });
      });
    });
    sent.end(body);
  });
}
