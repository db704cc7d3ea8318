import { spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import { findFreePort } from '../../tools/dev/free-port.ts';
import { withClient } from './postgres.ts';
import { forgetProcess, registerProcess } from './processes.ts';
import { requireTool } from './tools.ts';
import { until } from './until.ts';

/**
 * PgBouncer in transaction mode before this database, with two connections to it; its URL. Undefined, and the test is
 * skipped, where there is none.
 */
export async function startPgBouncer(t: Test, database: string): Promise<string | undefined> {
  const program = requireTool(t, 'pgbouncer');
  if (!program) return undefined;
  const { username, password, port } = new URL(database);
  const folder = mkdtempSync(join(tmpdir(), 'hardpoint-pgbouncer-'));
  chmodSync(folder, 0o755);
  const listenPort = await findFreePort();
  const file = join(folder, 'pgbouncer.ini');
  writeFileSync(
    file,
    `[databases]
* = host=127.0.0.1 port=${port} user=${username} password=${password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${listenPort}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
`,
  );
  chmodSync(file, 0o644);
  // It refuses to run as root.
  const account = process.getuid?.() === 0 ? { uid: 65_534, gid: 65_534 } : {};
  const server = spawn(program, ['-q', file], { stdio: 'ignore', ...account });
  if (server.pid) registerProcess(server.pid, 'pgbouncer', folder);
  t.teardown(async () => {
    const ended = new Promise((resolve) => server.once('exit', resolve));
    server.kill('SIGKILL');
    await ended;
    if (server.pid) forgetProcess(server.pid);
    rmSync(folder, { recursive: true, force: true });
  });
  const url = new URL(database);
  url.port = String(listenPort);
  await until('PgBouncer answers', () =>
    withClient(url.href, (client) => client.query('select 1')).then(
      () => true,
      () => false,
    ),
  );
  return url.href;
}
