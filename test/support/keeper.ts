import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { openEmbeddedPostgres } from '../../src/commands/embedded-postgres.ts';
import { dropLeftovers } from './postgres.ts';
import { endOrphans } from './processes.ts';
import { findRedisProgram } from './redis-program.ts';
import { isKeeper, listUsers, publishServers, stateDir, withdrawServers } from './servers.ts';

// Owns what the test files share, and ends it, and whatever a crashed test file left behind, when the last user
// is gone. A process of its own, because a test run that is killed cannot clean up after itself.

const lockFile = join(stateDir, 'test-keeper.pid');

mkdirSync(stateDir, { recursive: true });
if (await becomeTheOnlyKeeper()) {
  endOrphans();
  const postgres = process.env.TEST_DATABASE_URL
    ? { url: process.env.TEST_DATABASE_URL, stop: async () => {} }
    : await openEmbeddedPostgres({
        dataDir: join(stateDir, 'test-postgres'),
        say: console.log,
        settings: { max_connections: '300', autovacuum: 'off' },
      });
  if (!process.env.TEST_DATABASE_URL) await dropLeftovers(postgres.url);
  const redis = await findRedisProgram();
  const servers = { keeperPid: process.pid, postgresUrl: postgres.url, ...(redis && { redis }) };

  do publishServers(servers);
  while (await isNeeded());
  await postgres.stop();
  rmSync(lockFile, { force: true });
}

/** Looks twice: a run that begins now either sees the servers withdrawn, or is seen here. */
async function isNeeded(): Promise<boolean> {
  while (listUsers().length + endOrphans() > 0) await delay(100);
  withdrawServers();
  return listUsers().length > 0;
}

/** False when somebody else's servers are up, or nobody wants any more; waits for one that is about to end. */
async function becomeTheOnlyKeeper(): Promise<boolean> {
  while (listUsers().length > 0) {
    try {
      writeFileSync(lockFile, String(process.pid), { flag: 'wx' });
      return true;
    } catch {
      const pid = Number(readFileSync(lockFile, 'utf8'));
      if (!isKeeper(pid)) rmSync(lockFile, { force: true });
      else await delay(50);
    }
  }
  return false;
}
