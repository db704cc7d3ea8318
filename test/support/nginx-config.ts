import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { repositoryDir } from './servers.ts';

/** What the configuration says of a container, and what stands in its place here. */
export type Places = [inContainer: string | RegExp, here: string][];

/** nginx/ in `folder`, changed so. @throws Error when something to be replaced is no longer there */
export function writeConfiguration(folder: string, places: Places): void {
  const source = join(repositoryDir, 'nginx');
  const names = ['nginx.conf', ...readdirSync(join(source, 'conf.d')).map((name) => `conf.d/${name}`)];
  const texts = names.map((name) => readFileSync(join(source, name), 'utf8'));
  for (const [from, to] of places) {
    const changed = texts.map((text) => text.replaceAll(from, to));
    if (changed.join() === texts.join()) throw new Error(`nginx/ no longer says ${String(from)}`);
    texts.splice(0, texts.length, ...changed);
  }
  for (const [index, name] of names.entries()) writeFileSync(join(folder, name), texts[index] ?? '');
}

/** The files that the container's entrypoint makes, by the same script. */
export function writeIncludes(folder: string, env: Record<string, string> = {}): void {
  const { PATH = '' } = process.env;
  execFileSync(join(repositoryDir, 'nginx/limits.sh'), { env: { PATH, INCLUDES: folder, ...env } });
}

/** Debian's nginx is older than the one in compose.yaml: what this one does not know. */
export function placesOfOlder(nginx: string): Places {
  const { stderr } = spawnSync(nginx, ['-V'], { encoding: 'utf8' });
  const version = versionIn(/nginx\/(\d+)\.(\d+)\.(\d+)/, stderr);
  const openssl = versionIn(/OpenSSL (\d+)\.(\d+)\.(\d+)/, stderr);
  return [
    ...(version < versionOf(1, 25, 1) ? ([[/ssl;(\n.*)\n +http2 on;/g, 'ssl http2;$1']] as Places) : []),
    ...(version < versionOf(1, 27, 4) ? ([[/ +keepalive_min_timeout .*/g, '']] as Places) : []),
    ...(openssl < versionOf(3, 3, 0) ? ([['?X25519MLKEM768:', '']] as Places) : []),
  ];
}

function versionIn(pattern: RegExp, text: string): number {
  const [, major, minor, patch] = pattern.exec(text) ?? [];
  return versionOf(Number(major), Number(minor), Number(patch));
}

function versionOf(major: number, minor: number, patch: number): number {
  return major * 1e6 + minor * 1e3 + patch;
}
