import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, skipChecks, type Report } from '../stack/report.ts';
import { findTool } from '../../test/support/tools.ts';

const run = promisify(execFile);
/** Of the certificate, and what testssl cannot try with the OpenSSL at hand; sslyze tries renegotiation as well. */
const NOT_OF_NGINX = /^cert|^DNS_|^OCSP|^scan|^engine_problem$|^secure_renego$/i;
const TIMEOUT_MS = 8 * 60_000;

/** The two programs that others judge TLS with. The certificate of the proof is its own: what they say of it is left out. */
export async function judgeTls(port: number, report: Report): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'hardpoint-tls-'));
  try {
    await judgeWith('testssl', 'Debian: apt-get install testssl.sh', report, (file) =>
      runTestssl(file, port, join(folder, 'testssl.json')),
    );
    await judgeWith('sslyze', 'pip install sslyze', report, (file) =>
      runSslyze(file, port, join(folder, 'sslyze.json')),
    );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function judgeWith(
  name: string,
  howToGet: string,
  report: Report,
  work: (file: string) => Promise<string>,
): Promise<void> {
  const file = findTool(name) ?? findTool(`${name}.sh`);
  if (file) await report.check(`${name} finds nothing in TLS`, () => work(file));
  else if (skipChecks(`TLS is not judged by ${name}: it is not on PATH (${howToGet})`) !== 0)
    report.failed += 1;
}

interface Finding {
  id: string;
  severity: string;
  finding: string;
}

async function runTestssl(file: string, port: number, output: string): Promise<string> {
  const checks = ['--protocols', '--server-defaults', '--server-preference', '--fs', '--vulnerable'];
  const options = ['--quiet', '--color', '0', '--warnings', 'off', '--jsonfile', output, ...checks];
  // Its exit code counts findings, of which some are of the certificate.
  await run(file, [...options, `localhost:${port}`], { timeout: TIMEOUT_MS }).catch(() => undefined);
  const findings: Finding[] = JSON.parse(readFileSync(output, 'utf8'));
  expect(findings.length > 50, `it looked at ${findings.length} things only`);
  const bad = findings.filter(
    ({ id, severity }) =>
      ['MEDIUM', 'HIGH', 'CRITICAL', 'WARN', 'FATAL'].includes(severity) && !NOT_OF_NGINX.test(id),
  );
  expect(
    bad.length === 0,
    bad.map(({ id, severity, finding }) => `${severity} ${id}: ${finding}`).join('; '),
  );
  return `${findings.length} findings, none of them bad`;
}

async function runSslyze(file: string, port: number, output: string): Promise<string> {
  await run(file, [`--json_out=${output}`, `localhost:${port}`], { timeout: TIMEOUT_MS }).catch(
    () => undefined,
  );
  const [server] = JSON.parse(readFileSync(output, 'utf8')).server_scan_results;
  expect(server?.connectivity_status === 'COMPLETED', 'it could not connect');
  const results = server.scan_result;
  const bad: string[] = [];
  for (const old of ['ssl_2_0', 'ssl_3_0', 'tls_1_0', 'tls_1_1']) {
    const accepted: unknown[] = results[`${old}_cipher_suites`].result.accepted_cipher_suites;
    if (accepted.length > 0) bad.push(`${old} is accepted`);
  }
  for (const name of ['tls_1_2', 'tls_1_3']) {
    const accepted: unknown[] = results[`${name}_cipher_suites`].result.accepted_cipher_suites;
    if (accepted.length === 0) bad.push(`${name} is refused`);
  }
  if (results.heartbleed.result.is_vulnerable_to_heartbleed) bad.push('Heartbleed');
  if (results.openssl_ccs_injection.result.is_vulnerable_to_ccs_injection) bad.push('CCS injection');
  if (results.tls_compression.result.supports_compression) bad.push('compression');
  if (results.session_renegotiation.result.is_vulnerable_to_client_renegotiation_dos)
    bad.push('renegotiation');
  if (!String(results.robot.result.robot_result).startsWith('NOT_VULNERABLE')) bad.push('ROBOT');
  expect(bad.length === 0, bad.join(', '));
  return 'protocols, ciphers, Heartbleed, CCS, ROBOT, compression, renegotiation';
}
