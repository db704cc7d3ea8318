// Goes with the example: src/features/orders
import autocannon from 'autocannon';
import { existsSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { sayCosts, spread, takeTurns } from './rounds.ts';
import { makeWorld, type World } from './world.ts';
import { startServer, type Server } from './servers.ts';

const PARTS = ['read', 'memory', 'start', 'metrics', 'limits', 'keys', 'cache'] as const;

/**
 * `npm run bench [-- PART…]`: what the hardened path costs, and its parts; all unless some are named. All sides
 * of a comparison run in one go and take turns in slices, so that whatever else the machine does hits all of
 * them; what counts is the CPU time of the measured process, and the ratio. Needs `npm run build` before it;
 * `limits`, `keys` and `cache` need a Redis (REDIS_URL, or `redis-server` on PATH).
 */
const { values, positionals } = parseArgs({
  allowPositionals: true,
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

const unknown = positionals.filter((part) => !PARTS.some((known) => known === part));
if (unknown.length > 0) {
  console.error(`No such part: ${unknown.join(', ')}. There are: ${PARTS.join(', ')}.`);
  process.exit(2);
}
const wanted = (part: (typeof PARTS)[number]) => positionals.length === 0 || positionals.includes(part);
if (wanted('read') || wanted('memory') || wanted('start')) {
  const world = await makeWorld(say);
  try {
    if (wanted('read')) await compare(world);
    if (wanted('memory')) await memory(world);
    if (wanted('start')) await start(world);
  } finally {
    await world.stop();
  }
}
if (wanted('metrics')) await (await import('./metrics.ts')).benchMetrics(say);
if (wanted('limits')) await (await import('./limits.ts')).benchLimits(say);
if (wanted('keys')) await (await import('./keys.ts')).benchKeys(say);
if (wanted('cache')) await (await import('./cache.ts')).benchCache(say);
process.exit();

async function compare({ env, requests, body }: World): Promise<void> {
  const servers = [
    {
      name: 'bare Fastify',
      server: await startServer(new URL('bare.ts', import.meta.url).pathname, { BENCH_BODY: body }),
    },
    { name: 'cached authorised read', server: await startServer(MAIN, env) },
  ];
  for (const { server } of servers) await load(server, requests, { duration: 3 });
  const sides = servers.map(({ name, server }) => ({
    name,
    run: async () => {
      const before = await server.usage();
      const count = await load(server, requests, { duration: seconds });
      return ((await server.usage()).cpuMicros - before.cpuMicros) / count;
    },
  }));
  const micros = await takeTurns(sides, rounds);
  for (const { server } of servers) await server.stop();
  say('\nCPU of the process per request, µs: median (min–max); bound of the ratio: 3');
  sayCosts(say, sides, micros, 0);
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
  say(`\nStart to first 200, ms: ${spread(times, 0)}   (bound: 1500)`);
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

function mb(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(0);
}
