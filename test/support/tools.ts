import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import type { Test } from 'tap';

/** The path of a program on PATH. */
export function findTool(name: string): string | undefined {
  const suffix = process.platform === 'win32' ? '.exe' : '';
  const folders = (process.env.PATH ?? '').split(delimiter).filter(Boolean);
  return folders.map((folder) => join(folder, name + suffix)).find(isExecutable);
}

/** The same for a test that cannot do without: undefined after it was skipped loudly, a failure with REQUIRE_TOOLS=1. */
export function requireTool(t: Test, name: string): string | undefined {
  const file = findTool(name);
  if (!file) skipLoudly(t, `needs ${name}: install it and put it on PATH`, process.env.REQUIRE_TOOLS === '1');
  return file;
}

/** A skip nobody sees is a test nobody runs: it goes to stderr as well. @throws Error when `required` */
export function skipLoudly(t: Test, reason: string, required: boolean): void {
  if (required) throw new Error(`${t.fullname} ${reason}`);
  process.stderr.write(`SKIPPED: ${t.fullname} ${reason}\n`);
  t.pass(reason, { skip: reason });
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
