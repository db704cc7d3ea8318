import { createHash } from 'node:crypto';
import {
  accessSync,
  chmodSync,
  chownSync,
  constants,
  existsSync,
  lstatSync,
  mkdirSync,
  realpathSync,
  statSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { runProgram } from './processes.ts';

/** As whom Postgres runs when we are root, which it refuses to be. */
export interface Account {
  uid: number;
  gid: number;
}

/** The end of every message about a machine on which the embedded Postgres cannot be had. */
export const OWN_SERVER = 'or set DATABASE_URL to a Postgres of your own';

const NOBODY = 65534;

/**
 * Undefined when we are not root. Else the owner of the data folder or of what lies above it, so that `sudo` in
 * somebody's repository leaves data that he can use; else the first that the kernel lets us become (a user
 * namespace may lack some).
 */
export async function findAccount(dataDir: string): Promise<Account | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  const owner = ownerOf(dataDir);
  const others = [NOBODY, 1000, 1].map((id) => ({ uid: id, gid: id }));
  let cause: unknown;
  for (const account of owner.uid === 0 ? others : [owner, ...others]) {
    try {
      await runProgram('/bin/sh', ['-c', ':'], { ...account, cwd: '/' });
      return account;
    } catch (error) {
      cause = error;
    }
  }
  const help = `Start as another user, ${OWN_SERVER}.`;
  throw new Error(`Postgres does not run as root, and no other user can be had here. ${help}`, { cause });
}

/** Makes the folder, or its stand-in below the temporary folder where the account cannot reach it; returns its path. */
export function prepareDataDir(
  wanted: string,
  account: Account | undefined,
  say: (line: string) => void,
): string {
  mkdirSync(wanted, { recursive: true, mode: account ? 0o755 : 0o700 });
  let dataDir = realpathSync(wanted);
  if (!account) {
    refuseForeign(dataDir);
    return dataDir;
  }
  if (!canReach(dirname(dataDir), account)) {
    const name = createHash('sha256').update(dataDir).digest('hex').slice(0, 12);
    dataDir = join(findTemporary(account), `hardpoint-data-${name}`);
    say(`The user that Postgres runs as cannot reach ${wanted}; its data is in ${dataDir}.`);
    mkdirSync(dataDir, { recursive: true, mode: 0o700 });
    // Anybody can make folders there: one that is not ours may be a trap.
    const { uid } = lstatSync(dataDir);
    if (uid !== 0 && uid !== account.uid)
      throw new Error(`${dataDir} belongs to user ${uid}. Remove it, ${OWN_SERVER}.`);
  }
  chownSync(dataDir, account.uid, account.gid);
  chmodSync(dataDir, 0o700);
  return dataDir;
}

/** A temporary folder that the account, or ourselves, can reach. */
export function findTemporary(account: Account | undefined): string {
  if (!account) return realpathSync(tmpdir());
  // The first is not emptied when the machine starts.
  const found = ['/var/tmp', tmpdir(), '/tmp'].find(
    (folder) => existsSync(folder) && canReach(realpathSync(folder), account),
  );
  if (!found)
    throw new Error(`User ${account.uid} can reach no temporary folder. Set TMPDIR, ${OWN_SERVER}.`);
  return realpathSync(found);
}

function ownerOf(folder: string): Account {
  if (!existsSync(folder)) return ownerOf(dirname(folder));
  const { uid, gid } = statSync(folder);
  return { uid, gid };
}

/** By the mode bits of the folder and all above it. */
function canReach(folder: string, account: Account): boolean {
  const { uid, gid, mode } = statSync(folder);
  const shift = uid === account.uid ? 6 : gid === account.gid ? 3 : 0;
  if (((mode >> shift) & 1) === 0) return false;
  return dirname(folder) === folder || canReach(dirname(folder), account);
}

function refuseForeign(dataDir: string): void {
  try {
    accessSync(dataDir, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (cause) {
    const help = `Remove it as its owner, ${OWN_SERVER}.`;
    throw new Error(
      `${dataDir} belongs to user ${statSync(dataDir).uid}, who ran this here before. ${help}`,
      { cause },
    );
  }
}
