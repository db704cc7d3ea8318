import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { findFreePort } from '../../../tools/dev/free-port.ts';
import { answersOk, startProcess, type RunningProcess } from '../../drill/processes.ts';
import { writeCredentials, writeKubeconfig } from '../credentials.ts';
import type { Programs } from '../programs.ts';
import { send } from '../request.ts';

/** What is read of any object; the rest is looked into by whoever knows its kind. */
export interface KubeObject {
  apiVersion: string;
  kind: string;
  metadata: {
    name: string;
    namespace?: string;
    uid: string;
    generation?: number;
    resourceVersion: string;
    creationTimestamp: string;
    deletionTimestamp?: string;
    deletionGracePeriodSeconds?: number;
    labels?: Record<string, string>;
    annotations?: Record<string, string>;
    ownerReferences?: { kind: string; name: string; uid: string }[];
  };
  spec: any;
  status: any;
}

/** A cluster without a node: etcd, the API server with its usual admission, the controllers and the scheduler. */
export interface Cluster {
  /** A folder that goes with it. */
  folder: string;
  /** Prints what kubectl prints, warnings as well. @throws Error with its stderr */
  kubectl(...args: string[]): Promise<string>;
  /** Variables with which a shell's kubectl is this one, and talks to this cluster. */
  shell: NodeJS.ProcessEnv;
  /** One request to the API server, as an administrator. @throws Error with the status and the answer */
  call<T = KubeObject>(method: string, path: string, body?: unknown): Promise<T>;
  list(path: string): Promise<KubeObject[]>;
  /** Ends every process. Never rejects. */
  close(): Promise<void>;
}

const MAX_OUTPUT_BYTES = 64 * 1024 * 1024;
const run = promisify(execFile);

export async function openCluster(programs: Programs): Promise<Cluster> {
  const folder = mkdtempSync(join(tmpdir(), 'hardpoint-kubernetes-'));
  const running: RunningProcess[] = [];
  const close = async (): Promise<void> => {
    // Who reads goes before whom it reads from.
    for (const each of running.toReversed()) await each.kill();
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  };
  const start = async (name: keyof Programs, args: string[], ready: () => Promise<boolean>) => {
    const logFile = join(folder, `${name}.log`);
    const { PATH } = process.env;
    const options = { file: programs[name], args, cwd: folder, env: { PATH, HOME: folder }, logFile, ready };
    running.push(await startProcess(options));
  };
  try {
    return await startAll();
  } catch (error) {
    await close();
    throw error;
  }

  async function startAll(): Promise<Cluster> {
    const [etcd, peer, port] = [await findFreePort(), await findFreePort(), await findFreePort()];
    const url = `http://127.0.0.1:${etcd}`;
    const urls = [
      `--listen-client-urls=${url}`,
      `--advertise-client-urls=${url}`,
      `--listen-peer-urls=http://127.0.0.1:${peer}`,
    ];
    const etcdArgs = [
      `--data-dir=${join(folder, 'etcd')}`,
      ...urls,
      '--unsafe-no-fsync',
      '--log-level=error',
    ];
    await start('etcd', etcdArgs, () => answersOk(`${url}/health`));

    const server = `https://127.0.0.1:${port}`;
    const tokens = writeCredentials(folder);
    await start('kube-apiserver', apiServerArgs(folder, url, port), async () => {
      const ready = { method: 'GET', url: `${server}/readyz`, token: tokens.admin, folder };
      return existsSync(join(folder, 'apiserver.crt')) && (await send(ready)) === 'ok';
    });
    for (const [user, token] of Object.entries(tokens)) writeKubeconfig(folder, server, user, token);
    const controllers = controllerArgs(folder);
    await start('kube-controller-manager', controllers, async () => true);
    const config = [`--kubeconfig=${join(folder, 'scheduler.kubeconfig')}`, '--leader-elect=false'];
    await start('kube-scheduler', [...config, '--secure-port=0'], async () => true);

    const call = async <T = KubeObject>(method: string, path: string, body?: unknown): Promise<T> =>
      JSON.parse(await send({ method, url: server + path, token: tokens.admin, folder, body })) as T;
    const shell = {
      KUBECONFIG: join(folder, 'admin.kubeconfig'),
      PATH: `${dirname(programs.kubectl)}${delimiter}${process.env.PATH}`,
    };
    return {
      folder,
      shell,
      async kubectl(...args) {
        // Its caches would lie in the home of whoever runs this.
        const env = { ...process.env, ...shell, HOME: folder };
        const { stdout, stderr } = await run(programs.kubectl, args, { env, maxBuffer: MAX_OUTPUT_BYTES });
        return (stdout + stderr).trim();
      },
      call,
      async list(path) {
        const { items } = await call<{ items: KubeObject[] }>('GET', path);
        return items;
      },
      close,
    };
  }
}

/** Without --tls-cert-file it makes a certificate of its own; the admission plugins are those it has by itself. */
function apiServerArgs(folder: string, etcdUrl: string, port: number): string[] {
  return [
    `--etcd-servers=${etcdUrl}`,
    '--bind-address=127.0.0.1',
    `--secure-port=${port}`,
    `--cert-dir=${folder}`,
    // What it tells of itself to pods, of which none asks; validated, so no loopback.
    '--advertise-address=10.96.0.2',
    '--endpoint-reconciler-type=none',
    '--service-cluster-ip-range=10.96.0.0/16',
    '--authorization-mode=Node,RBAC',
    // Usual where nodes run it themselves; what refuses it here is Pod Security.
    '--allow-privileged',
    `--token-auth-file=${join(folder, 'tokens.csv')}`,
    '--service-account-issuer=https://kubernetes.default.svc',
    `--service-account-key-file=${join(folder, 'accounts.pub')}`,
    `--service-account-signing-key-file=${join(folder, 'accounts.key')}`,
  ];
}

function controllerArgs(folder: string): string[] {
  return [
    `--kubeconfig=${join(folder, 'controllers.kubeconfig')}`,
    '--leader-elect=false',
    '--secure-port=0',
    '--use-service-account-credentials',
    `--service-account-private-key-file=${join(folder, 'accounts.key')}`,
    `--root-ca-file=${join(folder, 'apiserver.crt')}`,
    // Nobody renews the leases of the nodes.
    '--node-monitor-grace-period=24h',
    '--horizontal-pod-autoscaler-sync-period=1s',
  ];
}
