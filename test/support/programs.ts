import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import type { Test } from 'tap';
import { findFreePort } from '../../tools/dev/free-port.ts';
import { forgetProcess, registerProcess, signalTree } from './processes.ts';
import { until } from './until.ts';

export interface ProgramOptions {
  file: string;
  /** What it is told, once it is known where it listens and which empty folder is its own. */
  args(address: string, folder: string): string[];
  env?: Record<string, string>;
  /** Files of that folder, by their names. */
  files?: Record<string, string>;
  /** Answers with 2xx as soon as the program can be used. */
  readyPath: string;
}

/** A server that is no part of the project, on a free port of loopback; killed with its folder when `t` ends. */
export async function startProgram(t: Test, options: ProgramOptions): Promise<{ url: string }> {
  const { file, args, env, files = {}, readyPath } = options;
  const folder = mkdtempSync(join(tmpdir(), 'hardpoint-test-'));
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
  const address = `127.0.0.1:${await findFreePort()}`;
  const child = spawn(file, args(address, folder), {
    env: { PATH: process.env.PATH, ...env },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let log = '';
  child.stderr.on('data', (chunk: Buffer) => (log += chunk.toString()));
  const { pid } = child;
  if (pid === undefined) throw new Error(`${file} did not start`);
  registerProcess(pid, basename(file), folder);
  t.teardown(() => {
    signalTree(pid, 'SIGKILL');
    forgetProcess(pid);
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  });

  const url = `http://${address}`;
  const ready = until(`${basename(file)} is ready`, () => answersOk(url + readyPath), 20_000);
  await ready.catch((cause) => {
    throw new Error(`${(cause as Error).message}\n${log}`, { cause });
  });
  return { url };
}

async function answersOk(url: string): Promise<boolean> {
  try {
    const response = await fetch(url);
    await response.arrayBuffer();
    return response.ok;
  } catch {
    return false;
  }
}
