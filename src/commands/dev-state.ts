import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createToken, parseToken } from '../stores/api-key-token.ts';
import { commandOf } from './processes.ts';

/** What makes the next start go on where this one ended: a key that still works, and the secrets behind it. */
export interface DevSecrets {
  token: string;
  keySecret: string;
  secretKey: string;
}

/** One `npm run dev` owns a state folder at a time. @throws Error naming the pid of the other one */
export function openDevState(folder: string) {
  mkdirSync(folder, { recursive: true });
  const lockFile = join(folder, 'dev.pid');
  const secretsFile = join(folder, 'dev-key.json');
  lock(lockFile);

  function save(secrets: DevSecrets): DevSecrets {
    rmSync(secretsFile, { force: true });
    writeFileSync(secretsFile, `${JSON.stringify(secrets, null, 2)}\n`, { mode: 0o600 });
    return secrets;
  }

  return {
    /** Those of an earlier start, unless its key is of another environment. */
    getSecrets(environment: string): DevSecrets {
      const saved = readSecrets(secretsFile);
      if (saved && parseToken(saved.token)?.environment === environment) return saved;
      return save({
        keySecret: saved?.keySecret ?? randomBytes(36).toString('base64url'),
        secretKey: saved?.secretKey ?? randomBytes(36).toString('base64url'),
        token: createToken(environment).token,
      });
    },
    /** For when the service no longer takes the saved key. */
    renewToken(secrets: DevSecrets, environment: string): DevSecrets {
      return save({ ...secrets, token: createToken(environment).token });
    },
    close(): void {
      rmSync(lockFile, { force: true });
    },
  };
}

function lock(file: string): void {
  try {
    writeFileSync(file, String(process.pid), { flag: 'wx' });
  } catch (cause) {
    const pid = Number(readFileSync(file, 'utf8'));
    if (commandOf(pid).includes('dev.ts')) {
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
    return token && keySecret && secretKey ? { token, keySecret, secretKey } : undefined;
  } catch {
    return undefined;
  }
}
