import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { RUNNING_FILE } from '../../src/cli/environment.ts';
import { commandOf } from './processes.ts';

/** What lets the next start go on where this one ended: the secrets, and the key that was made under them. */
export interface DevSecrets {
  keySecret: string;
  secretKey: string;
  token?: string;
}

/** One `npm run dev` owns a state folder at a time. @throws Error naming the pid of the other one */
export function openDevState(folder: string) {
  mkdirSync(folder, { recursive: true });
  const lockFile = join(folder, 'dev.pid');
  const secretsFile = join(folder, 'dev-key.json');
  const runningFile = join(folder, RUNNING_FILE);
  lock(lockFile);

  return {
    getSecrets(): DevSecrets {
      return readSecrets(secretsFile) ?? { keySecret: randomSecret(), secretKey: randomSecret() };
    },
    saveSecrets(secrets: DevSecrets): void {
      const text = `${JSON.stringify(secrets, null, 2)}\n`;
      writeFileSync(`${secretsFile}.new`, text, { mode: 0o600 });
      renameSync(`${secretsFile}.new`, secretsFile);
    },
    /** For commands in other terminals; gone again with `close`. */
    publish(settings: Record<string, string | undefined>): void {
      writeFileSync(runningFile, JSON.stringify(settings), { mode: 0o600 });
    },
    close(): void {
      rmSync(runningFile, { force: true });
      rmSync(lockFile, { force: true });
    },
  };
}

function lock(file: string): void {
  try {
    writeFileSync(file, String(process.pid), { flag: 'wx' });
  } catch (cause) {
    const pid = Number(readFileSync(file, 'utf8'));
    if (/tools.dev.main\.ts/.test(commandOf(pid))) {
      const ways = 'Stop that one first, or give this one a folder of its own with DEV_STATE_DIR.';
      throw new Error(`npm run dev is running here already (pid ${pid}). ${ways}`, { cause });
    }
    rmSync(file, { force: true });
    lock(file);
  }
}

function readSecrets(file: string): DevSecrets | undefined {
  try {
    const secrets: Partial<DevSecrets> = JSON.parse(readFileSync(file, 'utf8'));
    const { token, keySecret, secretKey } = secrets;
    return keySecret && secretKey ? { keySecret, secretKey, ...(token && { token }) } : undefined;
  } catch {
    // Missing at the first start; damaged counts as missing.
    return undefined;
  }
}

function randomSecret(): string {
  return randomBytes(36).toString('base64url');
}
