import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { findTool } from '../../test/support/tools.ts';
import { downloadModule, hasGo } from './cluster/modules.ts';

/** The release that everything is checked against. */
export const KUBERNETES = '1.37.1';

const CACHE = fileURLToPath(new URL(`../../node_modules/.cache/kubernetes-${KUBERNETES}/`, import.meta.url));
const MINOR = KUBERNETES.replace(/\.\d+$/, '');
const CONTROL_PLANE = ['kubectl', 'kube-apiserver', 'kube-controller-manager', 'kube-scheduler'] as const;
const ETCD = 'go.etcd.io/etcd/server/v3';

const PROGRAMS = ['etcd', ...CONTROL_PLANE] as const;
type Program = (typeof PROGRAMS)[number];

/** Paths of the programs that a cluster without nodes consists of. */
export type Programs = Record<Program, string>;

/**
 * Those on PATH that are of the release, else those that were built before, else built now, with Go.
 * @returns undefined where Go would be needed and is not there
 */
export async function findPrograms(say: (line: string) => void): Promise<Programs | undefined> {
  const found = PROGRAMS.map((name) => [name, findOfRelease(name) ?? join(CACHE, name)] as const);
  const missing = found.filter(([, file]) => !existsSync(file)).map(([name]) => name);
  if (missing.length > 0) {
    if (!hasGo()) return undefined;
    say(`building ${missing.join(', ')} of Kubernetes ${KUBERNETES}, once: 10 to 30 minutes`);
    await build(missing, say);
  }
  return Object.fromEntries(found) as Programs;
}

function findOfRelease(name: Program): string | undefined {
  const file = findTool(name);
  if (!file) return undefined;
  const args = name === 'kubectl' ? ['version', '--client'] : ['--version'];
  const { stdout } = spawnSync(file, args, { encoding: 'utf8' });
  return stdout?.includes(name === 'etcd' ? 'etcd Version: 3.' : ` v${MINOR}.`) ? file : undefined;
}

/**
 * `go install` refuses a module whose go.mod replaces others by folders of its own; a module that replaces them by
 * what is published of the same release builds.
 */
async function build(names: Program[], say: (line: string) => void): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'kubernetes-build-'));
  const env = { ...process.env, GOFLAGS: '-mod=mod', CGO_ENABLED: '0' };
  mkdirSync(CACHE, { recursive: true });
  try {
    const { goMod } = await downloadModule(`k8s.io/kubernetes@v${KUBERNETES}`);
    const replaced = [...goMod.matchAll(/^\t(\S+) => \.\/staging/gm)].map(([, name]) => name);
    const lines = replaced.map((name) => `\t${name} => ${name} v0${KUBERNETES.slice(1)}\n`);
    const required = `require k8s.io/kubernetes v${KUBERNETES}`;
    writeFileSync(
      join(folder, 'go.mod'),
      `module cluster\n\ngo 1.26\n\n${required}\n\nreplace (\n${lines.join('')})\n`,
    );
    const packages = names.map((name) => (name === 'etcd' ? ETCD : `k8s.io/kubernetes/cmd/${name}`));
    // Without a version, `go get` would take the latest patch, which does not build with the replacements above.
    const wanted = packages.map((name) => (name === ETCD ? name : `${name}@v${KUBERNETES}`));
    await go(['get', ...wanted], folder, env);
    for (const [index, name] of names.entries()) {
      say(`building ${name}`);
      const flags = ['-ldflags', `-s -w ${versionFlags()}`, '-o', join(CACHE, name)];
      await go(['build', ...flags, packages[index] ?? ''], folder, env);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function versionFlags(): string {
  const [major, minor] = KUBERNETES.split('.');
  const values = { gitVersion: `v${KUBERNETES}`, gitMajor: major, gitMinor: minor };
  return Object.entries(values)
    .map(([name, value]) => `-X k8s.io/component-base/version.${name}=${value}`)
    .join(' ');
}

function go(args: string[], cwd: string, env: NodeJS.ProcessEnv): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn('go', args, { cwd, env, stdio: ['ignore', 'inherit', 'inherit'] });
    child.once('error', reject);
    child.once('exit', (code) =>
      code === 0 ? resolve() : reject(new Error(`go ${args[0]} failed, see above`)),
    );
  });
}
