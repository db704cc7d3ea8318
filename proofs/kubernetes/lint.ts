import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findTool } from '../../test/support/tools.ts';
import { MANIFESTS } from '../../tools/k8s/manifests.ts';
import { hasGo } from './cluster/modules.ts';
import { KUBERNETES } from './programs.ts';
import { SCHEMA_NAMES, writeSchemas } from './cluster/schemas.ts';
import { Report } from '../stack/report.ts';

/**
 * `npm run check:k8s-lint`: lets those of the usual linters look at the manifests that are on PATH. Installs nothing;
 * what is absent is named. An exception stands in the manifest, with its reason.
 */
/** Of kinds that Kubernetes itself knows, and no example of what is refused. */
const BUILT_IN = ['optional/postgres.yaml', 'optional/redis.yaml'];
/** The current release, the two before that are supported, and the oldest that the manifests need. */
const RELEASES = [KUBERNETES, '1.36.3', '1.35.4', '1.30.14'];

const LINTERS: Record<string, { install: string; args(files: string[]): string[] }> = {
  'kube-score': {
    install: 'go install github.com/zegl/kube-score/cmd/kube-score@v1.20.0',
    args: (files) => [
      'score',
      '--output-format=ci',
      '--enable-optional-test=container-seccomp-profile',
      '--enable-optional-test=container-ports-check',
      '--exit-one-on-warning',
      ...files,
    ],
  },
  checkov: {
    install: 'pip install checkov==3.3.30',
    args: (files) => [
      ...files.flatMap((file) => ['--file', file]),
      '--framework=kubernetes',
      '--compact',
      '--quiet',
      '--skip-download',
    ],
  },
};
const KUBECONFORM = 'go install github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0';

async function lint(report: Report, files: string[], folder: string): Promise<void> {
  if (!findTool('kubeconform') || !hasGo()) absent('kubeconform', `Go, and ${KUBECONFORM}`);
  else {
    for (const release of RELEASES) {
      await report.check(`kubeconform -strict, Kubernetes ${release}`, async () => {
        const schemas = join(await writeSchemas(release, folder), SCHEMA_NAMES);
        return run('kubeconform', ['-strict', '-summary', '-schema-location', schemas, ...files]);
      });
    }
  }
  for (const [name, { install, args }] of Object.entries(LINTERS)) {
    if (!findTool(name)) absent(name, install);
    else await report.check(name, async () => run(name, args(files)));
  }
}

function absent(name: string, install: string): void {
  console.log(`ABSENT: ${name} (${install})`);
}

/** The last line that it prints. @throws Error with all lines that are findings when it fails */
function run(name: string, args: string[]): string {
  const { status, stdout, stderr } = spawnSync(name, args, { encoding: 'utf8', maxBuffer: 2 ** 26 });
  const lines = (stdout + stderr).split('\n').filter((line) => line && !/^\[(OK|SKIPPED)\]/.test(line));
  if (status !== 0) throw new Error(lines.join('\n'));
  return lines.at(-1) ?? 'no finding';
}

const temporary = mkdtempSync(join(tmpdir(), 'kubernetes-lint-'));
const outcome = new Report();
try {
  const names = readdirSync(MANIFESTS).filter((name) => name.endsWith('.yaml'));
  const files = [...names, ...BUILT_IN].map((name) => join(MANIFESTS, name));
  await lint(outcome, files, temporary);
} finally {
  rmSync(temporary, { recursive: true, force: true });
}
outcome.end();
process.exitCode = outcome.failed === 0 ? 0 : 1;
