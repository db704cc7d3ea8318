import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { commandOf, signal } from '../../tools/dev/processes.ts';
import { stateDir } from './servers.ts';

const processesDir = join(stateDir, 'test-processes');

interface Registration {
  ownerPid: number;
  /** Part of the command line, which tells the process from another that got its pid since. */
  program: string;
  folder?: string;
}

/** Has the keeper kill the process and its children, and remove its folder, when this test process ends without. */
export function registerProcess(pid: number, program: string, folder?: string): void {
  mkdirSync(processesDir, { recursive: true });
  const registration: Registration = { ownerPid: process.pid, program, ...(folder && { folder }) };
  writeFileSync(join(processesDir, String(pid)), JSON.stringify(registration));
}

export function forgetProcess(pid: number): void {
  rmSync(join(processesDir, String(pid)), { force: true });
}

/** Kills the registered processes whose owner is gone; returns the number of others' whose owner lives. */
export function endOrphans(): number {
  if (!existsSync(processesDir)) return 0;
  let remaining = 0;
  for (const pid of readdirSync(processesDir).map(Number)) {
    const registration = readRegistration(pid);
    if (!registration || registration.ownerPid === process.pid) continue;
    if (commandOf(registration.ownerPid) !== '') {
      remaining += 1;
      continue;
    }
    if (commandOf(pid).includes(registration.program)) signalTree(pid, 'SIGKILL');
    if (registration.folder) rmSync(registration.folder, { recursive: true, force: true, maxRetries: 5 });
    forgetProcess(pid);
  }
  return remaining;
}

function readRegistration(pid: number): Registration | undefined {
  try {
    return JSON.parse(readFileSync(join(processesDir, String(pid)), 'utf8'));
  } catch {
    // Removed by its owner, or not yet written, in this very moment.
    return undefined;
  }
}

/** The process first, so that it makes no further children meanwhile. */
export function signalTree(pid: number, name: NodeJS.Signals): void {
  if (name === 'SIGKILL') signal(pid, 'SIGSTOP');
  const children = childrenOf(pid);
  for (const each of [pid, ...children]) signal(each, name);
}

export function descendants(pid: number): number[] {
  return childrenOf(pid).flatMap((child) => [child].concat(descendants(child)));
}

export function childrenOf(pid: number): number[] {
  const table = process.platform === 'linux' ? readProcTable() : readPsTable();
  return table.filter(([, parent]) => parent === pid).map(([child]) => child);
}

// Slim images have no ps.
function readProcTable(): [number, number][] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((name) => {
      try {
        // pid (name that may hold spaces) state ppid …
        const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
        return [Number(name), Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1])];
      } catch {
        return [Number(name), 0];
      }
    });
}

function readPsTable(): [number, number][] {
  const lines = execFileSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' }).trim().split('\n');
  return lines.map((line) => {
    const [pid, parent] = line.trim().split(/\s+/);
    return [Number(pid), Number(parent)];
  });
}
