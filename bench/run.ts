// Goes with the example: src/features/orders
import autocannon from 'autocannon';
import { existsSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { makeWorld, type World } from './world.ts';
import { startServer, type Server } from './servers.ts';

if (process.argv[2] === 'keys')
  await (await import('./keys.ts')).benchKeys(console.log).then(() => process.exit());
if (process.argv[2] === 'cache')
  await (await import('./cache.ts')).benchCache(console.log).then(() => process.exit());

/**
 * `npm run bench`: what the hardened path costs. Both sides run in one go and take turns in slices,
 * so that whatever else the machine does hits both; what counts is the CPU time of the measured
 * process per request, and the ratio. Needs `npm run build` before it.
 */
const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '9' },
    seconds: { type: 'string', default: '2' },
    connections: { type: 'string', default: '32' },
    requests: { type: 'string', default: '100000' },
  },
});
const rounds = Number(values.rounds);
const seconds = Number(values.seconds);
const connections = Number(values.connections);
const MAIN = new URL('../dist/main.js', import.meta.url).pathname;
if (!existsSync(MAIN)) throw new Error('dist/main.js is missing: run "npm run build" first');

const say = (line = '') => console.log(line);
say(
  `Node ${process.version}, ${connections} connections, ${rounds} rounds of ${seconds} s a side, taking turns`,
);

const world = await makeWorld(say);
try {
  await compare(world);
  await memory(world);
  await start(world);
} finally {
  await world.stop();
}

async function compare({ env, requests, body }: World): Promise<void> {
  const sides = [
    {
      name: 'bare Fastify',
      server: await startServer(new URL('bare.ts', import.meta.url).pathname, { BENCH_BODY: body }),
    },
    { name: 'cached authorised read', server: await startServer(MAIN, env) },
  ];
  const samples: number[][] = [[], []];
  for (const { server } of sides) await load(server, requests, { duration: 3 });
  for (let round = 0; round < rounds; round++) {
    const order = round % 2 === 0 ? [0, 1] : [1, 0];
    for (const index of order) {
      const server = sides[index]?.server as Server;
      const before = await server.usage();
      const count = await load(server, requests, { duration: seconds });
      const after = await server.usage();
      samples[index]?.push((after.cpuMicros - before.cpuMicros) / count);
    }
    process.stderr.write(`round ${round + 1} of ${rounds}\r`);
  }
  for (const { server } of sides) await server.stop();

  say('\nCPU of the process per request, µs: median (min–max)');
  for (const [index, { name }] of sides.entries())
    say(`  ${name.padEnd(24)} ${describe(samples[index] ?? [], 1)}`);
  const [bare = [], hardened = []] = samples;
  const ratios = hardened.map((cost, round) => cost / (bare[round] ?? NaN));
  say(`  ratio                    ${describe(ratios, 2)}   (bound: 3)`);
}

async function memory({ env, requests }: World): Promise<void> {
  const server = await startServer(MAIN, env);
  const idle = await server.usage();
  const amount = Number(values.requests);
  await load(server, requests, { amount });
  const after = await server.usage();
  say(
    `\nResident memory, MB: idle ${mb(idle.rssBytes)}, after ${amount} requests ${mb(after.rssBytes)}   (bound: 140)`,
  );
  await server.stop();
}

async function start({ env, requests }: World): Promise<void> {
  const times: number[] = [];
  for (let run = 0; run < 7; run++) {
    const from = performance.now();
    const server = await startServer(MAIN, env);
    const [first] = requests;
    const { status } = await fetch(server.url + first?.path, { headers: first?.headers ?? {} });
    if (status !== 200) throw new Error(`the first request was answered ${status}`);
    times.push(performance.now() - from);
    await server.stop();
  }
  say(`\nStart to first 200, ms: ${describe(times, 0)}   (bound: 1500)`);
}

type Request = World['requests'][number];

/** Drives one side and returns how many requests it answered; anything but 200 ends the benchmark. */
async function load(
  server: Server,
  requests: Request[],
  how: { duration?: number; amount?: number },
): Promise<number> {
  const result = await autocannon({
    url: server.url,
    connections,
    ...how,
    setupClient: (client) => client.setRequests(requests.toSorted(() => Math.random() - 0.5)),
  });
  if (result.non2xx > 0 || result.errors > 0) {
    throw new Error(`${result.non2xx} answers were not 200, ${result.errors} failed`);
  }
  return result.requests.total;
}

function describe(samples: number[], digits: number): string {
  const sorted = samples.toSorted((a, b) => a - b);
  const at = (share: number) => (sorted[Math.floor((sorted.length - 1) * share)] ?? NaN).toFixed(digits);
  return `${at(0.5)} (${at(0)}–${at(1)})`;
}

function mb(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(0);
}
