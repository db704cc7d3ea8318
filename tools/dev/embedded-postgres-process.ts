import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { PostgresBinaries } from './embedded-postgres-binaries.ts';
import { commandOf, signal } from './processes.ts';

/** A server left running is stopped, a lock file without its server removed (its pid may be another program's now). */
export async function endLeftover(binaries: PostgresBinaries, cluster: string): Promise<void> {
  const pid = postmasterPid(cluster);
  if (pid === undefined) return;
  if (isServer(pid, cluster)) await stopServer(binaries, cluster, pid);
  rmSync(join(cluster, 'postmaster.pid'), { force: true });
}

/** Fast shutdown, then harder ones; resolves when no process of it is left. */
export async function stopServer(binaries: PostgresBinaries, cluster: string, pid: number): Promise<void> {
  signal(pid, 'SIGCONT');
  for (const mode of ['fast', 'immediate']) {
    if (!isServer(pid, cluster)) return;
    const wait = ['-w', '-s', '-t', '10'];
    // A failure here means "not in time" or "already gone"; the process itself is what counts.
    await binaries.run('pg_ctl', ['stop', '-D', cluster, '-m', mode, ...wait]).catch(() => undefined);
    for (let tries = 0; tries < 50 && isServer(pid, cluster); tries += 1) await delay(10);
  }
  if (isServer(pid, cluster)) signal(pid, 'SIGKILL');
}

function isServer(pid: number, cluster: string): boolean {
  const command = commandOf(pid);
  return command.includes('postgres') && (process.platform === 'win32' || command.includes(cluster));
}

/** By the lock file, whether or not the process lives. */
export function postmasterPid(cluster: string): number | undefined {
  const file = join(cluster, 'postmaster.pid');
  if (!existsSync(file)) return undefined;
  return Number.parseInt(readFileSync(file, 'utf8'), 10) || undefined;
}
