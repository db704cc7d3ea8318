import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { stateDir, type RedisProgram } from './servers.ts';
import { findTool } from './tools.ts';

const run = promisify(execFile);

/**
 * In this order: redis-server or valkey-server on PATH, Debian's packages unpacked into .hardpoint/redis
 * (nothing is installed, root is not needed), a container engine that answers.
 */
export async function findRedisProgram(): Promise<RedisProgram | undefined> {
  const installed = findTool('redis-server') ?? findTool('valkey-server');
  if (installed) return { file: installed };
  return (await unpackDebianPackages()) ?? (await findEngine());
}

async function unpackDebianPackages(): Promise<RedisProgram | undefined> {
  const folder = join(stateDir, 'redis');
  if (!existsSync(folder)) {
    if (!findTool('apt-get') || !findTool('dpkg')) return undefined;
    const draft = `${folder}.${process.pid}`;
    try {
      await downloadDebianPackages(draft);
      renameSync(draft, folder);
    } catch {
      // Offline, or a release without the package: not worth more than the next way.
      rmSync(draft, { recursive: true, force: true });
      return undefined;
    }
  }
  const libraries = readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.name.includes('.so'))
    .map((entry) => entry.parentPath);
  return { file: join(folder, 'usr/bin/redis-server'), libraryPath: [...new Set(libraries)].join(':') };
}

async function downloadDebianPackages(folder: string): Promise<void> {
  const packages = join(folder, 'packages');
  mkdirSync(packages, { recursive: true });
  const apt = ['-o', 'Acquire::http::Timeout=15', '-o', 'Acquire::Retries=0', '-o', 'Debug::NoLocking=1'];
  const options = { cwd: packages, timeout: 120_000 };
  // A slim image comes without package lists; they are had without touching the system's.
  if (
    !(await run('apt-get', ['download', '--print-uris', 'redis-server'], options).then(Boolean, () => false))
  ) {
    const lists = join(folder, 'lists');
    mkdirSync(join(lists, 'partial'), { recursive: true });
    apt.push('-o', `Dir::State::lists=${lists}`, '-o', `Dir::Cache=${join(folder, 'cache')}`);
    mkdirSync(join(folder, 'cache/archives/partial'), { recursive: true });
    await run('apt-get', [...apt, 'update'], options);
  }
  // What installing would bring along here, without doing it.
  const plan = await run(
    'apt-get',
    [...apt, '-s', '--no-install-recommends', 'install', 'redis-server'],
    options,
  );
  const names = [...plan.stdout.matchAll(/^Inst (\S+)/gm)].map(([, name = '']) => name);
  await run('apt-get', [...apt, 'download', ...new Set(['redis-server', 'redis-tools', ...names])], options);
  for (const name of readdirSync(packages)) await run('dpkg', ['-x', join(packages, name), folder]);
  for (const name of ['packages', 'lists', 'cache'])
    rmSync(join(folder, name), { recursive: true, force: true });
}

const IMAGE = 'redis:8';

async function findEngine(): Promise<RedisProgram | undefined> {
  if (!findTool('docker')) return undefined;
  return run('docker', ['run', '--rm', IMAGE, 'redis-server', '--version'], { timeout: 120_000 }).then(
    () => ({ image: IMAGE }),
    () => undefined,
  );
}
