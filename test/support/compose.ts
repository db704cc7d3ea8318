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
  environment?: Record<string, string | number>;
  ports?: string[];
  networks?: string[];
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
  networks: Record<string, { internal?: boolean }>;
}

/** compose.yaml as it is with an empty environment, anchors and defaults filled in. */
export function readCompose(): Compose {
  const text = readText('compose.yaml').replaceAll(/\$\{\w+:-([^}]*)\}/g, '$1');
  return parse(text, { merge: true });
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
