import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

/**
 * The command line of a living process, '' when there is none (a zombie counts as none). A pid out of a file
 * may have passed to another program, so nothing is signalled before this has been looked at.
 */
export function commandOf(pid: number): string {
  try {
    if (process.platform === 'linux')
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
    const windows = process.platform === 'win32';
    const [file, args] = windows
      ? (['tasklist', ['/FI', `PID eq ${pid}`, '/NH', '/FO', 'CSV']] as const)
      : (['ps', ['-ww', '-o', 'command=', '-p', String(pid)]] as const);
    return execFileSync(file, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  } catch {
    return '';
  }
}

/** Whether the signal could be sent; an ended process is no error. Never for group 0 or a wild pid. */
export function signal(pid: number, name: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, name);
  } catch {
    return false;
  }
}
