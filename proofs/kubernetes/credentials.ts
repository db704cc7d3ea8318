import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Tokens of the users that Kubernetes' own roles know, and the key that service account tokens are signed with. */
export function writeCredentials(folder: string): Record<'admin' | 'controllers' | 'scheduler', string> {
  const make = () => randomBytes(24).toString('hex');
  const tokens = { admin: make(), controllers: make(), scheduler: make() };
  const rows = [
    `${tokens.admin},admin,1,system:masters`,
    `${tokens.controllers},system:kube-controller-manager,2`,
    `${tokens.scheduler},system:kube-scheduler,3`,
  ];
  writeFileSync(join(folder, 'tokens.csv'), rows.join('\n'), { mode: 0o600 });
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const write = (name: string, text: string | Buffer) =>
    writeFileSync(join(folder, name), text, { mode: 0o600 });
  write('accounts.key', privateKey.export({ type: 'sec1', format: 'pem' }));
  write('accounts.pub', publicKey.export({ type: 'spki', format: 'pem' }));
  return tokens;
}

/** As NAME.kubeconfig. The API server has written its certificate by then. */
export function writeKubeconfig(folder: string, server: string, user: string, token: string): void {
  const config = {
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [{ name: 'check', cluster: { server, 'certificate-authority': 'apiserver.crt' } }],
    users: [{ name: user, user: { token } }],
    contexts: [{ name: 'check', context: { cluster: 'check', user } }],
    'current-context': 'check',
  };
  writeFileSync(join(folder, `${user}.kubeconfig`), JSON.stringify(config), { mode: 0o600 });
}
