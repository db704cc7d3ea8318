import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  appendFileSync,
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import t, { type Test } from 'tap';
import { openEmbeddedPostgres } from '../../tools/dev/embedded-postgres.ts';
import { commandOf, signal } from '../../tools/dev/processes.ts';
import { makeDataFolder } from '../support/folders.ts';
import { descendants, forgetProcess, registerProcess, signalTree } from '../support/processes.ts';
import { repositoryDir, useServers } from '../support/servers.ts';
import { requireTool } from '../support/tools.ts';

const run = promisify(execFile);

const PROMISE = 'It starts on a machine that has only Node: one command, a real Postgres, no Docker.';

// Each of the three has a folder of its own, and most of their time is waiting.
t.jobs = 3;

t.test(PROMISE, { timeout: 110_000 }, async (t) => {
  await useServers();
  const directory = copyRepository(t);
  // Nothing but Node on PATH: no psql, no Docker.
  const onlyNode = join(directory, 'bin');
  mkdirSync(onlyNode);
  symlinkSync(process.execPath, join(onlyNode, 'node'));
  // A start takes seconds: each test goes on with what the one before it left running.
  const start = (...rest: [env?: Record<string, string>, command?: string[]]) =>
    startDev(t, directory, ...rest);
  let dev = start({ PATH: onlyNode });
  const key = await dev.key();

  await t.test('the first start prints a key, and its curl line works when pasted', async (t) => {
    t.match(key, /^hp_dev_/);
    t.equal(await post(await dev.url(), key), 201);
    if (requireTool(t, 'curl')) {
      const { stdout } = await run('sh', ['-c', await dev.line(/^curl .*/m)]);
      t.match(stdout, /"name":"kept"/);
    }
    t.equal(
      statSync(join(directory, '.hardpoint/dev-key.json')).mode & 0o077,
      0,
      'only the owner can read the key',
    );
    t.equal(dev.output().match(/^API key: /gm)?.length, 1, 'the key is printed once');
  });

  await t.test(
    'Ctrl-C ends everything with 0, however often it comes; the next start has the data',
    async (t) => {
      const everything = dev.processes();
      t.ok(everything.length > 4, 'dev, service, postmaster and its children are known');

      // A terminal signals the whole group, and npm passes the signal on once more.
      process.kill(-dev.pid, 'SIGINT');
      signal(dev.pid, 'SIGINT');
      await delay(20);
      signal(dev.pid, 'SIGINT');

      t.equal(await dev.exitCode, 0);
      t.strictSame(await survivors(everything), []);

      dev = start();
      t.equal(await dev.key(), key, 'the key of the first start still works');
      t.match(await list(await dev.url(), key), /"name":"kept"/);
    },
  );

  await t.test('a second start beside it is refused and names the pid of the first', async (t) => {
    const second = start();

    t.equal(await second.exitCode, 1);
    t.match(second.output(), `pid ${dev.pid}`);
    t.match(await list(await dev.url(), key), /"name":"kept"/, 'the first goes on');
  });

  await t.test(
    'a changed source file starts the service again, one that cannot start is waited for',
    async (t) => {
      const before = dev.service();
      const file = join(directory, 'src/lib/version.ts');
      const original = readFileSync(file, 'utf8');

      appendFileSync(file, '\nthrow new Error("broken on purpose");\n');
      t.match(await dev.line(/^version\.ts changed.*/m), 'starting again');
      await dev.line(/^The service ended with 1\./m);
      // As editors save: a new file takes the place of the old one.
      writeFileSync(`${file}.new`, original);
      renameSync(`${file}.new`, file);

      await dev.line(/(?:\blistening \{[^]*){2}/);
      t.not(dev.service(), before);
      t.equal(dev.output().match(/^API key: /gm)?.length, 1, 'the key is not printed again');
    },
  );

  await t.test('after a SIGKILL the service ends itself and the next start mends the rest', async (t) => {
    const [service, postmaster] = [dev.service(), dev.postmaster()];

    process.kill(dev.pid, 'SIGKILL');
    await dev.exitCode;
    t.strictSame(await survivors([service]), [], 'the service noticed');
    t.match(commandOf(postmaster), 'postgres', 'Postgres did not');

    const npm = requireTool(t, 'npm');
    dev = npm ? start({ DEV_WATCH: 'false' }, [npm, 'run', 'dev']) : start();
    t.equal(await dev.key(), key);
    t.match(await list(await dev.url(), key), /"name":"kept"/);
    t.strictSame(await survivors([postmaster]), [], 'the one left behind was stopped');
  });

  await t.test('a signal to npm alone ends everything', async (t) => {
    const everything = dev.processes();

    process.kill(dev.pid, 'SIGTERM');

    await dev.exitCode;
    t.strictSame(await survivors(everything), []);
  });

  await t.test('a key that the database no longer takes is replaced', async (t) => {
    rmSync(join(directory, '.hardpoint/dev-key.json'));

    dev = start();
    const next = await dev.key();

    t.not(next, key);
    t.match(await list(await dev.url(), next), /"name":"kept"/);
  });
});

t.test('a start that cannot succeed', { timeout: 110_000 }, async (t) => {
  await useServers();
  const directory = copyRepository(t);

  await t.test('names a port that is taken, and ends everything', async (t) => {
    const blocker = createServer();
    await new Promise<void>((resolve) => blocker.listen(0, '127.0.0.1', resolve));
    t.teardown(() => blocker.close());
    const address = blocker.address();
    const port = String(typeof address === 'object' && address?.port);

    const dev = startDev(t, directory, { API_PORT: port });

    t.not(await dev.exitCode, 0);
    t.match(dev.output(), port);
    const cluster = join(directory, '.hardpoint/postgres/cluster');
    t.ok(existsSync(cluster), 'Postgres was started');
    t.notOk(existsSync(join(cluster, 'postmaster.pid')), 'and stopped');
    t.notMatch(dev.output(), 'API key:');
  });

  await t.test('names a configuration that is wrong before the service starts', async (t) => {
    const dev = startDev(t, directory, { RATE_LIMIT_PER_MINUTE: 'many' });

    t.equal(await dev.exitCode, 1);
    t.match(dev.output(), 'RATE_LIMIT_PER_MINUTE');
  });
});

t.test('the embedded Postgres', async (t) => {
  const dataDir = makeDataFolder('hardpoint-embedded-');
  t.teardown(() => rmSync(dataDir, { recursive: true, force: true }));
  const first = await openEmbeddedPostgres({ dataDir, say: (line) => t.comment(line) });
  await first.stop();
  const cluster = join(first.dataDir, 'cluster');

  await t.test('mends a lock file whose pid is another program by now, and lets that one live', async (t) => {
    const other = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'ignore' });
    t.teardown(() => other.kill());
    writeFileSync(
      join(cluster, 'postmaster.pid'),
      `${other.pid}\n${cluster}\n1\n5432\n\n127.0.0.1\n\nready\n`,
    );

    const postgres = await openEmbeddedPostgres({ dataDir, say: (line) => t.comment(line) });
    await postgres.stop();

    t.match(commandOf(other.pid ?? 0), 'setInterval');
  });

  await t.test('refuses data of another major version and names the ways out', async (t) => {
    writeFileSync(join(cluster, 'PG_VERSION'), '17\n');

    await t.rejects(openEmbeddedPostgres({ dataDir, say: (line) => t.comment(line) }), {
      message: /made by Postgres 17, but Postgres 18 is installed.*DATABASE_URL/,
    });
  });
});

