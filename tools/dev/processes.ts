import { execFileSync, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';

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

/**
 * Runs a program to its end, out of the terminal's process group: a Ctrl-C must not break it off halfway.
 * Returns what it printed. @throws Error with that, when it fails
 */
export function runProgram(
  file: string,
  args: string[],
  options: { cwd: string; uid?: number; gid?: number },
): Promise<string> {
  // Postgres' programs take defaults from these, and a locale that the machine may not even have.
  const inherited = Object.entries(process.env).filter(([name]) => !/^(PG|LC_|LANG)/.test(name));
  const env = Object.fromEntries(inherited);
  const detached = process.platform !== 'win32';
  return new Promise((done, failed) => {
    const stdio: ['ignore', 'pipe', 'pipe'] = ['ignore', 'pipe', 'pipe'];
    const child = spawn(file, args, { ...options, env, detached, windowsHide: true, stdio });
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (data: Buffer) => (output += data.toString()));
    child.on('error', failed);
    // On Windows a server that was started keeps our pipes open: there, its starter's end must do.
    child.on(detached ? 'close' : 'exit', (code, ended) => {
      if (code === 0) done(output);
      else failed(new Error(`${basename(file)} ended with ${code ?? ended}: ${output.trim()}`));
    });
  });
}
