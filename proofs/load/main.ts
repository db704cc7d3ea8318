// Goes with the example: src/features/orders
import { findTool } from '../../test/support/tools.ts';
import { provePages } from './page.ts';
import { proveLimits, proveLoads, proveMisses } from './checks.ts';
import { openWorld, type LoadWorld } from './environment.ts';
import { runChecks, skipChecks, type Report } from '../stack/report.ts';

/**
 * `npm run check:load`: runs every kind of load test, shortened, against three processes on loopback with a Postgres
 * and a Redis of their own, behind nginx where there is one, and shows that a missed promise ends a run with 99. Needs
 * k6 on PATH; where there is none it says so, and fails with REQUIRE_TOOLS=1 only. How fast a service is cannot be
 * told from it: docs/load-testing.md.
 */
const UNLIMITED = 1_000_000;
const HELP =
  'no k6 on PATH. Get a package from https://grafana.com/docs/k6/latest/set-up/install-k6/, or: go install go.k6.io/k6@v1.8.1';

async function prove(world: LoadWorld, report: Report): Promise<void> {
  const env = {
    API_KEYS_FILE: await world.makeKeys('load', 6, UNLIMITED),
    STATUS_URL: world.statusUrls,
  };
  const limits = Promise.all([40, 300].map((limit) => proveLimits(world, limit, report)));
  await proveLoads(world, env, report);
  await proveMisses(world, env, report);
  await limits;
  await provePages(world.folder, report);
}

async function main(): Promise<number> {
  if (!findTool('k6')) return skipChecks(HELP);
  const world = await openWorld();
  return runChecks((report) => prove(world, report), world.close);
}

process.exitCode = await main();
