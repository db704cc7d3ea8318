import {
  chmodSync,
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative, resolve } from 'node:path';
import {
  OWN_SERVER,
  findAccount,
  findTemporary,
  prepareDataDir,
  type Account,
} from './embedded-postgres-account.ts';
import { runProgram } from './processes.ts';

export interface PostgresBinaries {
  majorVersion: string;
  /** The folder asked for, or its stand-in. Belongs to the account that Postgres runs as. */
  dataDir: string;
  account: Account | undefined;
  /** Runs one of the programs to its end and returns its output. @throws Error with its output */
  run(program: string, args: string[]): Promise<string>;
}

/**
 * Makes the programs of `@embedded-postgres/<platform>-<arch>` and a data folder usable for a user that Postgres
 * accepts: whether or not install scripts ran, as root or not, wherever the repository lies.
 */
export async function prepareBinaries(
  wantedDataDir: string,
  say: (line: string) => void,
): Promise<PostgresBinaries> {
  const { native, version } = findPackage();
  const account = await findAccount(wantedDataDir);
  const dataDir = prepareDataDir(wantedDataDir, account, say);
  const runIn = (folder: string) => (program: string, args: string[]) =>
    runProgram(join(folder, 'bin', program), args, { ...account, cwd: dataDir });

  linkLibraries(native);
  let folder = native;
  if (await cannotRun(runIn(native))) {
    folder = findPlaceOfCopy(version, account);
    // It may be there from an earlier start, and may have been thinned out by a cleaner of temporary files.
    if (!existsSync(folder) || (await cannotRun(runIn(folder)))) copyBinaries(native, folder, say);
    const cause = await cannotRun(runIn(folder));
    const help = `Mend that, ${OWN_SERVER}.`;
    if (cause)
      throw new Error(`The embedded Postgres does not run here: ${cause.message}. ${help}`, { cause });
  }
  return { majorVersion: version.split('.')[0] ?? version, dataDir, account, run: runIn(folder) };
}

function findPackage(): { native: string; version: string } {
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const name = `@embedded-postgres/${platform}-${process.arch}`;
  try {
    const wrapper = createRequire(import.meta.url).resolve('embedded-postgres');
    const folder = dirname(dirname(createRequire(wrapper).resolve(name)));
    const { version }: { version: string } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
    return { native: join(folder, 'native'), version };
  } catch (cause) {
    const help = `Run "npm ci" on this machine, without --omit, ${OWN_SERVER}.`;
    throw new Error(`The package ${name} is not installed. ${help}`, { cause });
  }
}

/** Why not, or undefined. @throws Error when no copy elsewhere could change it */
async function cannotRun(run: PostgresBinaries['run']): Promise<Error | undefined> {
  try {
    await run('postgres', ['--version']);
    return undefined;
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    // What is missing is not the program, which npm installed, but the loader named in it.
    if (!('code' in error && error.code === 'ENOENT')) return error;
    const help = `Alpine and other musl systems have none. Use another system, ${OWN_SERVER}.`;
    throw new Error(`The embedded Postgres needs glibc. ${help}`, { cause: error });
  }
}

/** npm does not pack symlinks; the package's install script makes them, where npm lets it run. */
function linkLibraries(native: string): void {
  const list = join(native, 'pg-symlinks.json');
  if (!existsSync(list)) return;
  const links: { source: string; target: string }[] = JSON.parse(readFileSync(list, 'utf8'));
  for (const { source, target } of links) {
    const [from, to] = [resolve(native, '..', source), resolve(native, '..', target)];
    try {
      if (!lstatSync(to, { throwIfNoEntry: false })) symlinkSync(relative(dirname(to), from), to);
    } catch {
      // Made by somebody else this moment, or we may not write there: whether the programs run will show.
    }
  }
}

/** For a package that we cannot write to, or that the account cannot read. Only we can change what is there. */
function findPlaceOfCopy(version: string, account: Account | undefined): string {
  const uid = process.getuid?.() ?? 0;
  const copy = join(findTemporary(account), `hardpoint-postgres-${version}-${uid}`);
  const owner = lstatSync(copy, { throwIfNoEntry: false })?.uid ?? uid;
  if (owner !== uid) throw new Error(`${copy} belongs to user ${owner}. Remove it, ${OWN_SERVER}.`);
  return copy;
}

function copyBinaries(native: string, copy: string, say: (line: string) => void): void {
  say(`Copying the Postgres programs to ${copy} (once)…`);
  // Made beside its place and moved there: a copy that was broken off is never used.
  const draft = `${copy}.${process.pid}`;
  copyFolder(native, join(draft, 'native'));
  linkLibraries(join(draft, 'native'));
  rmSync(copy, { recursive: true, force: true });
  renameSync(join(draft, 'native'), copy);
  rmSync(draft, { recursive: true });
}

/** Readable for everybody, whatever the original is. Symlinks are left out. */
function copyFolder(from: string, to: string): void {
  mkdirSync(to, { recursive: true });
  chmodSync(to, 0o755);
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const [source, target] = [join(from, entry.name), join(to, entry.name)];
    if (entry.isDirectory()) copyFolder(source, target);
    if (!entry.isFile()) continue;
    copyFileSync(source, target);
    chmodSync(target, 0o755);
  }
}
