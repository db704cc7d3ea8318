// Goes with the example: src/features/orders
import { createKey, proveEdge, proveStart } from './basics.ts';
import { proveChanges } from './changes.ts';
import { findEngine, openStack, type Stack } from './engine.ts';
import { findServices } from './images.ts';
import { proveIsolation, proveSilence, proveSlowBodies } from './isolation.ts';
import { proveMonitoring } from './monitoring.ts';
import { proveOutages } from './outages.ts';
import { proveProfiles } from './profiles.ts';
import { runChecks, skipChecks, type Report } from './report.ts';
import { proveRestore } from './restore.ts';

/**
 * `npm run check:stack`: brings the stack of compose.yaml up under a name and ports of its own, proves what it
 * promises, and takes it down with its volumes. Needs a Docker engine; where none answers it says so, and fails with
 * REQUIRE_TOOLS=1 only. Services whose images cannot be had are left out, by name.
 */
const NO_LIMIT = 1_000_000;

async function prove(stack: Stack, report: Report): Promise<void> {
  const { services, leftOut } = await findServices(stack);
  for (const line of leftOut) console.log(`LEFT OUT: ${line}`);
  await proveStart(stack, services, report);
  const key = await createKey(stack, NO_LIMIT);
  await proveEdge(stack, key, report);
  await proveIsolation(stack, services, report);
  await proveSlowBodies(stack, key, report);
  if (services.includes('prometheus')) await proveMonitoring(stack, services, report);
  await proveChanges(stack, key, report);
  await proveOutages(stack, key, report);
  await proveRestore(stack, key, report);
  await proveProfiles(stack, key, report);
  await proveSilence(stack, key, report);
}

async function main(): Promise<number> {
  if (!findEngine()) return skipChecks('no Docker engine answers here. Install Docker, or start its daemon.');
  const stack = await openStack();
  return runChecks((report) => prove(stack, report), stack.close);
}

process.exitCode = await main();
