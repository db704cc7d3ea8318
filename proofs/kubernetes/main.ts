import { proveAdmission } from './cluster/admission.ts';
import { proveApply, proveServerSideApply } from './cluster/apply.ts';
import { openCluster } from './cluster/cluster.ts';
import { proveCronJobs } from './cluster/jobs.ts';
import { proveOptional } from './optional.ts';
import { findPrograms, KUBERNETES, type Programs } from './programs.ts';
import { proveRollouts } from './rollouts.ts';
import { proveScaling } from './scaling.ts';
import { proveStart } from './start.ts';
import { openClusterWorld } from './environment.ts';
import { runChecks, skipChecks, type Report } from '../stack/report.ts';

type Closers = (() => Promise<void>)[];

/**
 * `npm run check:k8s`: starts the control plane of a Kubernetes cluster on loopback and plays its nodes, proves what
 * k8s/ promises, and ends all of it. Needs Go, to build the programs that are not on PATH; where it is missing this
 * says so, and fails with REQUIRE_TOOLS=1 only.
 */
async function prove(programs: Programs, report: Report, closers: Closers): Promise<void> {
  const cluster = await openCluster(programs);
  closers.push(cluster.close);
  await proveServerSideApply(cluster, report);

  const world = await openClusterWorld(cluster, closers);
  await proveApply(cluster, report);
  await proveAdmission(cluster, report);
  await proveStart(world, report);
  await proveRollouts(world, report);
  await proveScaling(world, report);
  await proveCronJobs(world, report);
  await proveOptional(cluster, report);
}

async function main(): Promise<number> {
  const programs = await findPrograms(console.log);
  if (!programs)
    return skipChecks('needs Go, to build the control plane of Kubernetes. Install it (https://go.dev/dl).');
  const closers: Closers = [];
  const close = async () => {
    for (const each of closers.splice(0).toReversed()) await each();
  };
  console.log(`Kubernetes ${KUBERNETES}: etcd, API server, controllers, scheduler`);
  return runChecks((report) => prove(programs, report, closers), close);
}

process.exitCode = await main();
