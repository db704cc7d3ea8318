import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import { requireTool } from './tools.ts';

const KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];

export interface Authority {
  /** Its own certificate, for NODE_EXTRA_CA_CERTS. */
  file: string;
  /** A certificate for names such as `IP:127.0.0.1,DNS:localhost`; with `days` -1 it has expired. */
  issue(names: string, days?: number): { certificate: string; key: string };
}

/** Made for this test; undefined as with requireTool. */
export function createAuthority(t: Test): Authority | undefined {
  const openssl = requireTool(t, 'openssl');
  if (!openssl) return undefined;
  const folder = mkdtempSync(join(tmpdir(), 'hardpoint-tls-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const run = (...words: string[]) => execFileSync(openssl, words, { cwd: folder, stdio: 'ignore' });
  run('req', '-x509', ...KEY, '-days', '1', '-subj', '/CN=authority', '-keyout', 'ca.key', '-out', 'ca.crt');
  let issued = 0;

  return {
    file: join(folder, 'ca.crt'),

    issue(names, days = 1) {
      const name = `server-${(issued += 1)}`;
      writeFileSync(join(folder, `${name}.ext`), `subjectAltName=${names}\n`);
      run('req', ...KEY, '-subj', `/CN=${name}`, '-keyout', `${name}.key`, '-out', `${name}.csr`);
      const signer = ['-CA', 'ca.crt', '-CAkey', 'ca.key', '-CAcreateserial', '-extfile', `${name}.ext`];
      run('x509', '-req', '-in', `${name}.csr`, ...signer, '-days', String(days), '-out', `${name}.crt`);
      return { certificate: join(folder, `${name}.crt`), key: join(folder, `${name}.key`) };
    },
  };
}