function copyRepository(t: Test): string {
  const directory = makeDataFolder('hardpoint-dev-');
  chmodSync(directory, 0o755);
  for (const name of ['src', 'tools', 'migrations', 'package.json']) {
    cpSync(join(repositoryDir, name), join(directory, name), { recursive: true });
  }
  symlinkSync(join(repositoryDir, 'node_modules'), join(directory, 'node_modules'));
  t.teardown(() => rmSync(directory, { recursive: true, force: true, maxRetries: 5 }));
  return directory;
}

function startDev(
  t: Test,
  directory: string,
  env: Record<string, string> = {},
  command = [process.execPath, '--import', 'tsx', join(directory, 'tools/dev/main.ts')],
) {
  const [file = '', ...args] = command;
  const child = spawn(file, args, {
    cwd: directory,
    env: { ...process.env, API_PORT: '0', METRICS_PORT: '0', ...env },
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const pid = child.pid ?? 0;
  registerProcess(pid, 'dev', directory);
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (data: Buffer) => (output += data.toString()));
  const exitCode = once(child, 'exit').then(([code]) => (typeof code === 'number' ? code : undefined));
  const known: number[] = [];
  t.teardown(async () => {
    child.kill('SIGTERM');
    await exitCode;
    for (const each of await survivors(known)) signalTree(each, 'SIGKILL');
    for (const each of [pid, ...known]) forgetProcess(each);
  });

  async function line(pattern: RegExp): Promise<string> {
    for (;;) {
      const found = pattern.exec(output);
      if (found) return found[1] ?? found[0];
      if (child.exitCode !== null || child.signalCode !== null)
        throw new Error(`No ${pattern} in:\n${output}`);
      await delay(20);
    }
  }

  function postmaster(): number {
    const found = Number.parseInt(
      readFileSync(join(directory, '.hardpoint/postgres/cluster/postmaster.pid'), 'utf8'),
      10,
    );
    registerProcess(found, 'postgres');
    known.push(found);
    return found;
  }

  return {
    pid,
    exitCode,
    line,
    postmaster,
    output: () => output,
    key: () => line(/^API key: (\S+)$/m),
    url: () => line(/^API: (http:\/\/[\d.:]+),/m),
    service: () => descendants(pid).find((each) => commandOf(each).includes('src/main.ts')) ?? 0,
    processes: () => [pid, ...descendants(pid), postmaster(), ...descendants(postmaster())],
  };
}

/** Those that are still there after five seconds. */
async function survivors(pids: number[]): Promise<number[]> {
  const end = Date.now() + 5_000;
  for (;;) {
    const living = pids.filter((pid) => commandOf(pid) !== '');
    if (living.length === 0 || Date.now() > end) return living;
    await delay(20);
  }
}

async function post(url: string, key: string): Promise<number> {
  const response = await fetch(`${url}/v1/api-keys`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify({ name: 'kept', scopes: ['audit:read'] }),
  });
  return response.status;
}

async function list(url: string, key: string): Promise<string> {
  const response = await fetch(`${url}/v1/api-keys`, { headers: { authorization: `Bearer ${key}` } });
  return response.text();
}
