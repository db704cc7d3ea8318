import { spawn } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

// Nothing of src is imported here: tap would count what its `before` program loads as covered, and fail for it.

/** How to run a Redis server here: a program, or an image for a container engine. */
export type RedisProgram = { file: string; libraryPath?: string } | { image: string };

/** What keeper.ts, the one process that owns the shared servers, writes down while they are up. */
export interface TestServers {
  keeperPid: number;
  /** A superuser's URL. */
  postgresUrl: string;
  redis?: RedisProgram;
}

export const repositoryDir = fileURLToPath(new URL('../../', import.meta.url));
export const stateDir = join(repositoryDir, '.hardpoint');
/** A file for each user, named by the pid. */
export const usersDir = join(stateDir, 'test-users');
/** Holds the keeper's pid, until everything of it has ended. */
export const keeperLock = join(stateDir, 'test-keeper.pid');

const serversFile = join(stateDir, 'test-servers.json');
/** The keeper writes ten times a second. */
const STALE_MS = 10_000;
const RELEASE_MS = 30_000;

/**
 * The shared servers, started when they are not up. They live as long as one of their users does: a test run,
 * or this process when a test file is run without one. Runs side by side in one folder share them.
 */
export async function holdServers(userPid: number): Promise<TestServers> {
  mkdirSync(usersDir, { recursive: true });
  writeFileSync(join(usersDir, String(userPid)), '');
  const running = findServers();
  if (running) return running;

  const logFile = join(stateDir, `test-keeper-${userPid}.log`);
  const log = openSync(logFile, 'w');
  const [cleaning, keeperFile] = ['clean-environment.mjs', 'keeper.ts'].map(
    (name) => new URL(name, import.meta.url),
  );
  const args = ['--import', String(cleaning), '--import', 'tsx', fileURLToPath(keeperFile ?? '')];
  const keeper = spawn(process.execPath, args, {
    cwd: repositoryDir,
    detached: true,
    stdio: ['ignore', log, log],
  });
  closeSync(log);
  keeper.unref();
  try {
    for (;;) {
      const started = findServers();
      if (started) return started;
      if (keeper.exitCode !== null || keeper.signalCode !== null) {
        throw new Error(`The test servers did not start:\n${readFileSync(logFile, 'utf8')}`);
      }
      await delay(20);
    }
  } finally {
    rmSync(logFile, { force: true });
  }
}

/** For a test file: the servers of its run, else its own. */
export function useServers(): Promise<TestServers> {
  held ??= Promise.resolve(findServers() ?? holdServers(process.pid));
  return held;
}

let held: Promise<TestServers> | undefined;

/** Resolves when the servers have ended, at once when somebody else still uses them. */
export async function releaseServers(userPid: number): Promise<void> {
  rmSync(join(usersDir, String(userPid)), { force: true });
  const end = Date.now() + RELEASE_MS;
  while (existsSync(keeperLock) && readdirSync(usersDir).length === 0 && Date.now() < end) await delay(20);
}

/** Once in a while, so that the file of a keeper that was killed is told by its age. */
export function publishServers(servers: TestServers): void {
  writeFileSync(`${serversFile}.new`, JSON.stringify(servers));
  renameSync(`${serversFile}.new`, serversFile);
}

export function withdrawServers(): void {
  rmSync(serversFile, { force: true });
}

function findServers(): TestServers | undefined {
  try {
    const servers: TestServers = JSON.parse(readFileSync(serversFile, 'utf8'));
    process.kill(servers.keeperPid, 0);
    return Date.now() - statSync(serversFile).mtimeMs < STALE_MS ? servers : undefined;
  } catch {
    return undefined;
  }
}
