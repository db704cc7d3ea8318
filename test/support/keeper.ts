import { chmodSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { openEmbeddedPostgres } from '../../tools/dev/embedded-postgres.ts';
import { commandOf } from '../../tools/dev/processes.ts';
import { makeDataFolder } from './folders.ts';
import { endOrphans, forgetProcess, registerProcess } from './processes.ts';
import { findRedisProgram } from './redis-program.ts';
import { removeContainers } from './redis-container.ts';
import {
  keeperLock,
  publishServers,
  stateDir,
  usersDir,
  withdrawServers,
  type TestServers,
} from './servers.ts';

// Owns what the test files share, and ends it, and whatever a crashed test file left behind, when the last user
// is gone. A process of its own, because a test run that is killed cannot clean up after itself.

mkdirSync(stateDir, { recursive: true });
if (await becomeTheOnlyKeeper()) {
  endOrphans();
  const postgres = await openPostgres();
  const redis = await findRedisProgram();
  await serve({ keeperPid: process.pid, postgresUrl: postgres.url, ...(redis && { redis }) });
  if (redis && 'image' in redis) removeContainers();
  await postgres.stop();
  rmSync(keeperLock, { force: true });
}

/** False when nobody wants servers any more; waits for another keeper that serves, or is about to end. */
async function becomeTheOnlyKeeper(): Promise<boolean> {
  while (hasUsers()) {
    try {
      writeFileSync(keeperLock, String(process.pid), { flag: 'wx' });
      return true;
    } catch {
      const pid = Number(readFileSync(keeperLock, 'utf8'));
      if (!commandOf(pid).includes('keeper.ts')) rmSync(keeperLock, { force: true });
      else await delay(50);
    }
  }
  return false;
}

async function openPostgres(): Promise<{ url: string; stop(): Promise<void> }> {
  const given = process.env.TEST_DATABASE_URL;
  if (given) return { url: given, stop: () => Promise.resolve() };
  const dataDir = makeDataFolder('hardpoint-test-');
  chmodSync(dataDir, 0o755);
  const settings = { max_connections: '300', autovacuum: 'off' };
  const postgres = await openEmbeddedPostgres({ dataDir, say: console.log, settings });
  registerProcess(postgres.pid, 'postgres', dataDir);
  return {
    url: postgres.url,
    async stop() {
      await postgres.stop();
      forgetProcess(postgres.pid);
      rmSync(dataDir, { recursive: true, force: true });
    },
  };
}

/** Until the last user, and the last process of a test file, is gone. */
async function serve(servers: TestServers): Promise<void> {
  do {
    do {
      publishServers(servers);
      await delay(100);
    } while (hasUsers() || endOrphans() > 0);
    withdrawServers();
    // A run that begins in this moment either finds no servers or is found here.
  } while (hasUsers());
}

/** Living ones; a run that was killed does not count. */
function hasUsers(): boolean {
  const living = readdirSync(usersDir).filter((pid) => {
    if (commandOf(Number(pid)) !== '') return true;
    rmSync(join(usersDir, pid), { force: true });
    return false;
  });
  return living.length > 0;
}
