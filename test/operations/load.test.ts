// Goes with the example: src/features/orders
import { spawnSync } from 'node:child_process';
import { readFileSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { parse } from 'yaml';
import { pathWith, runScript, temporaryFolder } from '../support/scripts.ts';
import { repositoryDir } from '../support/servers.ts';
import { findTool, requireTool, skipLoudly } from '../support/tools.ts';

// What a run of k6 does: npm run check:load.
const folder = join(repositoryDir, 'load-tests');
const RUN = join(folder, 'run.sh');
const TYPES = ['smoke', 'steady', 'stress', 'spike', 'soak', 'breakpoint', 'limits'];
const BASE_URL = 'http://127.0.0.1:1';
/** What k6 runs is JavaScript without types. */
const load = (name: string) => import(new URL(`../../load-tests/${name}`, import.meta.url).href);

const keysFile = join(temporaryFolder(t), 'keys');
writeFileSync(keysFile, 'hp_live_one\nhp_live_two\n');

t.test('each kind of load test offers what its name says', async (t) => {
  for (const [type, env, expected] of [
    ['smoke', { RATE: '500' }, [2, 2, 2]],
    ['steady', {}, [100, 100, 100]],
    ['soak', { RATE: '40' }, [40, 40, 40]],
    ['stress', {}, [10, 200, 10]],
    ['spike', {}, [100, 1000, 100]],
    ['breakpoint', {}, [10, 1005, 2000]],
  ] as const) {
    const { total, rates } = typesOf({ TEST_TYPE: type, ...env });
    t.same(rates, expected, type);
    t.ok(total >= 30, `${type} for ${total} s`);
  }
  t.equal(typesOf({ TEST_TYPE: 'spike', DURATION: '1m30s' }).total, 90);
  t.match(typesOf({ TEST_TYPE: 'limits', ROUNDS: '3' }).total, 206);
});

t.test('k6 takes each kind: arrivals that wait for nobody, and promises', async (t) => {
  const k6 = findTool('k6');
  if (!k6) {
    skipLoudly(t, 'needs k6, which Debian does not have: docs/load-testing.md', false);
    return;
  }
  for (const type of TYPES) {
    const { status, stdout, stderr } = spawnSync(
      k6,
      ['inspect', '--execution-requirements', '--include-system-env-vars', join(folder, 'api-load-test.js')],
      {
        env: { PATH: process.env.PATH, TEST_TYPE: type, BASE_URL, API_KEYS_FILE: keysFile },
        encoding: 'utf8',
      },
    );
    t.equal(status, 0, stderr);
    const { scenarios, thresholds } = JSON.parse(stdout);
    const promised = Object.keys(thresholds).filter((name) => thresholds[name].length > 0);
    if (type === 'limits') {
      t.match(scenarios.limits, { executor: 'per-vu-iterations', vus: 2 });
      t.same(thresholds.checks, ['rate==1']);
      continue;
    }
    t.match(scenarios[type].executor, /^(constant|ramping)-arrival-rate$/, type);
    const always = [
      'http_req_failed{part:load}',
      'http_req_duration{part:load}',
      'checks',
      'dropped_iterations',
    ];
    t.same(
      always.filter((name) => !promised.includes(name)),
      [],
      type,
    );
    if (['steady', 'soak'].includes(type)) {
      t.same(thresholds['http_reqs{part:load}'], ['rate>=100']);
      t.same(thresholds.users, ['count>=50']);
      t.same(thresholds['cache_hit_rate{phase:measured}'], ['rate>0.6']);
    }
    if (type === 'breakpoint') {
      t.match(thresholds['http_req_duration{slice:3}'], [{ threshold: 'p(95)<1000', abortOnFail: true }]);
    }
  }
});

t.test('a setting that is wrong is named', (t) => {
  const WRONG: [Record<string, string>, RegExp][] = [
    [{ BASE_URL: '' }, /Set BASE_URL/],
    [{ API_KEYS_FILE: '' }, /Set BASE_URL .* and API_KEYS_FILE/],
    [{ BASE_URL: 'api.example.com' }, /BASE_URL: api\.example\.com must be such as/],
    [{ BASE_URL: 'http://127.0.0.1:1/v1' }, /without a path/],
    [{ STATUS_URL: 'localhost:9090' }, /STATUS_URL: localhost:9090/],
    [{ TEST_TYPE: 'heavy' }, /TEST_TYPE=heavy is none of smoke, steady/],
    [{ RATE: 'many' }, /RATE=many must be a number of at least 1/],
    [{ USERS: '-1' }, /USERS=-1/],
    [{ DURATION: '5' }, /DURATION=5 must be such as 90s/],
    [{ DURATION: '2s' }, /at least 5s/],
    [{ LIMIT: '1' }, /LIMIT=1 must be a number of at least 10/],
    [{ HIT_PERCENT: 'x' }, /HIT_PERCENT=x/],
  ];
  for (const [env, says] of WRONG) t.match(typesOf(env).error, says);
  t.end();
});

t.test('the fullest window counts what was certainly in it, and no more', async (t) => {
  const { fullestWindow, leastAdmitted } = await load('windows.js');
  const at = (...moments: number[]) => moments.map((from) => ({ from, to: from + 10 }));
  t.equal(fullestWindow([], 100), 0);
  t.equal(fullestWindow(at(0, 50, 89, 90), 100), 3, 'the answer of the last came after the window');
  t.equal(fullestWindow(at(0, 200, 201, 202, 203), 100), 4, 'wherever it begins');
  t.equal(fullestWindow([...at(300, 0, 301, 2)], 100), 2, 'in any order');
  t.same([10, 40, 99, 100, 300].map(leastAdmitted), [8, 38, 94, 95, 285]);
});

t.test('a result tells where a run broke, and its page shows every value as text', async (t) => {
  const { resultOf } = await load('result.js');
  const { pageOf } = await load('page.js');
  const trend = (count: number, p95: number) => ({
    count,
    med: p95 / 2,
    'p(95)': p95,
    'p(99)': p95,
    max: p95,
  });
  const metric = (values: object, threshold = '', ok = true) => ({
    values,
    ...(threshold && { thresholds: { [threshold]: { ok } } }),
  });
  const data = {
    state: { testRunDurationMs: 4_000 },
    root_group: { checks: [{ name: 'a <b>', passes: 3, fails: 1 }] },
    metrics: {
      'http_reqs{part:load}': metric({ count: 60, rate: 15 }),
      'http_req_duration{part:load}': metric(trend(60, 900), 'p(95)<1000'),
      'http_req_failed{part:load}': metric({ rate: 0.05 }),
      checks: metric({ rate: 0.75 }),
      'http_req_duration{slice:0}': metric(trend(10, 20), 'p(95)<1000'),
      'http_req_duration{slice:1}': metric(trend(30, 400), 'p(95)<1000'),
      'http_req_duration{slice:2}': metric(trend(20, 1_500), 'p(95)<1000', false),
      'http_req_duration{slice:3}': metric(trend(5, 1_500), 'p(95)<1000', false),
      'cache_hit_rate{slice:1}': metric({ rate: 0.8, passes: 8, fails: 2 }),
      'failures{status:429}': metric({ count: 3 }),
    },
  };
  const plan = {
    type: 'breakpoint',
    url: 'http://x/?a&<script>',
    totalSeconds: 4,
    names: [],
    statuses: [0, 429],
    keys: 0,
    slices: 5,
    sliceSeconds: 2,
    rateAt: (second: number) => 10 * second,
  };
  const result = resultOf(data, plan);
  t.match(result, {
    passed: false,
    missed: ['http_req_duration{slice:2}: p(95)<1000', 'http_req_duration{slice:3}: p(95)<1000'],
    requests: 60,
    requestsPerSecond: 15,
    duration: { p95: 900 },
    failures: [{ status: 429, count: 3 }],
    brokeAt: { second: 4, offeredPerSecond: 50, answeredPerSecond: 15 },
  });
  t.same(
    result.slices.map(({ hitPercent }: { hitPercent: number | null }) => hitPercent),
    [null, 80, null, null],
  );
  t.match(resultOf({ ...data, metrics: {} }, plan), { passed: true, missed: [], brokeAt: null });
  const early = resultOf({ ...data, metrics: {} }, { ...plan, totalSeconds: 5 });
  t.match(early, { passed: false, missed: ['it ended before its time'] });
  const page: string = pageOf(result);
  t.equal(page.split('<svg').length - 1, 4);
  t.match(page, /breakpoint: <span class="bad">missed/);
  t.match(page, /a &#60;b&#62;/);
  t.notMatch(page, /<script|undefined|NaN|src=|href=/);
});

t.test('run.sh says what is missing, and how to get it', async (t) => {
  const keys = { API_KEYS_FILE: keysFile };
  const empty = join(temporaryFolder(t), 'empty');
  writeFileSync(empty, ' \n');
  const neither = programs(t, { docker: 'exit 1' });
  const k6 = programs(t, { k6: 'exit 1' });
  const WRONG: [string, string[], Record<string, string>, RegExp][] = [
    [k6, ['heavy'], keys, /^No such load test: heavy\nUsage: load-tests\/run\.sh \[smoke\|/],
    [k6, [], {}, /^Set API_KEYS_FILE: .*\n.*api-key -- create .*--limit/],
    [k6, [], { API_KEYS_FILE: '/nowhere' }, /\/nowhere cannot be read/],
    [k6, [], { API_KEYS_FILE: empty }, /holds no key/],
    [k6, [], keys, /^Set BASE_URL/],
    [neither, [], keys, /^k6 is not on PATH, and no Docker answers .*\n.*go install go\.k6\.io\/k6@v1\.8\.1/],
  ];
  for (const [PATH, args, env, says] of WRONG) {
    const { code, stderr } = await runScript(t, RUN, args, { PATH, RESULTS: temporaryFolder(t), ...env });
    t.equal(code, 1, stderr);
    t.match(stderr, says);
  }
});

t.test('run.sh runs k6, or its image, and ends as it does', async (t) => {
  const RESULTS = join(temporaryFolder(t), 'of', 'mine');
  const say = 'echo "$(basename "$0") $* $TEST_TYPE $BASE_URL $RESULTS ${STATUS_URL-none} $LOAD_KEYS_FILE"; ';
  const env = { API_KEYS_FILE: keysFile, RESULTS };
  const k6 = await runScript(t, RUN, ['steady'], {
    PATH: programs(t, { k6: `${say} exit 99` }),
    BASE_URL,
    ...env,
  });
  t.equal(k6.code, 99, k6.stderr);
  t.match(
    k6.stdout,
    `k6 run --address localhost:0 load-tests/api-load-test.js --quiet steady ${BASE_URL} ${RESULTS} none`,
  );
  t.match(k6.stdout, `Results of this and earlier runs: ${RESULTS}\n`);

  const PATH = programs(t, { docker: `[ "$1" = info ] || { ${say} exit 5; }` });
  const inStack = await runScript(t, RUN, ['spike'], { PATH, ...env });
  t.equal(inStack.code, 5, inStack.stderr);
  t.match(inStack.stdout, /^docker compose --profile load run --rm --user \d+:\d+ load spike /);
  t.match(inStack.stdout, keysFile);
  const elsewhere = await runScript(t, RUN, [], { PATH, BASE_URL, ...env });
  t.match(
    elsewhere.stdout,
    /--no-deps load smoke http:\/\/127\.0\.0\.1:1 \S+ {2}\//,
    'and no STATUS_URL of the stack',
  );
});

t.test('every variable is explained, and comes into the image', (t) => {
  const sources = readdirSync(folder)
    .filter((name) => name.endsWith('.js'))
    .map((name) => readFileSync(join(folder, name), 'utf8'))
    .join('\n');
  const read = new Set(
    [...sources.matchAll(/__ENV\.([A-Z0-9_]+)|(?:list|number)\('([A-Z0-9_]+)'/g)].map(
      ([, a, b]) => a ?? b ?? '',
    ),
  );
  t.ok(read.size > 10);
  const docs = readFileSync(join(repositoryDir, 'docs/load-testing.md'), 'utf8');
  const explained = new Set([...docs.matchAll(/^\| `([A-Z0-9_]+)`/gm)].map(([, name = '']) => name));
  t.same([...explained].toSorted(), [...read].toSorted());
  const compose = parse(readFileSync(join(repositoryDir, 'compose.yaml'), 'utf8'));
  t.same(Object.keys(compose.services.load.environment).toSorted(), [...read].toSorted());
  for (const type of TYPES) t.match(docs, `\n| \`${type}\``, type);
  t.end();
});

t.test('shellcheck finds nothing in run.sh', (t) => {
  const shellcheck = requireTool(t, 'shellcheck');
  if (shellcheck) t.equal(spawnSync(shellcheck, ['-x', RUN], { encoding: 'utf8' }).stdout, '');
  t.end();
});

/** What types.js makes of an environment, in a process of its own, for it reads it once: rates at begin, middle, end. */
function typesOf(env: Record<string, string>): { total: number; rates: number[]; error: string } {
  const script = `globalThis.__ENV = process.env;
    const { rateAt, stages, totalSeconds: total } = await import('./load-tests/types.js');
    const rates = stages.length ? [0.001, total / 2, total - 0.001].map((at) => Math.round(rateAt(at))) : [];
    console.log(JSON.stringify({ total, rates }));`;
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    cwd: repositoryDir,
    env: { BASE_URL, API_KEYS_FILE: keysFile, ...env },
    encoding: 'utf8',
  });
  return status === 0 ? { ...JSON.parse(stdout), error: '' } : { total: 0, rates: [], error: stderr };
}

/** A PATH with these bash scripts and what run.sh calls, and nothing else: k6 and docker may be installed here. */
function programs(t: Test, scripts: Record<string, string>): string {
  const tools = temporaryFolder(t);
  for (const name of ['bash', 'basename', 'dirname', 'env', 'grep', 'id', 'mkdir', 'realpath']) {
    symlinkSync(findTool(name) ?? '', join(tools, name));
  }
  return pathWith(t, scripts, tools);
}
