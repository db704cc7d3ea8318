import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
import { repositoryDir } from './servers.ts';

/** The parts of a service in compose.yaml that are read here. */
export interface ComposeService {
  image: string;
  build?: unknown;
  user: string;
  read_only?: boolean;
  privileged?: boolean;
  init?: boolean;
  network_mode?: string;
  pid?: string;
  restart: string;
  profiles?: string[];
  cap_drop?: string[];
  cap_add?: string[];
  security_opt?: string[];
  pids_limit?: number;
  mem_limit?: string;
  cpus?: number;
  stop_grace_period?: string;
  logging?: { driver: string; options: Record<string, string> };
  healthcheck?: { test?: string[]; disable?: boolean; timeout?: string; interval?: string };
  depends_on?: Record<string, { condition: string }>;
  command?: string[];
  entrypoint?: string[];
  environment?: Record<string, string | number | null>;
  ports?: string[];
  networks?: string[] | Record<string, { ipv4_address?: string; aliases?: string[] }>;
  tmpfs?: string[];
  volumes?: (string | ComposeVolume)[];
}

export interface ComposeVolume {
  type: string;
  source: string;
  target: string;
  read_only?: boolean;
  volume?: { subpath: string };
}

export interface Compose {
  services: Record<string, ComposeService>;
  networks: Record<string, { internal?: boolean; driver_opts?: Record<string, string> }>;
}

/** compose.yaml as it is with this environment, anchors and defaults filled in. */
export function readCompose(env: Record<string, string> = {}): Compose {
  let text = readText('compose.yaml');
  // From the inside: a default may name another variable.
  for (let before = ''; before !== text;) {
    before = text;
    text = text.replaceAll(/\$\{(\w+)(:?)-([^{}]*)\}/g, (_, name: string, colon: string, preset: string) => {
      const value = env[name];
      return value === undefined || (colon && value === '') ? preset : value;
    });
  }
  const compose: Compose = parse(text, { merge: true });
  for (const { environment = {} } of Object.values(compose.services)) {
    for (const [name, value] of Object.entries(environment)) {
      if (value !== null) continue;
      if (env[name] === undefined) delete environment[name];
      else environment[name] = env[name];
    }
  }
  return compose;
}

/** The same as docker compose reads it. */
export function readComposeByDocker(docker: string, env: Record<string, string> = {}): Compose {
  const { PATH = '', HOME = '' } = process.env;
  const args = ['compose', '--env-file', '/dev/null', '--profile', '*', 'config', '--format', 'json'];
  const text = execFileSync(docker, args, {
    cwd: repositoryDir,
    env: { PATH, HOME, ...env },
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const compose: Compose = JSON.parse(text.replaceAll('$$', '$'));
  for (const { environment = {} } of Object.values(compose.services)) {
    for (const [name, value] of Object.entries(environment)) if (value === null) delete environment[name];
  }
  return compose;
}

/** Of a file of the project. */
export function readText(path: string): string {
  return readFileSync(join(repositoryDir, path), 'utf8');
}

/** `45s`, `10m` or `1m30s` in ms. */
export function durationMs(text: string): number {
  const units: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };
  const parts = [...text.matchAll(/(\d+)(ms|s|m|h|d)/g)];
  if (parts.length === 0) throw new Error(`${text} is no duration`);
  return parts.reduce((sum, [, count, unit = '']) => sum + Number(count) * (units[unit] ?? NaN), 0);
}
