// Goes with the example: src/features/orders
import { sleep } from 'k6';
import exec from 'k6/execution';
import http from 'k6/http';
import { Counter, Rate } from 'k6/metrics';
import { currentSlice, headersOf, keys } from './requests.js';
import { settings } from './settings.js';
import { warmUpSeconds } from './types.js';

const hitRate = new Rate('cache_hit_rate');
const looks = new Counter('cache_looks');

const isPublic = settings.statusUrls.length === 0;
const NEW_SECONDS = 5;

/** The counters of each process at the last reading. */
const known = {};

/**
 * Reads the cache counters once a second and adds the differences, so that the hit rate covers this run only, and only
 * the time after the warm-up. STATUS_URL names the metrics ports: processes are told apart by address and added up.
 * Without STATUS_URL there must be only one process behind BASE_URL.
 */
export function watchCache() {
  const from = Date.now();
  const phase = from - exec.scenario.startTime > 1000 * warmUpSeconds ? 'measured' : 'warm-up';
  for (const { address, status } of readAll()) {
    const before = known[address];
    if (before && isPublic && wentBack(before, status)) {
      exec.test.abort(
        'Several processes answer at BASE_URL: set STATUS_URL to their internal listeners, or HIT_PERCENT=0',
      );
    }
    known[address] = { ...status, phase };
    // A restarted process counts from zero. A process without an earlier reading adds nothing.
    const isSame = before && status.uptime_seconds >= before.uptime_seconds;
    const { hits, misses } = isSame ? before.cache : { hits: 0, misses: 0 };
    if (!before) continue;
    const tags = { phase: before.phase, slice: String(currentSlice()) };
    looks.add(1, tags);
    for (let i = hits; i < status.cache.hits; i += 1) hitRate.add(true, tags);
    for (let i = misses; i < status.cache.misses; i += 1) hitRate.add(false, tags);
  }
  sleep(Math.max(0, 1 - (Date.now() - from) / 1000));
}

/** For the setup: if the counters cannot be read, ends the run and says what to change. */
export function readStatus() {
  if (readAll().length < Math.max(1, settings.statusUrls.length)) {
    exec.test.abort(
      'The hit rate of the cache cannot be read. Set STATUS_URL to the internal listeners ' +
        '(http://127.0.0.1:9090), or make the first key with the scope status:read, or set HIT_PERCENT=0',
    );
  }
}

/** Counters fell, and not because the process was restarted: then another process has responded. */
function wentBack(before, now) {
  const isLess = now.cache.hits < before.cache.hits || now.uptime_seconds < before.uptime_seconds;
  return isLess && now.uptime_seconds > NEW_SECONDS;
}

function readAll() {
  if (isPublic) return read(`${settings.urls[0]}/v1/status`, headersOf(keys[0]), () => 'public');
  // A new connection each time, because one name may lead to several processes.
  return settings.statusUrls.flatMap((url) =>
    read(`${url}/internal/status`, { Connection: 'close' }, ({ remote_ip: ip, remote_port: port }) => {
      return `${ip}:${port}`;
    }),
  );
}

function read(url, headers, addressOf) {
  const answer = http.get(url, { headers, tags: { name: 'status' }, timeout: '2s' });
  return answer.status === 200 ? [{ address: addressOf(answer), status: answer.json() }] : [];
}
