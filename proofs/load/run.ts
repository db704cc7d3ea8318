// Goes with the example: src/features/orders
import { execFile } from 'node:child_process';
import { mkdirSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { repositoryDir } from '../../test/support/servers.ts';

/** What load-tests/result.js writes, as far as it is looked at here. */
export interface LoadResult {
  type: string;
  passed: boolean;
  missed: string[];
  requests: number;
  requestsPerSecond: number;
  users: number;
  duration: { med: number; p95: number; p99: number; max: number };
  failedPercent: number;
  checksPercent: number;
  dropped: number;
  hitPercent: number | null;
  brokeAt: { second: number; offeredPerSecond: number; answeredPerSecond: number } | null;
  byKey: { admitted: number; denied: number; mostInAMinute: number }[];
  slices: { requests: number }[];
}

export interface LoadRun {
  code: number;
  output: string;
  result: LoadResult;
  page: string;
}

/** Runs load-tests/run.sh with these variables, and reads what it wrote below `folder`. @throws Error without results */
export async function runLoad(folder: string, type: string, env: Record<string, string>): Promise<LoadRun> {
  const results = join(folder, `results-${runs++}`);
  mkdirSync(results);
  const { code, output } = await new Promise<{ code: number; output: string }>((resolve) => {
    const options = {
      cwd: repositoryDir,
      env: { PATH: process.env.PATH, HOME: folder, INSECURE: 'true', ...env, RESULTS: results },
    };
    execFile(join(repositoryDir, 'load-tests/run.sh'), [type], options, (error, stdout, stderr) => {
      resolve({ code: error ? Number(error.code ?? -1) : 0, output: stdout + stderr });
    });
  });
  const names = readdirSync(results);
  const fileOf = (suffix: string) => {
    const name = names.find((each) => each.startsWith(type) && each.endsWith(suffix));
    if (name === undefined) throw new Error(`${type} ended with ${code} and wrote no ${suffix}: ${output}`);
    return join(results, name);
  };
  return {
    code,
    output,
    result: JSON.parse(readFileSync(fileOf('.json'), 'utf8')) as LoadResult,
    page: fileOf('.html'),
  };
}

let runs = 0;
