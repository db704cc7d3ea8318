import { execFile } from 'node:child_process';
import { cpSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { createMigrationFile } from '../../../src/migrations/files.ts';
import { repositoryDir } from '../../../test/support/servers.ts';

const run = promisify(execFile);

const MIGRATION = `-- Up Migration
create table next_release (id integer primary key);

-- Down Migration
drop table next_release;
`;

/** What docker/Dockerfile puts into the image, in a folder: this release, compiled. */
export async function buildRelease(folder: string): Promise<string> {
  mkdirSync(folder, { recursive: true });
  const tsc = join(repositoryDir, 'node_modules/typescript/bin/tsc');
  const out = ['--outDir', join(folder, 'dist'), '--sourceMap', 'false'];
  const compiled = run(process.execPath, [tsc, '-p', 'tsconfig.build.json', ...out], { cwd: repositoryDir });
  await compiled.catch(({ stdout }: { stdout: string }) => {
    throw new Error(`src/ does not compile:\n${stdout}`);
  });
  cpSync(join(repositoryDir, 'package.json'), join(folder, 'package.json'));
  cpSync(join(repositoryDir, 'migrations'), join(folder, 'migrations'), { recursive: true });
  symlinkSync(join(repositoryDir, 'node_modules'), join(folder, 'node_modules'));
  return folder;
}

/** The release after: the same with one migration more. */
export function buildNextRelease(release: string, folder: string): string {
  cpSync(release, folder, { recursive: true, verbatimSymlinks: true });
  const file = createMigrationFile(join(folder, 'migrations'), 'next_release');
  writeFileSync(file, MIGRATION);
  return folder;
}
