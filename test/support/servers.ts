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
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { commandOf } from '../../src/commands/processes.ts';
import type { RedisProgram } from './redis-program.ts';

/** What keeper.ts, the one process that owns the shared servers, writes down when they are up. */
export interface TestServers {
  keeperPid: number;
  /** A superuser's URL. */
  postgresUrl: string;
  redis?: RedisProgram;
}

export const repositoryDir = fileURLToPath(new URL('../../', import.meta.url));
export const stateDir = join(repositoryDir, '.hardpoint');

const serversFile = join(stateDir, 'test-servers.json');
const usersDir = join(stateDir, 'test-users');
const keeperFile = fileURLToPath(new URL('keeper.ts', import.meta.url));

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
  const args = ['--import', 'tsx', keeperFile];
  const keeper = spawn(process.execPath, args, {
    cwd: repositoryDir,
    detached: true,
    stdio: ['ignore', log, log],
  });
  closeSync(log);
  keeper.unref();
  for (;;) {
    const started = findServers();
    const output = readFileSync(logFile, 'utf8');
    if (started) {
      rmSync(logFile, { force: true });
      return started;
    }
    if (keeper.exitCode !== null || keeper.signalCode !== null) {
      throw new Error(`The test servers did not start:\n${output}`);
    }
    await delay(20);
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
  const keeperPid = readServers()?.keeperPid;
  rmSync(join(usersDir, String(userPid)), { force: true });
  while (listUsers().length === 0 && isKeeper(keeperPid)) await delay(20);
}

export function findServers(): TestServers | undefined {
  const servers = readServers();
  return servers && isKeeper(servers.keeperPid) ? servers : undefined;
}

export function publishServers(servers: TestServers): void {
  writeFileSync(`${serversFile}.new`, JSON.stringify(servers));
  renameSync(`${serversFile}.new`, serversFile);
}

export function withdrawServers(): void {
  rmSync(serversFile, { force: true });
}

/** The living ones; a run that was killed does not count. */
export function listUsers(): string[] {
  if (!existsSync(usersDir)) return [];
  return readdirSync(usersDir).filter((pid) => {
    const living = commandOf(Number(pid)) !== '';
    if (!living) rmSync(join(usersDir, pid), { force: true });
    return living;
  });
}

export function isKeeper(pid: number | undefined): boolean {
  return pid !== undefined && commandOf(pid).includes('keeper.ts');
}

function readServers(): TestServers | undefined {
  try {
    const servers: TestServers = JSON.parse(readFileSync(serversFile, 'utf8'));
    return servers;
  } catch {
    return undefined;
  }
}
