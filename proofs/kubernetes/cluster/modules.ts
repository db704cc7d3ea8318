import { execFile, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Whether the Go toolchain is on PATH, which fetches modules. */
export function hasGo(): boolean {
  return spawnSync('go', ['version'], { stdio: 'ignore' }).status === 0;
}

/** A Go module such as `k8s.io/api@v0.37.1`, unpacked: where it lies, and its go.mod. @throws Error when it cannot be had */
export async function downloadModule(module: string): Promise<{ dir: string; goMod: string }> {
  const options = { cwd: tmpdir(), env: { ...process.env, GOFLAGS: '-mod=mod' } };
  const { stdout } = await run('go', ['mod', 'download', '-json', module], options);
  const { Dir, GoMod } = JSON.parse(stdout) as { Dir: string; GoMod: string };
  return { dir: Dir, goMod: readFileSync(GoMod, 'utf8') };
}
