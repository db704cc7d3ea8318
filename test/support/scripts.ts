import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Test } from 'tap';
import { signal } from '../../tools/dev/processes.ts';
import { forgetProcess, registerProcess } from './processes.ts';
import { repositoryDir } from './servers.ts';

export interface ScriptResult {
  /** Exit code, or the signal that ended it. */
  code: number | string;
  stdout: string;
  stderr: string;
}

export interface RunningScript {
  pid: number;
  result: Promise<ScriptResult>;
  /** What it printed so far. */
  stdout(): string;
  /** To it and to all that it started. */
  signal(name: NodeJS.Signals): void;
}

/** Starts a program with this environment and PATH alone; it and what it started end with `t`. */
export function startScript(
  t: Test,
  file: string,
  args: string[],
  env: Record<string, string>,
): RunningScript {
  const child = spawn(file, args, {
    cwd: repositoryDir,
    env: { PATH: process.env.PATH, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  const { pid } = child;
  if (pid === undefined) throw new Error(`${file} did not start`);
  registerProcess(pid, file);
  const output = { stdout: '', stderr: '' };
  child.stdout.on('data', (chunk: Buffer) => (output.stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (output.stderr += chunk.toString()));
  const result = once(child, 'close').then(([code, ended]) => {
    forgetProcess(pid);
    return { code: code ?? ended, ...output };
  });
  t.teardown(() => {
    signal(-pid, 'SIGKILL');
    return result;
  });
  return { pid, result, stdout: () => output.stdout, signal: (name) => void signal(-pid, name) };
}

/** The same, to its end. */
export function runScript(
  t: Test,
  file: string,
  args: string[],
  env: Record<string, string>,
): Promise<ScriptResult> {
  return startScript(t, file, args, env).result;
}

/** An empty folder, gone when `t` ends. */
export function temporaryFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'hardpoint-test-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }));
  return folder;
}

/** Writes these files below the folder. */
export function writeFiles(folder: string, files: Record<string, string | Buffer>): void {
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), content);
  }
}

/** A PATH on which these bash scripts come first, in the place of the programs of their names. */
export function pathWith(t: Test, programs: Record<string, string>, path = process.env.PATH ?? ''): string {
  const folder = temporaryFolder(t);
  for (const [name, text] of Object.entries(programs)) {
    writeFileSync(join(folder, name), `#!/usr/bin/env bash\n${text}`);
    chmodSync(join(folder, name), 0o755);
  }
  return `${folder}:${path}`;
}
