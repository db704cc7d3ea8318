import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { runApiKey } from '../../src/cli/api-key.ts';
import type { Cluster, KubeObject } from './cluster/cluster.ts';
import { buildNextRelease, buildRelease } from './cluster/images.ts';
import { MANIFESTS, VERSION } from '../../tools/k8s/manifests.ts';
import { openNodes, type Nodes } from './cluster/nodes.ts';
import { openPostgres } from './cluster/postgres.ts';

/** The version after this one. */
export const NEXT_VERSION = VERSION.replace(/\d+$/, (patch) => String(Number(patch) + 1));

/** A cluster with nodes, a Postgres, and the images of two releases. */
export interface ClusterWorld {
  cluster: Cluster;
  nodes: Nodes;
  /** Components whose containers may not begin; at first that of the Job. */
  held: Set<string>;
  /** Makes the secrets with the commands of k8s/optional/secret.example.yaml. */
  makeSecrets(): Promise<string>;
  /** A key of the service. */
  createKey(): Promise<string>;
  /** Pods of a component, those on their way out as well. */
  pods(component: string): Promise<KubeObject[]>;
}

const run = promisify(execFile);

/** What was started is pushed to `closers` at once, so that it is ended as well when a later part fails. */
export async function openClusterWorld(
  cluster: Cluster,
  closers: (() => Promise<void>)[],
): Promise<ClusterWorld> {
  const folder = mkdtempSync(join(tmpdir(), 'hardpoint-kubernetes-'));
  closers.push(async () => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }));
  // Postgres runs as another user when this runs as root.
  chmodSync(folder, 0o755);
  const release = await buildRelease(join(folder, VERSION));
  const postgres = await openPostgres(join(folder, 'postgres'), console.log);
  closers.push(postgres.close);
  const images = new Map([
    [VERSION, release],
    [NEXT_VERSION, buildNextRelease(release, join(folder, NEXT_VERSION))],
  ]);
  const held = new Set(['migrate']);
  const nodes = await openNodes(cluster, {
    findImage: (image) => (/\/hardpoint:/.test(image) ? images.get(image.replace(/^.*:/, '')) : undefined),
    isHeld: ({ metadata }) => held.has(metadata.labels?.['app.kubernetes.io/component'] ?? ''),
  });
  closers.push(nodes.close);
  const secrets: Record<string, string> = {
    'database-url': postgres.urlOf('app'),
    'migrator-url': postgres.urlOf('migrator'),
    // Redis is not part of this: the service does without, and says so.
    'redis-url': 'redis://127.0.0.1:1',
    'redis-cache-url': 'redis://127.0.0.1:1',
    'api-key-secret': randomBytes(32).toString('base64'),
    'secret-key': randomBytes(32).toString('base64'),
    password: randomBytes(16).toString('hex'),
    passphrase: randomBytes(16).toString('hex'),
  };

  return {
    cluster,
    nodes,
    held,
    async makeSecrets() {
      const values = join(folder, 'values');
      mkdirSync(values);
      for (const [name, value] of Object.entries(secrets)) writeFileSync(join(values, name), value);
      const env = { ...process.env, ...cluster.shell, HOME: folder };
      const { stdout } = await run('sh', ['-euc', readSecretCommands()], { cwd: values, env });
      return stdout.trim().split('\n').join(', ');
    },
    async createKey() {
      const env = { DATABASE_URL: secrets['database-url'], API_KEY_SECRET: secrets['api-key-secret'] };
      const scopes = ['--scopes', '*', '--limit', '1000000'];
      const made = await runApiKey(['create', '--tenant', 'check', ...scopes, '--json'], env);
      return (JSON.parse(made) as { token: string }).token;
    },
    pods: (component) => {
      const label = encodeURIComponent(`app.kubernetes.io/component=${component}`);
      return cluster.list(`/api/v1/namespaces/hardpoint/pods?labelSelector=${label}`);
    },
  };
}

/** The commands that the comment at the head of the example gives, as a shell reads them. */
function readSecretCommands(): string {
  const text = readFileSync(join(MANIFESTS, 'optional/secret.example.yaml'), 'utf8');
  const lines = text.split('\n').filter((line) => line.startsWith('#   '));
  return lines.map((line) => line.slice(2).trim()).join('\n');
}
